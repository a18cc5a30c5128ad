"""Procedures by name, a short file each, which registers it when `tfprune_init.training` is imported."""
