"""What is kept or pruned as one, beside single weights: each module here registers its granularities when imported."""

from tfprune_init.registry import import_modules

import_modules(__name__, __path__)
