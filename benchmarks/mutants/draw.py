"""Mutants: the places where Cosmic Ray's operators change the code, and a draw from them."""

from __future__ import annotations

import ast
import random
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code

PACKAGE = "tfprune_init"
AREAS = {
    "selection": ("selection/[!s]*.py", "selection/structured.py", "selection/scopes.py", "methods/mask_selector.py"),
    "schedules": ("selection/schedules.py", "methods/layer_collapse.py", "methods/mask_search.py"),
    "scoring": ("scoring/*.py", "scoring/measures/*.py", "scoring/criteria/*.py"),
    "masks": ("masks.py",),
    "enforcement": ("masking/*.py",),
    "compaction": ("graph/*.py", "compaction/*.py"),
    "sparse encoder": (
        "export/sparse_reader.py",
        "export/sparse_writer.py",
        "export/sparsification.py",
        "export/flatbuffer.py",
    ),
}
FEWEST_PER_AREA = 20

# Replacing across these families gives TypeErrors that any test finds, or, for `is`, differences of no meaning.
_FAMILIES = (
    {"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"},
    {"RShift", "LShift", "BitOr", "BitAnd", "BitXor"},
    {"Eq", "NotEq", "Lt", "LtE", "Gt", "GtE"},
    {"Is", "IsNot"},
)
# What an error says is not mutated, nor a decorator's text.
_LEFT_ALONE = {"raise_stmt", "assert_stmt", "decorator", "tfpdef", "import_from", "import_name"}


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Attributes:
        number: Its place in the draw.
        area: The part of the package it belongs to.
        file: Path within the checkout.
        line: Line of the change.
        operator: Name of Cosmic Ray's operator.
        start: Offset of the replaced text in the file.
        end: Offset of its end.
        text: What takes its place.
        before: The changed lines as they were.
        after: The changed lines as they are.
    """

    number: int
    area: str
    file: str
    line: int
    operator: str
    start: int
    end: int
    text: str
    before: str
    after: str


@dataclass(frozen=True)
class _Site:
    """One way to mutate one place."""

    file: str
    position: tuple[int, int]
    operator: str
    occurrence: int


def draw(checkout: Path, count: int, seed: int) -> list[Mutant]:
    """Draw mutants: each area by the number of its places, but 20 at least; one mutant in a place at most.

    Args:
        checkout: Folder with the package.
        count: How many in all.
        seed: Of the draw.

    Raises:
        ValueError: If there are fewer places than `count`.
    """
    rng = random.Random(seed)
    places = {area: _places(checkout, patterns) for area, patterns in AREAS.items()}
    mutants: list[Mutant] = []
    for area, number in shares({area: len(of) for area, of in places.items()}, count).items():
        order = sorted(places[area])
        rng.shuffle(order)
        found: list[Mutant] = []
        for place in order:
            if len(found) == number:
                break
            site = rng.choice(places[area][place])
            mutant = _mutant(checkout, site, area, len(mutants) + len(found))
            if mutant is not None:
                found.append(mutant)
        if len(found) < number:
            raise ValueError(f"{area} has {len(found)} places that can be mutated. Received: {number} asked for.")
        mutants += found
    return mutants


def shares(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Share out `count` in proportion to `sizes`, but 20 at least for each.

    Raises:
        ValueError: If there are fewer than `count`.
    """
    if count > sum(sizes.values()):
        raise ValueError(f"There are {sum(sizes.values())} places. Received: {count} asked for.")
    given = {name: min(size, FEWEST_PER_AREA) for name, size in sizes.items()}
    while sum(given.values()) < count:
        # The one that has the least of its due gets the next.
        open_ = [name for name in sizes if given[name] < sizes[name]]
        given[min(open_, key=lambda name: (given[name] + 1) / sizes[name])] += 1
    return given


