"""Methods: named recipes of criterion x schedule x steps x regrow x scope.

`catalogue` has the methods of the field; `recipe` puts the caller's options into one of them.
"""

from tfprune_init.methods import catalogue
from tfprune_init.methods.recipe import Recipe, recipe_for
from tfprune_init.methods.registry import Method, method_named, methods, register

__all__ = ["Method", "Recipe", "catalogue", "method_named", "methods", "recipe_for", "register"]
