"""Search for networks that work at any shared weight: weight agnostic neural networks (Gaier & Ha, NeurIPS 2019).

python examples/weight_agnostic_search.py swing_up
python examples/weight_agnostic_search.py digits --batches 1

Plain NumPy, so it takes one core. The settings of the paper's repository for a laptop are the defaults of swing_up,
about ten minutes. The network is chosen from the last generation by tests of its own, and measured by others.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from weight_agnostic.evaluation import Networks, compute_outputs
from weight_agnostic.genomes import Genome
from weight_agnostic.search import VALUES, Generation, Settings, search
from weight_agnostic.tasks import Digits, SwingUp, cross_entropy, draw_starts, swing

SETTINGS = {
    "swing_up": Settings(population=64, generations=1024, elite=0.05, tournament=4, enabled=0.5),
    "swing_up_paper": Settings(population=192, generations=1024, elite=0.2, tournament=8, enabled=0.5),
    "digits": Settings(population=128, generations=2048, elite=0.2, tournament=8, enabled=0.5),
}
CHOICE, TRIALS = 16, 100
SWEEP = np.array([value for value in np.linspace(-2, 2, 41) if abs(value) > 0.01])


def main() -> None:
    """Read the command line, search, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=SETTINGS)
    parser.add_argument("--generations", type=int, help="default: as in the paper's repository, 1024 or 2048")
    parser.add_argument("--population", type=int, help="default: as in the paper's repository")
    parser.add_argument("--batches", type=int, help="batches of 1,000 images that judge a generation of digits; 4")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end the search after so many minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("weight_agnostic"), help="folder of history and network")
    options = parser.parse_args()
    given = {name: getattr(options, name) for name in ("generations", "population") if getattr(options, name)}
    settings = replace(SETTINGS[options.task], **given)
    is_digits = options.task == "digits"
    if options.batches and not is_digits:
        parser.error(f"--batches is for digits. Received: --batches {options.batches} for {options.task}.")
    options.output.mkdir(parents=True, exist_ok=True)
    images, labels, test_images, test_labels = split_digits()
    task = Digits(images, labels, options.batches or 4, 1000) if is_digits else SwingUp(episodes=3)
    last = run(task, settings, options)
    rng = np.random.default_rng([options.seed, 1])
    if is_digits:
        best = max(last.ranked, key=lambda one: -cross_entropy(compute_outputs(one, images.T, VALUES), labels).mean())
        describe(best)
        report_digits(best, images.T, labels, test_images.T, test_labels, rng)
    else:
        best = last.ranked[int(SwingUp(CHOICE).reward(last.ranked, VALUES, rng).mean(axis=1).argmax())]
        describe(best)
        report_swing_up(best, rng)
    path = options.output / f"{options.task}.json"
    path.write_text(json.dumps(best.to_json()))
    print(f"wrote {path} and {path.with_suffix('.csv').name}")


def run(task: SwingUp | Digits, settings: Settings, options: argparse.Namespace) -> Generation:
    """Search, write down what each generation reached, and return the last one."""
    started, ends = time.process_time(), time.monotonic() + 60 * options.minutes
    with (options.output / f"{options.task}.csv").open("w", newline="") as file:
        history = csv.writer(file, lineterminator="\n")
        history.writerow(["generation", "best_mean", "best_at_one_value", "median_mean", "connections_of_best"])
        for generation in search(task, settings, options.seed):
            means = generation.rewards.mean(axis=1)
            best = generation.ranked[int(means.argmax())].connections
            numbers = (means.max(), generation.rewards.max(), np.median(means))
            history.writerow([generation.number, *(f"{number:.6g}" for number in numbers), best])
            if generation.number % max(1, settings.generations // 16) == 0:
                print(f"generation {generation.number:,}: best mean reward {means.max():.4g}", flush=True)
            if time.monotonic() > ends:
                break
    judged = f"{task.batches} batches" if isinstance(task, Digits) else f"{task.episodes} episodes"
    print(
        f"{options.task}: {settings.population} networks, {generation.number:,} generations of "
        f"{settings.generations:,}, "
        f"{judged}, seed {options.seed}, {time.process_time() - started:.0f} s of one core"
    )
    return generation


def split_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return 1,437 training images in 0..1 and their classes, and 360 test images: every fifth image of each class."""
    images, labels = load_digits(return_X_y=True)
    test = np.zeros(len(labels), bool)
    test[np.argsort(labels, kind="stable")[::5]] = True
    return images[~test] / 16, labels[~test], images[test] / 16, labels[test]


def describe(genome: Genome) -> None:
    """Print how large a network is, without what leads nowhere."""
    connections = int(np.count_nonzero(genome.enabled & genome.useful[genome.targets]))
    hidden = int(genome.useful[genome.first_hidden :].sum())
    print(f"chosen: {connections} connections, {hidden} hidden nodes in {genome.layers.max() - 1} layers")


def report_swing_up(genome: Genome, rng: np.random.Generator) -> None:
    """Print the reward of a network over 100 episodes, weighted in several ways."""

    def measure(weights: np.ndarray, starts: np.ndarray) -> np.ndarray:
        return swing(Networks([genome], starts.shape[1], "tanh"), weights, starts)[0]

    choice, starts = draw_starts(CHOICE, rng), draw_starts(TRIALS, rng)
    tried = measure(np.repeat(SWEEP, CHOICE), np.tile(choice, len(SWEEP))).reshape(len(SWEEP), CHOICE).mean(axis=1)
    tuned = SWEEP[tried.argmax()]
    connections = Networks([genome], 1, "tanh").connections
    rows = {f"all weights {value:g}": np.full(TRIALS, value) for value in VALUES}
    rows["one random weight, U(-2, 2)"] = rng.uniform(-2, 2, TRIALS)
    rows[f"one tuned weight, {tuned:.1f}"] = np.full(TRIALS, tuned)
    rows["random weights, each U(-2, 2)"] = rng.uniform(-2, 2, (connections, TRIALS))
    for name, weights in rows.items():
        rewards = measure(weights, starts)
        print(f"{name:<30} {rewards.mean():7.1f} ± {rewards.std():.1f}")


def report_digits(
    genome: Genome,
    images: np.ndarray,
    labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Print the test accuracy of a network at each value, on average, by vote, and at the best value."""

    def classify(values: np.ndarray) -> np.ndarray:
        return compute_outputs(genome, test_images, values).argmax(axis=1)

    def percent(right: np.ndarray) -> str:
        return f"{100 * right.mean():7.1f}%"

    classes = classify(VALUES)
    for value, right in zip(VALUES, classes == test_labels, strict=True):
        print(f"{f'all weights {value:g}':<30} {percent(right)}")
    votes = (classes[None] == np.arange(10)[:, None, None]).sum(axis=1).argmax(axis=0)
    trained = (compute_outputs(genome, images, SWEEP).argmax(axis=1) == labels).mean(axis=1)
    tuned = SWEEP[[trained.argmax()]]
    drawn = 100 * (classify(rng.uniform(-2, 2, TRIALS)) == test_labels).mean(axis=1)
    print(f"{'one random weight, U(-2, 2)':<30} {drawn.mean():7.1f}% ± {drawn.std():.1f}")
    print(f"{'vote of the six values':<30} {percent(votes == test_labels)}")
    print(f"{f'one tuned weight, {tuned[0]:.1f}':<30} {percent(classify(tuned)[0] == test_labels)}")


if __name__ == "__main__":
    main()
