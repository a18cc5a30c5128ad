"""Methods: criterion x schedule x steps x regrowth x granularity x allocation, under a name.

`catalogue` has the methods of the field; `resolution` puts the caller's options into one; `mask_search` runs it.
"""

from tfprune_init.methods import catalogue
from tfprune_init.methods.method import Method, find_method, list_methods, register_method
from tfprune_init.methods.resolution import ResolvedMethod, resolve_method

__all__ = [
    "Method",
    "ResolvedMethod",
    "catalogue",
    "find_method",
    "list_methods",
    "register_method",
    "resolve_method",
]
