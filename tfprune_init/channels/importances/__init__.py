"""Importances: what makes a channel worth its cost. Every module of this folder is imported, and registers its own."""

from tfprune_init.registry import import_modules

import_modules(__name__, __path__)
