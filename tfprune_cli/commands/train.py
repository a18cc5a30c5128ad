"""`tfprune train`: the model of a run, trained with its pruned weights at zero."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from tfprune_cli.declaration import command, write_json_output
from tfprune_cli.options import PositiveNumber, WholeNumber, data_options, json_option, loss_options, seed_option

if TYPE_CHECKING:
    from tfprune_cli.run_folder import RunFolder

_ABOUT = """Train the model of a run with its pruned weights held at exactly zero, validate
on the test split after each epoch, and count the zeros in the end. Then
  model.keras      is the trained model, a plain Keras model with its zeros
  untrained.keras  is the pruned model as it was
  history.json     has what each epoch measured, and how each training was set
A second training goes on where the first ended. Interrupted or failed, a
training leaves the run as it was."""

_EXAMPLES = """examples:
  tfprune train run
      10 epochs on the data it was pruned on, with the model's own optimizer
  tfprune train run --epochs 20 --optimizer sgd --learning-rate 0.1
  tfprune train run --data tfds:mnist --loss sparse_categorical_crossentropy \\
      --from-logits
      a run that was pruned without data and without a loss
"""


@command("train", summary="train a run, pruned weights at zero", about=_ABOUT, examples=_EXAMPLES)
@click.argument("source", metavar="RUN", type=click.Path(), help="a folder that `tfprune prune` wrote")
@data_options("what to train and validate on (default: what the run was pruned on)")
@click.option(
    "--epochs", type=WholeNumber(1, 1_000_000), default=10, metavar="N", help="passes over the data (default: 10)"
)
@click.option("--batch-size", type=WholeNumber(1, 1_000_000), metavar="N", help="examples a batch (default: 128)")
@click.option(
    "--optimizer",
    metavar="NAME",
    help="Keras's name of the optimizer, such as adam or sgd, started anew (default: the model's own, which goes on, "
    "else adam)",
)
@click.option(
    "--learning-rate",
    type=PositiveNumber(),
    metavar="RATE",
    help="its learning rate (default: the optimizer's own)",
)
@loss_options
@seed_option("of the order of the examples and of dropout")
@json_option
@click.pass_obj
def execute(
    command_line: str,
    source: str,
    data: str | None,
    data_dir: str | None,
    epochs: int,
    batch_size: int | None,
    optimizer: str | None,
    learning_rate: float | None,
    loss: str | None,
    from_logits: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Train, write model and history, and print what was measured; if anything fails, the run is as it was."""
    from rich.console import Console

    from tfprune_cli.data import check_data_options, first_outputs, load_data
    from tfprune_cli.losses import check_loss_options, compile_for
    from tfprune_cli.run_folder import open_run
    from tfprune_cli.saved_models import load_model
    from tfprune_cli.training import set_optimizer, train_epochs
    from tfprune_cli.zeros import check_zeros
    from tfprune_init.masking.attachment import attach
    from tfprune_init.masking.wrapper import strip

    console = Console()
    check_loss_options(loss, from_logits)
    run = open_run(source)
    name, data_dir = _choose_data(run, data, data_dir)
    check_data_options(name, data_dir)
    masks, history = run.masks, run.history
    model = load_model(run.folder, purpose="train", compiled=loss is None)
    loaded = load_data(name, data_dir, batch_size=batch_size)
    compile_for(model, first_outputs(model, loaded), loss, from_logits)
    set_optimizer(model, optimizer, learning_rate)
    attach(model, masks)
    settings = {
        "command": command_line,
        "data": {"name": name, "data_dir": data_dir, "description": loaded.description},
        "epochs": epochs,
        "batch_size": loaded.batch_size,
        "optimizer": type(model.optimizer).__name__,
        "learning_rate": float(model.optimizer.learning_rate),
        "seed": seed,
    }
    if not as_json:
        console.print(f"{model.name} on {loaded.description}", highlight=False, markup=False, soft_wrap=True)
    before = len(history["epochs"])
    records = train_epochs(model, loaded, before=before, epochs=epochs, seed=seed, console=None if as_json else console)
    trained = strip(model)
    check_zeros(trained, masks)
    run.save_trained(
        trained, {"trainings": [*history["trainings"], settings], "epochs": [*history["epochs"], *records]}
    )
    if as_json:
        write_json_output({"run": source, "training": settings, "epochs": records})
        return
    gone = masks.size - masks.kept
    console.print(f"All {gone:,} pruned weights are exactly 0.0 after training.", highlight=False)
    console.print(f"The trained model is in {run.folder}", highlight=False, markup=False, soft_wrap=True)


def _choose_data(run: RunFolder, data: str | None, data_dir: str | None) -> tuple[str, str | None]:
    """Return name and folder of the data: what was asked for, else that of the run."""
    from tfprune_init.errors import OptionError

    known = run.about["data"] or {}
    if data is None and not known:
        raise OptionError("The run was pruned without data: say what to train on with --data, such as --data digits.")
    own_folder = known.get("data_dir") if data is None else None
    folder = own_folder if data_dir is None else os.path.abspath(os.path.expanduser(data_dir))
    return data or known["name"], folder
