"""The demo: train dense and pruned side by side, export both, and hold every claim to account."""

from __future__ import annotations

import difflib
import itertools
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from tfprune_cli.side_by_side import train_side_by_side
from tfprune_cli.zeros import check_zeros
from tfprune_init import models
from tfprune_init.api import prune_at_init
from tfprune_init.datasets import Dataset, load
from tfprune_init.errors import OptionError, PruningError
from tfprune_init.experiments.chance import clearly_better
from tfprune_init.export import EdgeReport, export_tflite
from tfprune_init.layers import strip
from tfprune_init.methods import method_named

BATCH_SIZE = 128

LEARNING_RATE = 2e-3
"""Adam's; pruned networks learn slowly at its default of 1e-3."""


@dataclass(frozen=True)
class Demo:
    """What the demo runs on.

    Attributes:
        dataset: What `datasets.load` takes.
        data_dir: Folder of prepared TFDS data.
        model: Name of a model of `tfprune_init.models`; None chooses by the images.
        method: One of `methods()`.
        sparsity: Share of the prunable weights to remove.
        epochs: Passes over the training data; None chooses by the data set.
        seed: Seed of weights, order and method.
        output: Folder for the TFLite files and the report; None keeps none.
    """

    dataset: str = "digits"
    data_dir: str | None = None
    model: str | None = None
    method: str = "force"
    sparsity: float = 0.95
    epochs: int | None = None
    seed: int = 0
    output: str | None = None


def run(demo: Demo, console: Console) -> None:
    """Run the demo and print what it finds.

    Args:
        demo: What to run it on.
        console: Where to print.

    Raises:
        PruningError: If an option is wrong, the pruned network collapses or learns nothing, a pruned weight
            is not zero after training, or an exported file disagrees with its model.
    """
    began = time.perf_counter()
    # What needs no data is refused before it is loaded.
    seeded: dict[str, Any] = {"seed": demo.seed} if "seed" in method_named(demo.method).options else {}
    _check_model_name(demo.model)
    with _folder(demo.output) as folder:
        keras.utils.set_random_seed(demo.seed)
        data = load(demo.dataset, demo.data_dir, batch_size=BATCH_SIZE, seed=demo.seed)
        epochs = demo.epochs or _epochs_for(data)
        dense, pruned = _twins(demo.model or _model_for(data), data, demo.seed)
        _say(console, f"{dense.name} on {data.description}\n")

        untrained = {"dense": _accuracy(dense, data)}
        report = prune_at_init(pruned, data.train, sparsity=demo.sparsity, method=demo.method, **seeded)
        untrained["pruned"] = _accuracy(pruned, data)
        report.print(console.file)

        _say(console, f"\nTraining both for {_epochs(epochs)}, from the same weights and on the same batches")
        both = {"dense": dense, "pruned": pruned}
        train_side_by_side(both, data, epochs, batch_size=BATCH_SIZE, console=console)

        trained = {name: _accuracy(model, data) for name, model in both.items()}
        guess = _best_guess(data)
        _say(console, f"\nAccuracy on {data.description}")
        console.print(_accuracy_table(untrained, trained, guess, epochs))
        check_learned(trained["pruned"], guess, data)
        stripped = strip(pruned)
        check_zeros(stripped, report.masks)
        gone = report.masks.size - report.masks.kept
        _say(console, f"All {gone:,} pruned weights are exactly 0.0 after training.")

        _say(console, f"\nTFLite files of the models trained on {data.description}")
        files = _export({"dense": dense, "pruned": stripped}, data, folder)
        console.print(_file_table(files))
        for line in _verdict(files):
            _say(console, line)
        if demo.output is not None:
            report.save(folder / "report.json")
            _say(console, f"The files and report.json are in {folder}")
    _say(console, f"Done in {time.perf_counter() - began:.0f} s.")


def check_learned(accuracy: float, guess: float, data: Dataset) -> None:
    """Refuse an accuracy that guessing might reach.

    Args:
        accuracy: Accuracy on the test images.
        guess: Accuracy of the best constant guess.
        data: What it was measured on.

    Raises:
        PruningError: If the accuracy is less than 5 standard errors above the guess.
    """
    needed = clearly_better(guess, data.test_size)
    if accuracy < needed:
        raise PruningError(
            f"The pruned network did not learn: accuracy {accuracy:.1%}, where always guessing the most frequent "
            f"class gives {guess:.1%} and {needed:.1%} is clearly better ({data.description}). Try more epochs or a "
            "lower sparsity."
        )


def _say(console: Console, text: str) -> None:
    # Broken into lines for a reader, whole for a program; brackets in names are text, not markup.
    console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


