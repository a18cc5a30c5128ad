"""Cost of pruning while a network trains, in ratios measured within one process, interleaved, as medians.

    python benchmarks/training.py                     # both networks; over ten minutes on 2 cores
    python benchmarks/training.py mlp --rounds 5      # one of them: resnet20, mlp
    python benchmarks/training.py mlp --parts level   # one part: steps, level

Prints one JSON object. The unit is a dense training step of the same network and batch in `fit`. Beside it, in the part
"steps", is a step of `DynamicPruning` at 90%, its events included (masks chosen anew every 16 steps), the same without
events, and a step under masks that are attached. The part "level" is what a level of a lottery ticket takes beside its
training: pruning, rewinding, saving the state after each of its three events, and tracing the training step anew under
the new masks; and the sum of these over a training of --level-steps steps. Absolute seconds are of the machine it ran
on; on one that others use too, --clock cpu counts the seconds of this process on all cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from engine import LOSS, interleaved, machine, mlp

import tfprune_init as tpi
from tfprune_init.backend.batches import disable_autotuning
from tfprune_init.training import Event, Prune, Rewind, Snapshot, Train
from tfprune_init.training.run_state import save_state

PERIOD = 16
NEVER = 10_000
PARTS = ("steps", "level")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CASES: dict[str, tuple[str, Callable[[], Any], tuple[int, ...], int]] = {
    "resnet20": ("ResNet20, batch 128", lambda: tpi.models.resnet20(seed=0), (32, 32, 3), 128),
    "mlp": ("MLP of 21 M weights, batch 32", lambda: mlp(keras), (784,), 32),
}


class OneEpoch(keras.callbacks.Callback):
    """Stops a training after an epoch, however many it was told of."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop."""
        self.model.stop_training = True


def make_run(model: Any, data: Any, callbacks: list[Any]) -> Callable[[], Any]:
    """Return a function that trains one more epoch of `PERIOD` steps each time it is called."""
    epochs = itertools.count()

    def run() -> None:
        options = {"epochs": NEVER, "initial_epoch": next(epochs), "shuffle": False, "verbose": 0}
        model.fit(data, callbacks=[*callbacks, OneEpoch()], **options)

    return run


def random_masks(model: Any) -> tpi.Masks:
    """Return masks that keep 10%, wherever they are."""
    return tpi.find_masks(model, None, sparsity=0.9, method="random", verbose=0)


def measure(name: str, optimizer: str, rounds: int, clock: str) -> dict[str, Any]:
    """Measure the seconds of a step of one network, trained in four ways."""
    title, build, shape, batch = CASES[name]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(batch, *shape)).astype("float32"), rng.integers(0, 10, batch)
    data = disable_autotuning(tf.data.Dataset.from_tensors((x, y)).repeat(PERIOD))
    models = {way: build() for way in ("dense", "dynamic", "dynamic_without_events", "attached")}
    for model in models.values():
        model.compile(optimizer, loss=LOSS)
    masks = {way: random_masks(model) for way, model in models.items()}
    tpi.attach(models["attached"], masks["attached"])
    callbacks = {
        way: tpi.DynamicPruning(masks=masks[way], sparsity=0.9, schedule="one_shot", every=every, until=NEVER * PERIOD)
        for way, every in (("dynamic", PERIOD), ("dynamic_without_events", NEVER * PERIOD))
    }
    runs = {way: make_run(model, data, [callbacks[way]] if way in callbacks else []) for way, model in models.items()}
    seconds = {way: value / PERIOD for way, value in interleaved(runs, rounds, CLOCKS[clock]).items()}
    return {
        "network": title,
        "optimizer": optimizer,
        "rounds": rounds,
        "clock": clock,
        "seconds_a_step": seconds,
        **{f"{way}_to_dense": value / seconds["dense"] for way, value in seconds.items() if way != "dense"},
    }


class Timed(Event):
    """Notes the seconds that another event takes, under a name."""

    def __init__(self, name: str, event: Event, seconds: dict[str, list[float]], clock: Callable[[], float]) -> None:
        self.name, self.event, self.seconds, self.clock = name, event, seconds, clock

    def apply(self, run: Any) -> None:
        """Do the event, and note its seconds."""
        began = self.clock()
        self.event.apply(run)
        self.seconds.setdefault(self.name, []).append(self.clock() - began)


class Save(Event):
    """Saves the state of a run, as is done after each event."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def apply(self, run: Any) -> None:
        """Save it."""
        save_state(self.folder, run.state, run.read_model(), "")


def measure_level(name: str, optimizer: str, rounds: int, clock: str, length: int) -> dict[str, Any]:
    """Measure what a level of a lottery ticket takes beside its training, in dense steps."""
    title, build, shape, batch = CASES[name]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(batch, *shape)).astype("float32"), rng.integers(0, 10, batch)
    data = disable_autotuning(tf.data.Dataset.from_tensors((x, y)).repeat(PERIOD))

    def compiled() -> Any:
        model = build()
        model.compile(optimizer, loss=LOSS)
        return model

    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        events: list[Event] = [Snapshot("start")]
        for level in range(1, rounds + 2):
            parts = {
                "pruning": Prune("magnitude", Fraction(4, 5) ** level),
                "rewinding": Rewind("start"),
                "first_steps": Train(steps=PERIOD),
                "steps": Train(steps=PERIOD),
                "saving": Save(Path(folder) / "run"),
            }
            # One round before those that count, as traces of the search are made in it.
            kept = seconds if level > 1 else {}
            events += [Timed(part, event, kept, CLOCKS[clock]) for part, event in parts.items()]
        tpi.run(events, compiled, (data, data), steps=PERIOD, verbose=0)
    medians = {part: statistics.median(values) for part, values in seconds.items()}
    step = medians["steps"] / PERIOD
    rest = {
        "pruning": medians["pruning"],
        "rewinding": medians["rewinding"],
        "saving": 3 * medians["saving"],
        "tracing": max(medians["first_steps"] - medians["steps"], 0.0),
    }
    return {
        "network": title,
        "optimizer": optimizer,
        "rounds": rounds,
        "clock": clock,
        "seconds_a_step": step,
        **{f"{part}_to_step": value / step for part, value in rest.items()},
        "steps_of_a_level": length,
        "rest_to_training": sum(rest.values()) / (length * step),
    }


def main() -> None:
    """Measure the networks named on the command line, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*CASES, []], help="which networks; all by default")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is measured")
    parser.add_argument("--optimizer", default="adam", help="what trains them, by its name in Keras")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help="which seconds")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="which parts; all by default")
    parser.add_argument("--level-steps", type=int, default=1000, help="steps of the training that a level is beside")
    asked = parser.parse_args()
    result: dict[str, Any] = {}
    for name in asked.names or list(CASES):
        settings = (name, asked.optimizer, asked.rounds, asked.clock)
        steps = measure(*settings) if "steps" in asked.parts else {}
        level = {"level": measure_level(*settings, asked.level_steps)} if "level" in asked.parts else {}
        result[name] = {**steps, **level}
    print(json.dumps({**result, "machine": machine()}, indent=2))


if __name__ == "__main__":
    main()
