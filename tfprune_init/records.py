"""Check that values read from a file of JSON have the types that their readers rely on."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from tfprune_init.errors import OptionError


def check_record(value: Any, expected: Any, place: str) -> None:
    """Refuse a value that does not have a type, however deep the difference lies.

    Args:
        value: What JSON knows: dicts, lists, strings, numbers, True, False and None.
        expected: Its type: a TypedDict or dataclass (a dict with all fields that have no default), `list[...]`,
            `dict[str, ...]`, a union, `Any`, or a plain type. Tuples are lists, as in JSON, and integers are
            floats too; booleans are neither.
        place: Where the value is from, to begin the message with.

    Raises:
        OptionError: If it has another type; says where in the value.

    Example:
        >>> from tfprune_init.records import check_record
        >>> check_record({"a": [1, 2]}, dict[str, list[int]], "the file")
        >>> check_record({"a": [1, "2"]}, dict[str, list[int]], "a.json is damaged")
        Traceback (most recent call last):
        tfprune_init.errors.OptionError: a.json is damaged: ['a'][1] is no int. Received: '2'
    """
    misfit = _find_misfit(value, expected, "")
    if misfit is not None:
        where, problem, received = misfit
        raise OptionError(f"{place}: {where or 'it'} {problem}. Received: {received!r:.80}")


def parse_json(text: bytes, expected: Any, place: str) -> Any:
    """Return what a text of JSON says.

    Args:
        text: The text, in UTF-8.
        expected: What it must have, see `check_record`.
        place: Where it is from, to begin messages with.

    Raises:
        OptionError: If it is no JSON, or says something else.
    """
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{place}: {error}.") from error
    check_record(value, expected, place)
    return value


def _find_misfit(value: Any, expected: Any, where: str) -> tuple[str, str, Any] | None:
    """Find the first difference: its place, what is wrong, and the value there."""
    origin, inner = get_origin(expected), get_args(expected)
    if expected is Any:
        return None
    if origin in (Union, types.UnionType):
        misfits = [_find_misfit(value, one, where) for one in inner]
        if None in misfits:
            return None
        # The one that fits best is the one that differs deepest.
        deepest = max((misfit for misfit in misfits if misfit is not None), key=lambda misfit: len(misfit[0]))
        kinds = [get_origin(one) or one for one in inner]
        alike = deepest[0] == where
        return (where, f"is neither {' nor '.join(kind.__name__ for kind in kinds)}", value) if alike else deepest
    if is_typeddict(expected) or dataclasses.is_dataclass(expected):
        return _find_field_misfit(value, expected, where)
    kind = list if origin is tuple else origin or expected
    if not _is_instance(value, kind):
        return where, f"is no {kind.__name__}", value
    entries = value.items() if origin is dict else enumerate(value) if origin is not None else ()
    for key, entry in entries:
        misfit = _find_misfit(entry, inner[0 if kind is list else 1], f"{where}[{key!r}]")
        if misfit is not None:
            return misfit
    return None


def _find_field_misfit(value: Any, expected: Any, where: str) -> tuple[str, str, Any] | None:
    if not isinstance(value, dict):
        return where, "is no dict", value
    optional = getattr(expected, "__optional_keys__", None) or [
        name for name, field in getattr(expected, "__dataclass_fields__", {}).items() if _has_default(field)
    ]
    for name, hint in get_type_hints(expected).items():
        if name not in value:
            if name in optional:
                continue
            return where, f"has no {name!r}", value
        misfit = _find_misfit(value[name], hint, f"{where}[{name!r}]")
        if misfit is not None:
            return misfit
    return None


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _is_instance(value: Any, expected: type) -> bool:
    if isinstance(value, bool):
        return expected is bool
    if expected is float and isinstance(value, int):
        return abs(value) <= sys.float_info.max  # others can't be converted
    return isinstance(value, expected)
