"""The folder of a study: the checkout it is about, its mutants, and what became of them so far."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.mutants.children import copy_tree
from benchmarks.mutants.draw import Mutant, draw
from benchmarks.mutants.reach import TEST_LIMIT, Test, run_tests

DEFAULT, FULL = "default", "full"
KILLED = ("killed", "timeout", "died")


class Study:
    """A study that goes on where it was left.

    Attributes:
        folder: All that it writes is in here.
        checkout: Its copy of the checkout.
        mutants: The mutants by number.
        results: What became of each mutant in each stage, by number and stage.
        packs: Numbers of the mutants that were judged together, by stage.
        unreliable: Tests that also fail without a mutant, and count for none.
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.checkout = self.folder / "checkout"
        state = json.loads((self.folder / "mutants.json").read_text(encoding="utf-8"))
        self.seed: int = state["seed"]
        self.mutants = {one["number"]: Mutant(**one) for one in state["mutants"]}
        self.results: dict[int, dict[str, dict[str, Any]]] = {int(n): one for n, one in state["results"].items()}
        self.packs: dict[str, list[list[int]]] = state["packs"]
        self.unreliable: list[str] = state["unreliable"]

    @classmethod
    def begin(cls, folder: Path, source: Path, count: int, seed: int) -> Study:
        """Copy the checkout at `source` and draw mutants from it.

        Raises:
            FileExistsError: If the folder holds a study already.
        """
        file = folder.resolve() / "mutants.json"
        if file.exists():
            raise FileExistsError(f"{file} is a study already")
        copy_tree(source, file.with_name("checkout"))
        mutants = [asdict(one) for one in draw(file.with_name("checkout"), count, seed)]
        state = {"seed": seed, "mutants": mutants, "results": {}, "packs": {}, "unreliable": []}
        file.write_text(json.dumps(state, indent=1), encoding="utf-8")
        return cls(folder)

    def save(self) -> None:
        """Write all to the file, whole or not at all."""
        state = {
            "seed": self.seed,
            "mutants": [asdict(one) for one in self.mutants.values()],
            "results": self.results,
            "packs": self.packs,
            "unreliable": self.unreliable,
        }
        file = self.folder / "mutants.json"
        file.with_suffix(".new").write_text(json.dumps(state, indent=1), encoding="utf-8")
        os.replace(file.with_suffix(".new"), file)

    @property
    def coverage(self) -> Path:
        """Coverage of the default run, test by test."""
        return self.folder / "cover.coverage"

    def default_tests(self, workers: int = 2, files: Iterable[str] = ()) -> dict[str, Test]:
        """Return the default run's tests without a mutant, run under coverage the first time."""
        options = ("--cov=tfprune_init", "--cov-context=test", "--cov-report=")
        return run_tests(self.checkout, self.folder / "cover.json", workers, TEST_LIMIT, *options, *files)

    def status(self, mutant: Mutant, stage: str) -> str | None:
        """Return what became of a mutant in a stage, None if that is not known."""
        return self.results.get(mutant.number, {}).get(stage, {}).get("status")

    def is_killed(self, mutant: Mutant) -> bool:
        """Whether any stage so far has killed it."""
        return any(self.status(mutant, stage) in KILLED for stage in (DEFAULT, FULL))

    def record(self, mutant: Mutant, stage: str, status: str, **about: Any) -> None:
        """Keep what became of a mutant, and say it."""
        self.results.setdefault(mutant.number, {})[stage] = {"status": status, **about}
        self.save()
        done = sum(stage in one for one in self.results.values())
        place = f"{mutant.file}:{mutant.line}"
        line = f"{done:4} {stage} {status:11} {place:42} {about.get('seconds', 0):6.1f} s  {about.get('test') or ''}"
        print(line, flush=True)
