"""The stages: each mutant with the tests that reach it, then all that are left together with all tests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from benchmarks.mutants.children import COLLECTION, Outcome, Pool, Task, copy_tree, write_mutants
from benchmarks.mutants.draw import Mutant
from benchmarks.mutants.reach import TEST_LIMIT, Test, reaching, run_tests
from benchmarks.mutants.study import DEFAULT, FULL, KILLED, Study

_STATUS = {"passed": "survived", "failed": "killed", "timeout": "timeout", "died": "died", "broken": "broken"}


def judge_each(study: Study, pool: Pool, seconds: float, numbers: Collection[int] = ()) -> None:
    """Run each mutant's own tests: those of the default run that reach it, the fastest first, up to a time.

    A test that kills is run without a mutant afterwards; if it fails there too, it counts for none.

    Args:
        study: The study.
        pool: Processes.
        seconds: What the tests of a mutant may take in all, by what they took without one.
        numbers: Only these mutants; all by default.
    """
    mutants = [one for number, one in study.mutants.items() if not numbers or number in numbers]
    tests = {name: test for name, test in study.default_tests().items() if test.outcome == "passed"}
    reached = reaching(study.checkout, study.coverage, mutants, tests)
    limits, setups = _limits(tests), _setups(tests)
    while True:
        left = [one for one in mutants if study.status(one, DEFAULT) in (None, "broken")]
        tasks = []
        for mutant in left:
            usable = reached[mutant.number].difference(study.unreliable)
            chosen = pick({name: tests[name] for name in usable}, setups, seconds)
            if chosen:
                tasks.append(Task((mutant,), chosen, limits))
            else:
                study.record(mutant, DEFAULT, "not reached", reached=0)

        def done(task: Task, outcome: Outcome) -> None:
            _record_outcome(study, DEFAULT, task, outcome, reached=len(reached[task.mutants[0].number]))

        pool.run(tasks, done)
        if not _forget_unreliable_kills(study, pool, limits, mutants):
            return


def pick(tests: Mapping[str, Test], setups: Mapping[str, float], seconds: float) -> tuple[str, ...]:
    """Return the fastest tests that take `seconds` in all, at least one; file by file, as a file shares fixtures.

    Args:
        tests: What there is to choose from.
        setups: What the fixtures of each file take, which its first test has to wait for.
        seconds: The limit.
    """
    spent: dict[str, float] = {}
    chosen: dict[str, list[str]] = defaultdict(list)

    def cost(name: str) -> float:
        return setups[_file(name)] + tests[name].setup + tests[name].rest

    for name in sorted(tests, key=lambda name: (cost(name), name)):
        file = _file(name)
        more = cost(name) - (setups[file] if file in spent else 0.0)
        if chosen and sum(spent.values()) + more > seconds:
            break
        spent[file] = spent.get(file, 0.0) + more
        chosen[file].append(name)
    return tuple(name for file in sorted(chosen, key=lambda file: spent[file]) for name in chosen[file])


def judge_together(study: Study, pool: Pool, stage: str, workers: int, *options: str) -> None:
    """Give one tree all mutants that are left, run the tests once, and find whose fault each failure is.

    Mutants of one line are not put together. A test that fails is run with half of the mutants, and so on, down to the
    single ones that make it fail alone. Mutants that make up for each other would not be seen.

    Args:
        study: The study.
        pool: Processes.
        stage: "default" or "full".
        workers: Of the run with all mutants.
        *options: Of pytest: which tests to run.
    """
    tests = study.default_tests() if stage == DEFAULT else {}
    limits = _limits(tests)
    left = [one for one in study.mutants.values() if study.status(one, DEFAULT) and not study.is_killed(one)]
    if stage not in study.packs:
        study.packs[stage] = [[one.number for one in pack] for pack in packs(left)]
        study.save()
    for number, pack in enumerate(study.packs[stage]):
        attempt = 0
        while True:
            mutants = tuple(study.mutants[n] for n in pack if not study.is_killed(study.mutants[n]))
            name = f"{stage}_{number}_{attempt}"
            results = run_tests(
                _tree_with(study, mutants, study.folder / f"tree_{name}"),
                study.folder / f"{name}.json",
                workers,
                max(limits.values(), default=TEST_LIMIT),
                *options,
            )
            failed = [name for name, test in results.items() if test.outcome == "failed"]
            failed.sort(key=lambda name: results[name].setup + results[name].rest)
            find_killers(study, pool, stage, failed, mutants, limits)
            # A file that could not be imported has kept all tests from running: they run without the mutants at fault.
            if all("::" in name for name in failed) or not any(study.is_killed(one) for one in mutants):
                break
            attempt += 1
    if stage == FULL:
        for mutant in left:
            if not study.is_killed(mutant):
                study.record(mutant, FULL, "survived")


def find_killers(
    study: Study,
    pool: Pool,
    stage: str,
    failed: Collection[str],
    mutants: Collection[Mutant],
    limits: Mapping[str, int],
) -> None:
    """Record, for tests that failed with all of the mutants, those that they fail with alone.

    The tests of a file run together until one fails. Once its mutants are found, they run again without those.
    """
    limits = defaultdict(lambda: TEST_LIMIT, limits)
    failed_without_mutants(study, pool, failed, limits)
    tests = _by_file(name for name in failed if name not in study.unreliable)
    while tests:
        left = tuple(one for one in mutants if not study.is_killed(one))
        rounds = [Task(left, tuple(names), limits) for names in tests.values()]
        first = {}
        for file, outcome in zip(list(tests), _outcomes(pool, rounds), strict=True):
            if outcome.status == "passed":
                del tests[file]
            else:
                name = next(iter(outcome.failed), file)
                first[file] = name if name in tests[file] else file
        level = [Task(left, (name,), limits) for name in first.values()]
        while level:
            below = []
            for task, outcome in zip(level, _outcomes(pool, level), strict=True):
                if outcome.status == "passed":
                    continue
                if len(task.mutants) > 1:
                    half = len(task.mutants) // 2
                    below += [Task(part, task.tests, limits) for part in (task.mutants[:half], task.mutants[half:])]
                elif task.mutants and not study.is_killed(task.mutants[0]):
                    _record_outcome(study, stage, task, outcome)
            level = below
        if all(not study.is_killed(one) for one in left):
            # Only several mutants at once make these fail.
            for file, name in first.items():
                tests[file] = [one for one in tests[file] if name not in (one, file)]
            tests = {file: names for file, names in tests.items() if names}


def failed_without_mutants(study: Study, pool: Pool, names: Iterable[str], limits: Mapping[str, int]) -> set[str]:
    """Run tests on the code as it is and give those that fail, which count for no mutant from then on.

    Raises:
        RuntimeError: If they could not be run.
    """
    found: set[str] = set()
    tests = _by_file(name for name in names if name not in study.unreliable)
    while tests:
        tasks = [Task((), tuple(of_file), limits, stop=False) for of_file in tests.values()]
        again: dict[str, list[str]] = {}
        for task, outcome in zip(tasks, _outcomes(pool, tasks), strict=True):
            if outcome.status == "broken" or not set(outcome.failed).issubset(task.tests):
                raise RuntimeError(f"Tests of the code as it is could not be run: {outcome.failed} {outcome.log}")
            found.update(outcome.failed)
            if outcome.status in ("timeout", "died"):
                again |= _by_file(name for name in task.tests if name not in found)
        tests = again
    study.unreliable += sorted(found)
    study.save()
    return found


def packs(mutants: Iterable[Mutant]) -> list[list[Mutant]]:
    """Return groups of mutants of which no two are on the same line."""
    found: list[dict[tuple[str, int], Mutant]] = []
    for mutant in mutants:
        place = mutant.file, mutant.line
        pack = next((one for one in found if place not in one), None)
        if pack is None:
            found.append(pack := {})
        pack[place] = mutant
    return [list(pack.values()) for pack in found]


def _limits(tests: Mapping[str, Test]) -> dict[str, int]:
    """Seconds that each test may take: it may be the one that makes a fixture which another one made before."""
    setups = _setups(tests)
    return {name: int(30 + 5 * (setups[_file(name)] + test.rest)) for name, test in tests.items()}


def _setups(tests: Mapping[str, Test]) -> dict[str, float]:
    """Return the longest that a test of each file has waited for its fixtures."""
    return {file: max(tests[name].setup for name in names) for file, names in _by_file(tests).items()}


def _forget_unreliable_kills(study: Study, pool: Pool, limits: Mapping[str, int], mutants: Iterable[Mutant]) -> bool:
    """Run the tests that killed without a mutant, and take back what those did that fail: whether there are any."""
    kills = {
        one.number: study.results[one.number][DEFAULT]["test"]
        for one in mutants
        if study.status(one, DEFAULT) in KILLED
    }
    failed = failed_without_mutants(study, pool, sorted(set(kills.values()) - {COLLECTION}), limits)
    wrong = [number for number, test in kills.items() if test in failed]
    for number in wrong:
        del study.results[number][DEFAULT]
    study.save()
    return bool(wrong)


def _record_outcome(study: Study, stage: str, task: Task, outcome: Outcome, **about: object) -> None:
    """Record what became of the only mutant of a task."""
    (mutant,) = task.mutants
    about = {"reached": study.results.get(mutant.number, {}).get(DEFAULT, {}).get("reached")} | about
    study.record(
        mutant,
        stage,
        _STATUS[outcome.status],
        test=next(iter(outcome.failed), None),
        seconds=round(outcome.seconds, 1),
        ran=outcome.ran,
        log=outcome.log,
        **about,
    )


def _outcomes(pool: Pool, tasks: Iterable[Task]) -> list[Outcome]:
    """Return what became of tasks, in their order."""
    tasks = list(tasks)
    found: dict[int, Outcome] = {}
    pool.run(tasks, lambda task, outcome: found.update({id(task): outcome}))
    return [found[id(task)] for task in tasks]


def _by_file(names: Iterable[str]) -> dict[str, list[str]]:
    files = defaultdict(list)
    for name in names:
        files[_file(name)].append(name)
    return dict(files)


def _file(name: str) -> str:
    return name.partition("::")[0]


def _tree_with(study: Study, mutants: tuple[Mutant, ...], tree: Path) -> Path:
    copy_tree(study.checkout, tree)
    write_mutants(study.checkout, tree, mutants)
    return tree
