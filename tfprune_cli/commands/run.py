"""`tfprune run`: one method from the untrained model to the trained one, however often it prunes in between."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tfprune_cli.declaration import command, write_json_output
from tfprune_cli.options import (
    PositiveNumber,
    Setting,
    WholeNumber,
    budget_option,
    data_options,
    json_option,
    loss_options,
    seed_option,
    table_option,
)

_ABOUT = """Run a method from an untrained model to a trained and pruned one: a method that
prunes before training, or a procedure that prunes while it trains, such as
lottery_ticket. `tfprune methods` lists both. It writes a run, a folder with
  model.keras   the trained model, a plain Keras model with its zeros
  masks.npz     the masks, for tfprune_init.Masks.load
  initial.npz   the weights that the masked variables began with, by path
  report.json   what is left of each layer
  history.json  what each epoch measured
  run.json      the command, the data, the versions, and what the run cost
The folder appears when all of it is written. Until then the state is in
RUN.state: the same command after an interruption goes on there, and ends with
the same weights."""

_EXAMPLES = """examples:
  tfprune run lottery_ticket lenet_300_100 --data digits --sparsity 0.9 \\
      --epochs 5 --set rewind_to=10 -o ticket
  tfprune run force model.keras --data tfds:mnist --sparsity 0.98 -o run
      the same as tfprune prune and tfprune train
  tfprune run synflow mine:build --data mine:load --sparsity 0.9 -o run
      a model that build() or build(seed) in mine.py returns
"""


@command("run", summary="train and prune a model with any method", about=_ABOUT, examples=_EXAMPLES)
@click.argument("method", metavar="METHOD", help="one of those `tfprune methods` lists")
@click.argument(
    "source",
    metavar="MODEL",
    type=click.Path(),
    help="a .keras file, a model of tfprune_init.models, or package.module:function, which returns a new model",
)
@click.option("-o", "--output", required=True, metavar="RUN", type=click.Path(), help="the folder to write")
@click.option("--overwrite", is_flag=True, help="replace the run that is there, if any")
@table_option("sparsity", type=float, metavar="SHARE", help="share of the weights to remove, in [0, 1)")
@budget_option
@data_options("what to train on, to judge connections by, and to measure on")
@click.option(
    "--epochs", type=WholeNumber(1, 1_000_000), default=10, metavar="N", help="passes over the data (default: 10)"
)
@click.option("--batch-size", type=WholeNumber(1, 1_000_000), metavar="N", help="examples a batch (default: 128)")
@click.option("--optimizer", metavar="NAME", help="Keras's name of the optimizer (default: the model's own, else adam)")
@click.option("--learning-rate", type=PositiveNumber(), metavar="RATE", help="its learning rate")
@loss_options
@table_option("on_collapse")
@click.option(
    "--set",
    "settings",
    type=Setting(),
    multiple=True,
    metavar="NAME=VALUE",
    help="an option of the method, such as rewind_to=10; may be repeated",
)
@seed_option("of the model, of all that is random, and of the order of the data")
@json_option
@click.pass_obj
def execute(
    command_line: str,
    /,
    method: str,
    source: str,
    output: str,
    overwrite: bool,
    sparsity: float | None,
    budget: tuple[str, Any] | None,
    data: str | None,
    data_dir: str | None,
    epochs: int,
    batch_size: int | None,
    optimizer: str | None,
    learning_rate: float | None,
    loss: str | None,
    from_logits: bool,
    on_collapse: str | None,
    settings: tuple[tuple[str, Any], ...],
    seed: int,
    as_json: bool,
) -> None:
    """Run the method, write the run, and print what it reached and cost."""
    import shutil
    import warnings

    from rich.console import Console

    from tfprune_cli.budget import make_budget
    from tfprune_cli.data import check_data_options, first_outputs, load_data
    from tfprune_cli.losses import check_loss_options, compile_for
    from tfprune_cli.run_folder import check_output, new_run, write_trained
    from tfprune_cli.training import set_optimizer
    from tfprune_init.errors import NetworkCollapseWarning, OptionError
    from tfprune_init.graph.variables import find_prunable_variables
    from tfprune_init.training import RECIPES
    from tfprune_init.training import run as run_method
    from tfprune_init.training.named_procedures import check_options

    options = dict(settings)
    check_data_options(data, data_dir)
    check_loss_options(loss, from_logits)
    if data is None:
        raise OptionError("A run trains: say on what with --data, such as --data digits.")
    check_options(method, data, options)
    if method in RECIPES and RECIPES[method].cuts_channels:
        raise OptionError(
            f"{method!r} makes a smaller network and leaves no masks, which are what a run's folder is made of. Use "
            "tpi.run or tpi.compare in Python."
        )
    allowed = make_budget(budget)
    check_output(output, overwrite=overwrite)
    loaded = load_data(data, data_dir, batch_size=batch_size, seed=seed)
    initial: dict[str, Any] = {}

    def build(seed: int) -> Any:
        model = _build_model(source, loaded, seed, loss)
        compile_for(model, first_outputs(model, loaded), loss, from_logits)
        set_optimizer(model, optimizer, learning_rate)
        variables = find_prunable_variables(model)
        initial.update({target.path: target.tensor.numpy() for target in variables.prunable})
        return model

    with new_run(output, overwrite=overwrite) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", NetworkCollapseWarning)  # the report tells it
        state = Path(f"{Path(output).expanduser().resolve()}.state")
        result = run_method(
            method,
            build,
            (loaded.train, loaded.test),
            sparsity=sparsity,
            budget=allowed,
            epochs=epochs,
            seed=seed,
            folder=state,
            on_collapse=on_collapse or "raise",
            verbose=0 if as_json else "auto",
            **options,
        )
        about = {
            "command": command_line,
            "model": source if not os.path.exists(source) else os.path.abspath(os.path.expanduser(source)),
            "data": {
                "name": data,
                "data_dir": None if data_dir is None else os.path.abspath(os.path.expanduser(data_dir)),
                "description": loaded.description,
            },
            "masks_in_model": False,
            "cost": asdict(result.cost),
        }
        training = {
            **{"command": command_line, "data": about["data"], "epochs": epochs, "batch_size": loaded.batch_size},
            **{"optimizer": type(result.model.optimizer).__name__, "seed": seed},
        }
        write_trained(folder, result, initial, about, training)
    shutil.rmtree(state)
    if as_json:
        write_json_output({"run": output, **result.to_dict()})
        return
    console = Console()
    result.print(console.file)
    console.print(f"The run is in {output}", highlight=False, markup=False, soft_wrap=True)


def _build_model(source: str, loaded: Any, seed: int, loss: str | None) -> Any:
    from tfprune_cli.comparison_file import find_model
    from tfprune_cli.data import names_function
    from tfprune_cli.saved_models import load_model
    from tfprune_init import models
    from tfprune_init.training.inputs import compile_model, make_model

    if source not in models.__all__ and not names_function(source):
        return load_model(source, purpose="run", compiled=loss is None)
    model = make_model(find_model(source, lambda: (loaded.train, loaded.test)), seed)
    if loss is None:
        compile_model(model)
    return model
