"""Damaged files: each is read as it was, or refused with an error of ours, soon and without much memory."""

from __future__ import annotations

import io
import random
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command import call
from mutations import (
    Mutation,
    damage_bytes,
    damage_header,
    damage_json,
    damage_line,
    damage_member,
    damage_numbers,
    damage_words,
)
from tflite_files import DEFAULT, SPARSE, converted, dense_model, sparse_kernel

import tfprune_init as tpi
from tfprune_cli.commands.show import execute as show_command
from tfprune_cli.comparison_file import find_loss_named, make_optimizer, read_config
from tfprune_cli.run_folder import open_run
from tfprune_cli.saved_models import load_model
from tfprune_init import distribute
from tfprune_init.distribute.checkpoints import Checkpoint
from tfprune_init.errors import PruningError
from tfprune_init.experiments import Results, Run
from tfprune_init.experiments.comparison import _check_seeds, _check_sparsities
from tfprune_init.experiments.run_config import parse_methods
from tfprune_init.experiments.storage import COMPARED, RESULTS, RUN_FILE, load_run, write_run_file
from tfprune_init.export.inspection import inspect
from tfprune_init.export.sparsification import sparsify
from tfprune_init.masks import Masks

SECONDS, BYTES = 5, 1 << 30
FEW, MANY = 40, 2000
X, Y = np.random.default_rng(0).normal(size=(32, 8)).astype("float32"), np.arange(32) % 3

CONFIG = """
model = "lenet_300_100"
data = "digits"
data_dir = "somewhere"
methods = ["random", "snip", { method = "force", steps = 10, exclude = ["head"] }]
sparsities = [0.9, 0.98]
seeds = [0, 7]
epochs = 10
out = "runs/lenet"
optimizer = { name = "Adam", learning_rate = 0.002 }
loss = "sparse_categorical_crossentropy"
from_logits = false
dense = false
processes = 2
"""


@dataclass(frozen=True)
class Case:
    """Files that are damaged one at a time, how, and what then reads them.

    Attributes:
        files: Paths of whole files.
        mutations: By the end of a name: the ways in which such a file is damaged.
        read: Reads them, given the one that is damaged; raises AssertionError where something else is read than was
            written.
    """

    files: tuple[Path, ...]
    mutations: dict[str, tuple[Mutation, ...]]
    read: Callable[[Path], Any]


def masks_case(folder: Path) -> Case:
    rng = np.random.default_rng(0)
    masks = Masks({"dense/kernel": rng.random((7, 5)) < 0.3, "dense/bias": rng.random(5) < 0.5})
    masks.save(folder / "masks.npz")

    def read(damaged: Path) -> None:
        assert Masks.load(folder / "masks.npz") == masks

    repacked = damage_member({"header.npy": damage_header, ".npy": damage_bytes})
    return Case((folder / "masks.npz",), {".npz": (damage_bytes, repacked)}, read)


def tflite_case(folder: Path) -> Case:
    """Files with encodings of ours and the converter's, quantized ones, and one with a loop."""
    image = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Conv2D(8, 3), keras.layers.GlobalMaxPooling2D()])
    image.layers[0].kernel.assign(sparse_kernel(18, 8, 0.9).reshape(3, 3, 2, 8))
    dense = dense_model([sparse_kernel(32, 16, 0.9, 4)])
    loop = keras.Sequential([keras.Input((3, 2), batch_size=1), keras.layers.SimpleRNN(2)])
    files = {
        "ours": sparsify(converted(image), None),
        "blocks": converted(dense, SPARSE),
        "integers": converted(dense, DEFAULT, SPARSE, integers=True),
        "loop": converted(loop),
    }
    for name, file in files.items():
        assert file is not None
        (folder / f"{name}.tflite").write_bytes(file)

    def read(damaged: Path) -> None:
        found = inspect(damaged)
        found.to_dict()
        found.print(io.StringIO())

    return Case(tuple(folder / f"{name}.tflite" for name in files), {".tflite": (damage_bytes, damage_numbers)}, read)


def toml_case(folder: Path) -> Case:
    (folder / "compare.toml").write_text(CONFIG)

    def read(damaged: Path) -> None:
        """All that happens before a model or data is loaded."""
        settings = read_config(str(folder / "compare.toml"))
        make_optimizer(settings.get("optimizer"))
        find_loss_named(settings.get("loss"), settings.get("from_logits"))
        _check_sparsities(settings["sparsities"])
        _check_seeds(settings.get("seeds", 3))
        parse_methods(settings["methods"], (X, Y), settings.get("dense", True), settings.get("on_collapse", "raise"))

    return Case((folder / "compare.toml",), {".toml": (damage_bytes, damage_words, damage_words)}, read)


