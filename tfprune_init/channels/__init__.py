"""Channels: whole filters and neurons that are chosen and removed, by themselves or with what follows refitted."""
