"""The steps of `tfprune demo`: two equal networks, their accuracies, their files, and sentences on them."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from tfprune_init import models
from tfprune_init.checks import suggest
from tfprune_init.datasets import Dataset
from tfprune_init.errors import OptionError, PruningError
from tfprune_init.experiments.guessing import is_above_guessing
from tfprune_init.export import EdgeReport, export_tflite

BATCH_SIZE = 128

LEARNING_RATE = 2e-3
"""Adam's; pruned networks learn slowly at its default of 1e-3."""


def check_learned(accuracy: float, guess: float, data: Dataset) -> None:
    """Refuse an accuracy that guessing might reach.

    Args:
        accuracy: Accuracy on the test images.
        guess: Accuracy of the best constant guess.
        data: What it was measured on.

    Raises:
        PruningError: If the accuracy is less than 5 standard errors above the guess.
    """
    needed = is_above_guessing(guess, data.test_size)
    if accuracy < needed:
        raise PruningError(
            f"The pruned network did not learn: accuracy {accuracy:.1%}, where always guessing the most frequent "
            f"class gives {guess:.1%} and {needed:.1%} is clearly better ({data.description}). Try more epochs or a "
            "lower sparsity."
        )


def say(console: Console, text: str) -> None:
    """Print a sentence."""
    # Broken into lines for a reader, whole for a program; brackets in names are text, not markup.
    console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


@contextmanager
def open_output(output: str | None) -> Iterator[Path]:
    """Yield the folder for the files: the one asked for, or one that goes away in the end.

    Raises:
        OptionError: If there is a file of that name.
    """
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


def check_model_name(name: str | None) -> None:
    """Refuse a name that no model has.

    Raises:
        OptionError: If `tfprune_init.models` has none of that name.
    """
    if name is not None and name not in models.__all__:
        raise OptionError(f"There is no model {name!r}. {suggest(name, models.__all__)}")


def choose_model(data: Dataset) -> str:
    """Return the name of the model for that data."""
    return "lenet_5" if _is_small_and_gray(data) else "resnet20"


def choose_epochs(data: Dataset) -> int:
    """Return as many as two cores train in a minute or two; the digits are so few that 40 are over in seconds."""
    if data.name == "digits":
        return 40
    return 3 if _is_small_and_gray(data) else 1


def _is_small_and_gray(data: Dataset) -> bool:
    height, width, channels = data.input_shape
    return channels == 1 and max(height, width) <= 32


def make_twins(name: str, data: Dataset, seed: int) -> tuple[keras.Model, keras.Model]:
    """Make two compiled models with the same weights."""
    one, other = (getattr(models, name)(data.input_shape, data.classes, seed=seed) for _ in range(2))
    other.set_weights(one.get_weights())
    for model in (one, other):
        model.compile(
            keras.optimizers.Adam(LEARNING_RATE),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    return one, other


def count_epochs(count: int) -> str:
    """Return the number with its noun."""
    return f"{count} epoch" if count == 1 else f"{count} epochs"


def measure_accuracy(model: keras.Model, data: Dataset) -> float:
    """Return the share of the test images put into the right class."""
    return float(model.evaluate(data.test, verbose=0, return_dict=True)["accuracy"])


def guess_best(data: Dataset) -> float:
    """Return the share of the most frequent class: what guesses get without looking."""
    labels = np.concatenate([batch.numpy() for _, batch in data.test])
    return float(np.bincount(labels).max() / len(labels))


def make_accuracy_table(untrained: dict[str, float], trained: dict[str, float], guess: float, epochs: int) -> Table:
    """Make a table of the accuracies by model: of guessing, before and after training."""
    table = Table()
    table.add_column("accuracy")
    for name in trained:
        table.add_column(name, justify="right")
    table.add_row("guessing the most frequent class", *[f"{guess:.1%}" for _ in trained])
    table.add_row("before training", *[f"{untrained[name]:.1%}" for name in trained])
    table.add_row(f"after {count_epochs(epochs)}", *[f"{trained[name]:.1%}" for name in trained])
    return table


def export_both(both: dict[str, keras.Model], data: Dataset, folder: Path) -> dict[str, EdgeReport]:
    """Export each model in float32 and in int8, and return the reports by file."""
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


def make_file_table(files: dict[str, EdgeReport]) -> Table:
    """Make a table of sizes, zeros and errors by file."""
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


def describe_files(files: dict[str, EdgeReport]) -> list[str]:
    """Return sentences on how the files compare."""
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
