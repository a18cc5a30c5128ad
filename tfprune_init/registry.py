"""Values registered by name: methods, criteria, granularities, allocations, schedules."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator, MutableMapping
from importlib import import_module
from typing import Any, TypeVar

from tfprune_init.checks import suggest
from tfprune_init.errors import OptionError

T = TypeVar("T")


class Registry(MutableMapping[str, T]):
    """Hold values by name, in the order they were registered.

    Args:
        what: What the values are, for messages, such as "method".

    Example:
        >>> from tfprune_init.registry import Registry
        >>> colors = Registry("color")
        >>> colors.register("red", 0xFF0000)
        >>> colors.find("rad")
        Traceback (most recent call last):
        tfprune_init.errors.OptionError: There is no color 'rad'. Did you mean 'red'? There is: red.
    """

    def __init__(self, what: str):
        self.what = what
        self._values: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        return self._values[name]

    def __setitem__(self, name: str, value: T) -> None:
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def register(self, name: str, value: T) -> None:
        """Add a value.

        Raises:
            OptionError: If the name is taken.
        """
        if name in self._values:
            raise OptionError(f"There is a {self.what} of that name already. Received: {name!r}; choose another.")
        self._values[name] = value

    def find(self, name: Any) -> T:
        """Return the value of that name.

        Raises:
            OptionError: If there is none; names the nearest and all others.
        """
        if not isinstance(name, str) or name not in self._values:
            raise OptionError(f"There is no {self.what} {name!r}. {suggest(name, self._values, list_all=True)}")
        return self._values[name]


def import_modules(package: str, path: Iterable[str]) -> None:
    """Import every module of a package in the order of their names, so that all they register is there.

    Args:
        package: Name of the package, its `__name__`.
        path: Its folders, its `__path__`.
    """
    for module in sorted(found.name for found in pkgutil.iter_modules(path)):
        import_module(f"{package}.{module}")
