"""Masks that hold while a model trains: on its variables, in its wrappers, and in its optimizer."""
