"""Checks of what was read from JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import pytest

from tfprune_init.errors import OptionError
from tfprune_init.records import check_record


@dataclass
class Point:
    x: float
    name: str | None


class Drawing(TypedDict):
    points: list[Point]
    sizes: dict[str, int]
    about: Any


class Extended(Drawing, total=False):
    corner: tuple[float, ...]


GOOD: dict[str, Any] = {"points": [{"x": 1, "name": None}, {"x": 0.5, "name": "b"}], "sizes": {"a": 3}, "about": [{}]}


@pytest.mark.parametrize("more", [{}, {"corner": [1, 2.5]}, {"corner": []}, {"unknown": 3}])
def test_what_fits_is_taken(more: dict[str, Any]) -> None:
    check_record({**GOOD, **more}, Extended, "it is damaged")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": None}, "p: ['points'] is no list. Received: None"),
        ({"points": [{"x": 1}]}, "p: ['points'][0] has no 'name'. Received: {'x': 1}"),
        ({"points": [{"x": True, "name": None}]}, "p: ['points'][0]['x'] is no float. Received: True"),
        ({"points": [{"x": 10**400, "name": None}]}, "p: ['points'][0]['x'] is no float. Received: 1000"),
        ({"points": [{"x": 1, "name": 2}]}, "p: ['points'][0]['name'] is neither str nor NoneType. Received: 2"),
        ({"sizes": {"a": 1, "b": 1.0}}, "p: ['sizes']['b'] is no int. Received: 1.0"),
        ({"sizes": {"a": False}}, "p: ['sizes']['a'] is no int. Received: False"),
        ({"corner": ["1"]}, "p: ['corner'][0] is no float. Received: '1'"),
        ({"corner": "12"}, "p: ['corner'] is no list. Received: '12'"),
    ],
)
def test_what_does_not_is_refused_with_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as refused:
        check_record({**GOOD, **change}, Extended, "p")
    assert str(refused.value).startswith(message)


def test_the_outermost_value() -> None:
    with pytest.raises(OptionError, match=r"^p: it is no dict. Received: \[\]$"):
        check_record([], Drawing, "p")
    with pytest.raises(OptionError, match=r"^p: \['a'\]\[1\] is no int. Received: 'x'$"):
        check_record({"a": [1, "x"]}, dict[str, int | list[int]], "p")