def run_case(folder: Path) -> Case:
    """A run of `tfprune prune`, as if it had been trained."""
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, name="head")])
    model.compile("adam", "mse")
    model.save(folder / "model.keras")
    words = ("prune", "model.keras", "--method", "magnitude", "--sparsity", "0.8", "-o", "run")
    assert call(*words, cwd=folder).code == 0
    data = {"name": "digits", "data_dir": None, "description": "digits"}
    epochs = [{"epoch": 1, "loss": 0.5, "accuracy": 0.9, "val_loss": 0.4, "val_accuracy": 0.8, "seconds": 0.1}]
    run = open_run(folder / "run")
    run.save_trained(model, {"trainings": [{"command": "tfprune train", "data": data}], "epochs": epochs})
    path, masks = folder / "run", run.masks

    def read(damaged: Path) -> None:
        show(path)
        opened = open_run(path)
        assert opened.masks == masks
        assert set(opened.initial) == set(masks)

    archives = (damage_bytes, damage_member({"header.npy": damage_header, ".npy": damage_bytes}))
    plain = (damage_bytes, damage_json, damage_json)
    names = ("run.json", "report.json", "history.json", "masks.npz")
    return Case(tuple(path / name for name in names), {".json": plain, ".npz": archives}, read)


def show(path: Path) -> None:
    with redirect_stdout(io.StringIO()):
        for as_json in (False, True):
            show_command.callback(str(path), as_json)  # type: ignore[misc]


def comparison_case(folder: Path) -> Case:
    steps = [{"number": 1, "density": 0.5, "kept": 4, "objective": 1.5}]
    trained = Run(
        "a1", "snip", "snip", {"steps": 1}, 0.5, 0, 1, "trained", None, 8, 4, 0.9, 0.1, 0.3, False,
        [{"loss": 0.1, "accuracy": 0.9}], steps, [{"path": "head/kernel", "size": 8, "kept": 4}], 0.1, 0.2,
    )  # fmt: skip
    failed = Run(
        "a2", "random", "random", {}, 0.5, 0, 1, "failed", "ValueError: no", None, None, None, None, 0.3, None,
        [], [], [], 0.1, 0.2,
    )  # fmt: skip
    Results([trained, failed], folder).save()
    for run in (trained, failed):
        (folder / "runs" / run.id).mkdir(parents=True)
        write_run_file(folder / "runs" / run.id, COMPARED, vars(run))

    def read(damaged: Path) -> None:
        if damaged.name == RUN_FILE:
            show(damaged.parent)
            load_run(folder, damaged.parent.name)
            return
        results = Results.load(folder)
        results.print(io.StringIO())
        results.to_csv()
        assert len(results.sparsities) <= len(results)

    files = (folder / RESULTS, folder / "runs" / "a1" / RUN_FILE, folder / "runs" / "a2" / RUN_FILE)
    mutations = {".jsonl": (damage_bytes, damage_line), ".json": (damage_bytes, damage_json)}
    return Case(files, mutations, read)


def checkpoint_case(folder: Path) -> Case:
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    tpi.prune_at_init(model, None, sparsity=0.5, method="magnitude")
    distribute.fit(model, (X, Y), epochs=1, checkpoint=folder, verbose=0)
    checkpoint = Checkpoint(folder, model, writes=False)

    def read(damaged: Path) -> None:
        values = checkpoint.read()
        assert values is not None
        checkpoint.restore()
        assert values.keys() >= {"epoch", "step", "stopped", "callbacks", "history"}

    repacked = damage_member({"header.npy": damage_header, ".npy": damage_bytes})
    return Case((folder / "training.npz",), {".npz": (damage_bytes, repacked)}, read)


def model_case(folder: Path) -> Case:
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    model.save(folder / "model.keras")

    def read(damaged: Path) -> None:
        loaded = load_model(folder)
        assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True))

    return Case((folder / "model.keras",), {".keras": (damage_bytes,)}, read)


CASES = {
    "masks": masks_case,
    "tflite": tflite_case,
    "toml": toml_case,
    "run": run_case,
    "comparison": comparison_case,
    "checkpoint": checkpoint_case,
    "model": model_case,
}


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_damaged_files_are_read_or_refused(name: str, count: int, tmp_path: Path) -> None:
    case = CASES[name](tmp_path)
    whole = {path: path.read_bytes() for path in case.files}
    for path in case.files:
        case.read(path)
    wrong: list[str] = []
    refused = 0
    before = reset_peak_bytes()
    for seed in range(count):
        rng = random.Random(seed)
        path = rng.choice(case.files)
        mutation = rng.choice(case.mutations[path.suffix])
        path.write_bytes(mutation(whole[path], rng))
        began = time.perf_counter()
        try:
            case.read(path)
        except PruningError:
            refused += 1
        except Exception as error:  # noqa: BLE001 - what escapes is what is looked for
            places = [
                f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
            ]
            wrong.append(f"seed {seed}, {path.name}: {type(error).__name__}: {error} in {' '.join(places[-4:])}")
        seconds, taken = time.perf_counter() - began, peak_bytes() - before
        if seconds > SECONDS or taken > BYTES:
            wrong.append(f"seed {seed}, {path.name}: {seconds:.1f} s, {taken:,} bytes")
            before = reset_peak_bytes()
        path.write_bytes(whole[path])
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong[:20])
    assert refused > count / 4
    for path in case.files:
        case.read(path)


def peak_bytes() -> int:
    """The largest memory this process had; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def reset_peak_bytes() -> int:
    """Let the peak be what this process has now, and return it."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()
