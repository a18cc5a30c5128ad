"""Attributes of modules and classes, replaced for the threads that ask for it; all others get the original.

The first thread that enters puts a function in the place of the attribute, the last one that leaves puts the original
back. In between, the function looks at which thread calls it. So a thread that traces a function or trains a model
while another one scores computes as if it were alone.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import tensorflow as tf

from tfprune_init.backend.contracts import find_private

Replacement = Callable[..., Any]


class _ThreadOverride:
    """One attribute of a module or class, with a stack of replacements for each thread."""

    def __init__(self, owner: Any, name: str):
        self._owner = owner
        self._name = name
        self._lock = threading.Lock()
        self._entered = 0
        self._before: dict[str, Any] = {}
        self._local = threading.local()

    @property
    def stack(self) -> list[Replacement]:
        """Replacements that this thread entered; the last one counts."""
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        stack: list[Replacement] = self._local.stack
        return stack

    @contextmanager
    def use(self, replacement: Replacement) -> Iterator[None]:
        """Let this thread call a replacement."""
        with self._lock:
            if self._entered == 0:
                self._install()
            self._entered += 1
        self.stack.append(replacement)
        try:
            yield
        finally:
            self.stack.pop()
            with self._lock:
                self._entered -= 1
                if self._entered == 0:
                    self._restore()

    def _install(self) -> None:
        found = inspect.getattr_static(self._owner, self._name)
        self._before = {self._name: found} if self._name in vars(self._owner) else {}
        original: Any = found.fget if isinstance(found, property) else getattr(self._owner, self._name)

        def call(*args: Any, **kwargs: Any) -> Any:
            stack = self.stack
            return stack[-1](original, *args, **kwargs) if stack else original(*args, **kwargs)

        call.__name__, call.__doc__ = self._name, original.__doc__
        dispatching = property(call) if isinstance(found, property) else tf.autograph.experimental.do_not_convert(call)
        setattr(self._owner, self._name, dispatching)

    def _restore(self) -> None:
        if self._before:
            setattr(self._owner, self._name, self._before[self._name])
        else:
            delattr(self._owner, self._name)


_overrides: dict[str, _ThreadOverride] = {}
_adding = threading.Lock()


def override_for_thread(key: str, replacement: Replacement) -> Any:
    """Replace a function or property of a module or class while this thread is within.

    Args:
        key: Key of its contract, such as "tensorflow gen_math_ops.add_n".
        replacement: Called as `replacement(original, *args, **kwargs)` by this thread.

    Returns:
        A context manager. It can be entered again within, also with another replacement.

    Raises:
        BackendError: If the contract does not hold.
    """
    owner, name = find_private(key)
    with _adding:
        override = _overrides.setdefault(key, _ThreadOverride(owner, name))
    return override.use(replacement)


class _Entered:
    """Context in which a thread has the overrides of another one."""

    def __init__(self, active: list[tuple[_ThreadOverride, Replacement]]):
        self._active = active
        self._undo = ExitStack()

    def __enter__(self) -> None:
        for override, replacement in self._active:
            self._undo.enter_context(override.use(replacement))

    def __exit__(self, *error: Any) -> None:
        self._undo.close()


def carry_overrides(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that has the overrides of this thread in whichever thread it is called.

    tf.distribute traces what replicas run in threads of its own.
    """
    active = [(override, replacement) for override in list(_overrides.values()) for replacement in override.stack]

    def carried(*args: Any, **kwargs: Any) -> Any:
        with _Entered(active):
            return function(*args, **kwargs)

    return carried


def run_functions_eagerly() -> Any:
    """Let functions that were compiled run line by line in this thread, so that the layers they call are seen."""
    return override_for_thread("tensorflow Function._run_functions_eagerly", lambda original, function: True)