@contextmanager
def _folder(output: str | None) -> Iterator[Path]:
    if output is None:
        with tempfile.TemporaryDirectory(prefix="tfprune_demo_") as temporary:
            yield Path(temporary)
        return
    folder = Path(output).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OptionError(
            f"The output must be a folder, and there is a file of that name. Received: {output!r}."
        ) from error
    yield folder


def _check_model_name(name: str | None) -> None:
    if name is not None and name not in models.__all__:
        near = difflib.get_close_matches(name, models.__all__, n=3, cutoff=0.4) or models.__all__
        raise OptionError(f"There is no model {name!r}. Nearest names: {', '.join(near)}.")


def _model_for(data: Dataset) -> str:
    return "lenet_5" if _is_small_and_gray(data) else "resnet20"


def _epochs_for(data: Dataset) -> int:
    """As many as two cores train in a minute or two; the digits are so few that 40 are over in seconds."""
    if data.name == "digits":
        return 40
    return 3 if _is_small_and_gray(data) else 1


def _is_small_and_gray(data: Dataset) -> bool:
    height, width, channels = data.input_shape
    return channels == 1 and max(height, width) <= 32


def _twins(name: str, data: Dataset, seed: int) -> tuple[keras.Model, keras.Model]:
    """Two compiled models with the same weights."""
    one, other = (getattr(models, name)(data.input_shape, data.classes, seed=seed) for _ in range(2))
    other.set_weights(one.get_weights())
    for model in (one, other):
        model.compile(
            keras.optimizers.Adam(LEARNING_RATE),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    return one, other


def _epochs(count: int) -> str:
    return f"{count} epoch" if count == 1 else f"{count} epochs"


def _accuracy(model: keras.Model, data: Dataset) -> float:
    return model.evaluate(data.test, verbose=0, return_dict=True)["accuracy"]


def _best_guess(data: Dataset) -> float:
    """Share of the most frequent class: what guesses get without looking."""
    labels = np.concatenate([batch.numpy() for _, batch in data.test])
    return float(np.bincount(labels).max() / len(labels))


def _accuracy_table(untrained: dict[str, float], trained: dict[str, float], guess: float, epochs: int) -> Table:
    table = Table()
    table.add_column("accuracy")
    for name in trained:
        table.add_column(name, justify="right")
    table.add_row("guessing the most frequent class", *[f"{guess:.1%}" for _ in trained])
    table.add_row("before training", *[f"{untrained[name]:.1%}" for name in trained])
    table.add_row(f"after {_epochs(epochs)}", *[f"{trained[name]:.1%}" for name in trained])
    return table


def _export(both: dict[str, keras.Model], data: Dataset, folder: Path) -> dict[str, EdgeReport]:
    files = {}
    with Console(stderr=True).status("") as status:
        for quantize, name in itertools.product((None, "int8"), both):
            file = f"{name}_{quantize or 'float32'}.tflite"
            status.update(f"converting and checking {file}")
            typical = data.train if quantize == "int8" else None
            files[file] = export_tflite(
                both[name],
                folder / file,
                quantize=quantize,
                representative_data=typical,
                verify=data.test,
                measure=False,
            )
    return files


def _file_table(files: dict[str, EdgeReport]) -> Table:
    table = Table()
    table.add_column("file")
    for name in ("bytes", "gzipped", "zeros", "error", "agree"):
        table.add_column(name, justify="right")
    for name, edge in files.items():
        same = "" if edge.top1_agreement is None else f"{edge.top1_agreement:.1%}"
        table.add_row(
            name,
            f"{edge.raw_bytes:,}",
            f"{edge.gzip_bytes:,}",
            f"{edge.sparsity:.1%}",
            f"{edge.rms_difference:.1e}",
            same,
        )
    return table


def _verdict(files: dict[str, EdgeReport]) -> list[str]:
    first = next(iter(files.values()))
    interpreters = " and ".join(f"{name} {version}" for name, version in first.interpreters.items())
    stored = [
        f"Zeros are stored in {name}: {edge.fallback}."
        for name, edge in files.items()
        if name.startswith("pruned") and edge.fallback is not None
    ]
    return [
        f"The pruned model is smaller: {_times_smaller(files, 'raw_bytes')}; gzipped "
        f"{_times_smaller(files, 'gzip_bytes')}.",
        *stored,
        f"Each file agrees with its Keras model on {first.examples} test images, run by {interpreters}. Error: root "
        "mean square, over that of the model's outputs. Agree: images put into the same class.",
    ]


def _times_smaller(files: dict[str, EdgeReport], size: str) -> str:
    return " and ".join(
        f"{getattr(files[f'dense_{kind}.tflite'], size) / getattr(files[f'pruned_{kind}.tflite'], size):.1f}x as {kind}"
        for kind in ("float32", "int8")
    )
