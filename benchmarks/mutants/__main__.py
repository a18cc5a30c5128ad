"""Which mutants of the package the default tests kill, and which only the full ones.

    python -m benchmarks.mutants draw DIR --count 320 --seed 0   # copy this checkout and draw mutants of it
    python -m benchmarks.mutants cover DIR                       # the default run, with coverage of each test
    python -m benchmarks.mutants default DIR                     # mutant by mutant, then what is left together
    python -m benchmarks.mutants full DIR "slow or process"      # what is left with the tests of other markers
    python -m benchmarks.mutants table DIR                       # the results in Markdown

DIR holds all of it; each command goes on where it was stopped. Tests find data by TFPRUNE_TFDS_DIR, since they run in
copies of the checkout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.mutants.children import Pool
from benchmarks.mutants.judge import judge_each, judge_together
from benchmarks.mutants.study import DEFAULT, FULL, Study
from benchmarks.mutants.tables import tables


def main() -> None:
    """Run one stage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description="Mutants and what kills them.")
    stages = parser.add_subparsers(dest="stage", required=True)
    stage = {name: stages.add_parser(name) for name in ("draw", "cover", "default", "full", "table")}
    for one in stage.values():
        one.add_argument("folder", type=Path)
    for name in ("cover", "default", "full"):
        stage[name].add_argument("--workers", type=int, default=2)
    stage["draw"].add_argument("--count", type=int, default=320)
    stage["draw"].add_argument("--seed", type=int, default=0)
    stage["cover"].add_argument("files", nargs="*", help="only these test files")
    stage["default"].add_argument("--seconds", type=float, default=45.0, help="of tests for a mutant by itself")
    stage["default"].add_argument("--numbers", type=int, nargs="+", default=(), help="only these, by themselves")
    stage["full"].add_argument("markers", help="of the tests to run, as for pytest's -m")
    arguments = parser.parse_args()
    if arguments.stage == "draw":
        study = Study.begin(arguments.folder, Path(__file__).parents[2], arguments.count, arguments.seed)
        print(f"{len(study.mutants)} mutants of {len({one.file for one in study.mutants.values()})} files")
        return
    study = Study(arguments.folder)
    if arguments.stage == "cover":
        outcomes = [test.outcome for test in study.default_tests(arguments.workers, arguments.files).values()]
        print(", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in sorted(set(outcomes))))
    elif arguments.stage == "table":
        print(tables(study))
    else:
        pool = Pool(study.checkout, study.folder, arguments.workers)
        if arguments.stage == "full":
            judge_together(study, pool, FULL, arguments.workers, "-m", arguments.markers)
            return
        judge_each(study, pool, arguments.seconds, arguments.numbers)
        if not arguments.numbers:
            judge_together(study, pool, DEFAULT, arguments.workers)


if __name__ == "__main__":
    main()
