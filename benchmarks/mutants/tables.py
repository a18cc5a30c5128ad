"""The results as tables of Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.mutants.draw import AREAS, Mutant
from benchmarks.mutants.study import DEFAULT, FULL, KILLED, Study


def tables(study: Study) -> str:
    """Return the mutants by area, those that only the full run kills, and those that nothing kills."""
    judged = [one for one in study.mutants.values() if study.status(one, DEFAULT)]
    columns = ("area", "mutants", "killed by the default run", "of them by time", "only by the full run", "survivors")
    rows = [(area, *_counts(study, [one for one in judged if one.area == area])) for area in AREAS]
    rows.append(("all", *_counts(study, judged)))
    only_full = [one for one in judged if study.status(one, FULL) in KILLED]
    left = [one for one in judged if not study.is_killed(one)]
    return "\n\n".join(
        [
            _table(columns, rows),
            f"Only the full run kills {len(only_full)}:",
            _table(
                ("place", "change", "killed by"),
                [(*_about(one), f"`{study.results[one.number][FULL]['test']}`") for one in only_full],
            ),
            f"Nothing kills {len(left)}:",
            _table(
                ("number", "place", "change", "default tests that reach it"),
                [(one.number, *_about(one), study.results[one.number][DEFAULT]["reached"]) for one in left],
            ),
        ]
    )


def _counts(study: Study, mutants: list[Mutant]) -> tuple[int, ...]:
    default = [study.status(one, DEFAULT) for one in mutants]
    killed = sum(status in KILLED for status in default)
    full = sum(study.status(one, FULL) in KILLED for one in mutants)
    return len(mutants), killed, default.count("timeout"), full, len(mutants) - killed - full


def _about(mutant: Mutant) -> tuple[str, str]:
    before, after = (text.replace("|", "\\|") for text in (mutant.before, mutant.after))
    return f"{mutant.file}:{mutant.line}", f"`{before}` → `{after}`"


def _table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [list(columns), ["---" for _ in columns], *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
