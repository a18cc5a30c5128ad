"""`tfprune prune`: from a saved model to the folder of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tfprune_cli.declaration import command, show_error, write_json_output
from tfprune_cli.options import (
    Setting,
    budget_option,
    data_options,
    json_option,
    loss_options,
    read_table,
    seed_option,
    table_option,
)

_ABOUT = """Prune a saved Keras model before it is trained, and write a run: a folder with
  model.keras   the pruned model, untrained; it keeps its masks where the
                file can carry them
  masks.npz     the masks, for tfprune_init.Masks.load
  initial.npz   the weights that the masked variables had, by path
  report.json   what is left of each layer, and how it was found
  run.json      the command, the data and the versions
The folder appears when all of it is written. What a killed run left beside it,
a hidden folder .unfinished-..., is removed by the next."""

_EXAMPLES = """examples:
  tfprune prune model.keras --data digits --sparsity 0.95 -o run
      FORCE, judged by the loss that the model is compiled with
  tfprune prune model.keras --data tfds:mnist --method snip --sparsity 0.9 \\
      --loss sparse_categorical_crossentropy --from-logits -o run
      a model saved without a loss, whose outputs are logits
  tfprune prune model.keras --method synflow --sparsity 0.98 -o run
      a method that looks at no data
  tfprune prune model.keras --data mine:load --method grasp --sparsity 0.9 \\
      --set temperature=100 --exclude head -o run
      data from load() in mine.py, an option of the method, layer head as it is
"""


@command("prune", summary="prune a saved model into a run folder", about=_ABOUT, examples=_EXAMPLES)
@click.argument("source", metavar="MODEL", type=click.Path(), help="a .keras file, of Keras 3 or tf_keras")
@click.option("-o", "--output", required=True, metavar="RUN", type=click.Path(), help="the folder to write")
@click.option("--overwrite", is_flag=True, help="replace the run that is there, if any")
@table_option("sparsity", type=float, metavar="SHARE", help="share of the weights to remove, in [0, 1)")
@budget_option
@table_option("method", help="one of those `tfprune methods` lists")
@data_options("what connections are judged by; methods that look at no data only check on it that signals pass")
@loss_options
@table_option("steps")
@table_option("schedule")
@table_option("granularity")
@table_option("allocation")
@table_option("batches")
@table_option("training")
@table_option("normalize")
@table_option("shuffle")
@table_option("avoid_layer_collapse")
@table_option("on_collapse")
@table_option("jit_compile")
@table_option("prune_bias")
@table_option("exclude", multiple=True, help=read_table()["exclude"]["help"] + "; may be repeated")
@click.option(
    "--set",
    "settings",
    type=Setting(),
    multiple=True,
    metavar="NAME=VALUE",
    help="an option of the method or the granularity, such as block_size=(1,4); may be repeated",
)
@seed_option("of the method and of the order of the data")
@json_option
@click.pass_obj
def execute(
    command_line: str,
    /,
    source: str,
    output: str,
    overwrite: bool,
    sparsity: float | None,
    budget: tuple[str, Any] | None,
    method: str,
    data: str | None,
    data_dir: str | None,
    loss: str | None,
    from_logits: bool,
    exclude: tuple[str, ...],
    prune_bias: bool,
    settings: tuple[tuple[str, Any], ...],
    seed: int,
    as_json: bool,
    **named: Any,
) -> None:
    """Prune, write the run, and print the report; if anything fails, no folder is written."""
    import warnings

    from rich.console import Console

    from tfprune_cli.budget import make_budget
    from tfprune_cli.data import check_data_options, first_outputs, load_data
    from tfprune_cli.losses import check_loss_options, compile_for
    from tfprune_cli.run_folder import new_run, write_initial
    from tfprune_cli.saved_models import MODEL_FILE, load_model
    from tfprune_init.api import prune_at_init
    from tfprune_init.errors import NetworkCollapseWarning
    from tfprune_init.experiments.storage import MASKS_FILE, PRUNED, REPORT_FILE, write_run_file
    from tfprune_init.graph.variables import find_prunable_variables
    from tfprune_init.methods import find_method

    # What needs neither model nor data is refused before they are loaded.
    check_data_options(data, data_dir)
    check_loss_options(loss, from_logits)
    options = {**named, **dict(settings), "seed": seed}
    if (sparsity is None) == (budget is None):
        given = "neither" if sparsity is None else "both"
        raise click.UsageError(f"How much may stay? Give --sparsity or --budget. Received: {given}.")
    allowed = make_budget(budget)
    _check_options(method, data, {**options, "loss": loss}, [name for name, _ in settings])
    with new_run(output, overwrite=overwrite) as folder:
        model = load_model(source, purpose="prune", compiled=loss is None)
        loaded = None if data is None else load_data(data, data_dir, seed=seed)
        outputs = None if loaded is None else first_outputs(model, loaded)
        if find_method(method).needs_data:
            compile_for(model, outputs, loss, from_logits)
        which: dict[str, Any] = {"exclude": exclude or None, "prune_bias": prune_bias}
        initial = {t.path: t.tensor.numpy() for t in find_prunable_variables(model, **which).prunable}
        train = None if loaded is None else loaded.train
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NetworkCollapseWarning)  # told below, without a line of code
            report = prune_at_init(model, train, sparsity=sparsity, budget=allowed, method=method, **which, **options)
        report.masks.save(folder / MASKS_FILE)
        write_initial(folder, {path: initial[path] for path in report.masks})
        report.save(folder / REPORT_FILE)
        about = {
            "command": command_line,
            "model": os.path.abspath(os.path.expanduser(source)),
            "data": loaded
            and {
                "name": data,
                "data_dir": None if data_dir is None else os.path.abspath(os.path.expanduser(data_dir)),
                "description": loaded.description,
            },
            "masks_in_model": _save(model, folder / MODEL_FILE),
            "versions": report.versions,
        }
        write_run_file(folder, PRUNED, about)
    if report.collapse is not None:
        show_error(NetworkCollapseWarning(f"warning: {report.collapse}"))
    if as_json:
        write_json_output({"run": output, **report.to_dict()})
        return
    console = Console()
    report.print(console.file)
    console.print(f"The run is in {output}", highlight=False, markup=False, soft_wrap=True)


def _check_options(method: str, data: str | None, options: Mapping[str, Any], settings: list[str]) -> None:
    from tfprune_init.errors import OptionError
    from tfprune_init.methods import find_method, resolve_method

    if find_method(method).needs_data and data is None:
        raise OptionError(
            f"Method {method!r} judges connections by data: say which with --data, such as --data digits."
        )
    flags = [name for name in settings if name in {param.name for param in execute.params}]
    if flags:
        flag = f"--{flags[0].replace('_', '-')}"
        raise OptionError(f"{flags[0]} has a flag of its own: use {flag}. Received: --set {flags[0]}=...")
    resolve_method(method, data, options)


def _save(model: Any, path: Path) -> bool:
    """Save the model with its masks where its layers can carry them, without where not; return whether they did."""
    from tfprune_init.errors import EnforcementError
    from tfprune_init.masking.wrapper import strip

    try:
        model.save(path)
    except EnforcementError:
        strip(model).save(path)
        return False
    return True