def mutated(source: str, mutants: Iterable[Mutant]) -> str:
    """Return the source of a file with mutants of it, which must not overlap."""
    for mutant in sorted(mutants, key=lambda one: one.start, reverse=True):
        source = source[: mutant.start] + mutant.text + source[mutant.end :]
    return source


def _places(checkout: Path, patterns: Iterable[str]) -> dict[tuple[str, tuple[int, int]], list[_Site]]:
    places = defaultdict(list)
    for pattern in patterns:
        for path in sorted((checkout / PACKAGE).glob(pattern)):
            for site in _sites(checkout, path):
                places[site.file, site.position].append(site)
    return places


def _sites(checkout: Path, path: Path) -> Iterator[_Site]:
    nodes = list(ast_nodes(get_ast(path.read_text(encoding="utf-8"))))
    for name in cosmic_ray.plugins.operator_names():
        operator = cosmic_ray.plugins.get_operator(name)
        if operator.arguments() or not _is_used(name):
            continue
        found = ((node, start) for node in nodes for start, _ in operator().mutation_positions(node))
        for occurrence, (node, start) in enumerate(found):
            if not _is_left_alone(node) and not _repeats(name, node):
                yield _Site(path.relative_to(checkout).as_posix(), start, name, occurrence)


def _is_used(name: str) -> bool:
    kind, *ends = name.removeprefix("core/").split("_")
    if kind in ("ReplaceBinaryOperator", "ReplaceComparisonOperator"):
        return any(set(ends) <= family for family in _FAMILIES)
    return kind != "RemoveDecorator"


def _repeats(name: str, node: Any) -> bool:
    """Whether it is a `not` before what another operator turns into its opposite: a comparison, or another `not`."""
    if name != "core/AddNot":
        return False
    condition = node.children[2 if node.type == "test" else 1]
    return condition.type in ("comparison", "not_test")


def _is_left_alone(node: Any) -> bool:
    """Whether nothing that runs, or nothing but a check of the developer's, depends on the node."""
    if node.type == "if_stmt" and "TYPE_CHECKING" in node.children[1].get_code():
        return True
    child, parent, in_function = node, node.parent, False
    while parent is not None:
        if parent.type in _LEFT_ALONE:
            return True
        if parent.type == "annassign" and child is parent.children[1]:
            return True
        if parent.type == "funcdef" and child is parent.annotation:
            return True
        if parent.type == "argument" and parent.children[0].get_code().strip() == "strict":
            return True
        in_function |= parent.type in ("funcdef", "lambdef")
        child, parent = parent, parent.parent
    # Outside of functions, `|` joins types.
    return not in_function and getattr(node, "value", None) == "|"


def _mutant(checkout: Path, site: _Site, area: str, number: int) -> Mutant | None:
    """Return the mutant at a site; none if it would be no Python, or the same program."""
    old = (checkout / site.file).read_text(encoding="utf-8")
    try:
        new = mutate_code(old, cosmic_ray.plugins.get_operator(site.operator)(), site.occurrence)
    except AttributeError:
        return None  # Cosmic Ray's operator for `except (a, b)` does not know names with a dot.
    if new is None or not _differs(old, new):
        return None
    start = next(i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b)
    tail = 0
    while tail < min(len(old), len(new)) - start and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    end, new_end = len(old) - tail, len(new) - tail
    return Mutant(
        number=number,
        area=area,
        file=site.file,
        line=site.position[0],
        operator=site.operator.removeprefix("core/"),
        start=start,
        end=end,
        text=new[start:new_end],
        before=_lines(old, start, end),
        after=_lines(new, start, new_end),
    )


def _differs(old: str, new: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            return ast.dump(ast.parse(old)) != ast.dump(ast.parse(new))
        except SyntaxError:
            return False


def _lines(source: str, start: int, end: int) -> str:
    """Return the whole lines that a stretch of the source is on, without their indentation."""
    first = source.rfind("\n", 0, start) + 1
    last = source.find("\n", end)
    return " ".join(line.strip() for line in source[first : last if last >= 0 else None].splitlines())
