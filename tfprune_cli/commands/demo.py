"""`tfprune demo`: train dense and pruned side by side, export both, and check every claim."""

from __future__ import annotations

from typing import Any

import click

from tfprune_cli.declaration import command
from tfprune_cli.options import WholeNumber, seed_option

_ABOUT = """Train a dense and a pruned network side by side, from the same initial weights
and on the same batches in the same order; the pruned one loses most of its
weights before training. Then export both to TFLite and check each file against
its Keras model. Exits with 1 if anything does not hold."""

_EXAMPLES = """examples:
  tfprune demo
      scikit-learn's digits, which need no download
  tfprune demo --sparsity 0.98 --method snip
      fewer weights, another method
  tfprune demo --dataset mnist --data-dir ~/tensorflow_datasets --output mnist
      a data set of TensorFlow Datasets; the TFLite files stay in mnist
"""


@command("demo", summary="train dense and pruned side by side, and export both", about=_ABOUT, examples=_EXAMPLES)
@click.option(
    "--dataset", default="digits", metavar="NAME", help="digits, or an image data set of TFDS (default: digits)"
)
@click.option(
    "--data-dir",
    metavar="DIR",
    type=click.Path(),
    help="folder of prepared TFDS data (default: $TFDS_DATA_DIR, else TFDS's own)",
)
@click.option(
    "--model",
    metavar="NAME",
    help="a model of tfprune_init.models (default: lenet_5 for small gray images, else resnet20)",
)
@click.option("--method", default="force", metavar="NAME", help="one of those `tfprune methods` lists (default: force)")
@click.option(
    "--sparsity",
    type=float,
    default=0.95,
    metavar="SHARE",
    help="share of the weights to remove, in [0, 1) (default: 0.95)",
)
@click.option(
    "--epochs",
    type=WholeNumber(1, 100_000),
    metavar="N",
    help="passes over the data (default: 40 for digits, 3 for other small gray images, else 1)",
)
@seed_option("of weights, order and method")
@click.option(
    "--output", metavar="DIR", type=click.Path(), help="keep the TFLite files and the report here (default: keep none)"
)
def execute(
    dataset: str,
    data_dir: str | None,
    model: str | None,
    method: str,
    sparsity: float,
    epochs: int | None,
    seed: int,
    output: str | None,
) -> None:
    """Run the demo and print what it finds; anything that does not hold is an error."""
    import time

    import keras
    from rich.console import Console

    from tfprune_cli import demonstration as steps
    from tfprune_cli.side_by_side import train_side_by_side
    from tfprune_cli.zeros import check_zeros
    from tfprune_init.api import prune_at_init
    from tfprune_init.datasets import load
    from tfprune_init.masking.wrapper import strip
    from tfprune_init.methods import find_method

    began = time.perf_counter()
    console = Console()
    # What needs no data is refused before it is loaded.
    seeded: dict[str, Any] = {"seed": seed} if "seed" in find_method(method).options else {}
    steps.check_model_name(model)
    with steps.open_output(output) as folder:
        keras.utils.set_random_seed(seed)
        data = load(dataset, data_dir, batch_size=steps.BATCH_SIZE, seed=seed)
        epochs = epochs or steps.choose_epochs(data)
        dense, pruned = steps.make_twins(model or steps.choose_model(data), data, seed)
        steps.say(console, f"{dense.name} on {data.description}\n")

        untrained = {"dense": steps.measure_accuracy(dense, data)}
        report = prune_at_init(pruned, data.train, sparsity=sparsity, method=method, **seeded)
        untrained["pruned"] = steps.measure_accuracy(pruned, data)
        report.print(console.file)

        told = steps.count_epochs(epochs)
        steps.say(console, f"\nTraining both for {told}, from the same weights and on the same batches")
        both = {"dense": dense, "pruned": pruned}
        train_side_by_side(both, data, epochs, batch_size=steps.BATCH_SIZE, console=console)

        trained = {name: steps.measure_accuracy(network, data) for name, network in both.items()}
        guess = steps.guess_best(data)
        steps.say(console, f"\nAccuracy on {data.description}")
        console.print(steps.make_accuracy_table(untrained, trained, guess, epochs))
        steps.check_learned(trained["pruned"], guess, data)
        stripped = strip(pruned)
        check_zeros(stripped, report.masks)
        gone = report.masks.size - report.masks.kept
        steps.say(console, f"All {gone:,} pruned weights are exactly 0.0 after training.")

        steps.say(console, f"\nTFLite files of the models trained on {data.description}")
        files = steps.export_both({"dense": dense, "pruned": stripped}, data, folder)
        console.print(steps.make_file_table(files))
        for line in steps.describe_files(files):
            steps.say(console, line)
        if output is not None:
            report.save(folder / "report.json")
            steps.say(console, f"The files and report.json are in {folder}")
    steps.say(console, f"Done in {time.perf_counter() - began:.0f} s.")
