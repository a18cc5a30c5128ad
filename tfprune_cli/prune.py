"""The command `tfprune prune`: from a saved model to the folder of a run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tfprune_cli.data import Data, check_data_options, first_outputs, load_data
from tfprune_cli.loss import check_loss_options, compile_for
from tfprune_cli.runs import MASKS_FILE, REPORT_FILE, new_run, write_initial, write_run_file
from tfprune_cli.saved import MODEL_FILE, load_model
from tfprune_init.api import prune_at_init
from tfprune_init.errors import EnforcementError, OptionError
from tfprune_init.layers import strip
from tfprune_init.methods import method_named, recipe_for
from tfprune_init.report import PruningReport
from tfprune_init.targets import find_targets


@dataclass(frozen=True)
class Pruning:
    """What to prune, and how.

    Attributes:
        source: A .keras file.
        output: The folder to write.
        overwrite: Whether to replace the run that is there.
        sparsity: Share of the prunable weights to remove.
        method: One of `methods()`.
        data: What `load_data` takes, or None.
        data_dir: Folder of prepared TFDS data.
        loss: Keras's name of the loss; None for the compiled one.
        from_logits: Whether the outputs are logits, for that loss.
        named: Options of `find_masks` that have a flag of their own.
        settings: Other options of `find_masks`.
        filters: What to leave alone.
        prune_bias: Whether biases are prunable too.
        seed: Seed of the method and of the order of the data.
        as_json: Whether to print the report as JSON instead of tables.
        command_line: The whole command.
    """

    source: str
    output: str
    overwrite: bool
    sparsity: float
    method: str
    data: str | None
    data_dir: str | None
    loss: str | None
    from_logits: bool
    named: Mapping[str, Any]
    settings: Mapping[str, Any]
    filters: tuple[str, ...]
    prune_bias: bool
    seed: int
    as_json: bool
    command_line: str


def run(pruning: Pruning, console: Console) -> None:
    """Prune, write the run, and print the report.

    Args:
        pruning: What to prune, and how.
        console: Where to print.

    Raises:
        PruningError: If an option, the model or the data is wrong, or the network collapses; no folder is written.
    """
    options = _checked_options(pruning)
    with new_run(pruning.output, overwrite=pruning.overwrite) as folder:
        model = load_model(pruning.source, purpose="prune", compiled=pruning.loss is None)
        data = None if pruning.data is None else load_data(pruning.data, pruning.data_dir, seed=pruning.seed)
        outputs = None if data is None else first_outputs(model, data)
        if method_named(pruning.method).needs_data:
            compile_for(model, outputs, pruning.loss, pruning.from_logits)
        which: dict[str, Any] = {"filters": pruning.filters or None, "prune_bias": pruning.prune_bias}
        initial = {t.path: t.tensor.numpy() for t in find_targets(model, **which).prunable}
        report = prune_at_init(
            model,
            None if data is None else data.train,
            sparsity=pruning.sparsity,
            method=pruning.method,
            **which,
            **options,
        )
        report.masks.save(folder / MASKS_FILE)
        write_initial(folder, {path: initial[path] for path in report.masks})
        report.save(folder / REPORT_FILE)
        carried = _save(model, folder / MODEL_FILE)
        write_run_file(folder, _about(pruning, data, report, carried))
    if pruning.as_json:
        sys.stdout.write(json.dumps({"run": pruning.output, **report.to_dict()}, indent=2) + "\n")
        return
    report.print(console.file)
    console.print(f"The run is in {pruning.output}", highlight=False, markup=False, soft_wrap=True)


def _checked_options(pruning: Pruning) -> dict[str, Any]:
    """The options of the method; what needs neither model nor data is refused here."""
    check_data_options(pruning.data, pruning.data_dir)
    check_loss_options(pruning.loss, pruning.from_logits)
    if method_named(pruning.method).needs_data and pruning.data is None:
        raise OptionError(
            f"Method {pruning.method!r} judges connections by data: say which with --data, such as --data digits."
        )
    flags = [name for name in pruning.settings if name in {*pruning.named, "loss", "seed"}]
    if flags:
        raise OptionError(f"{flags[0]} has a flag of its own: use --{flags[0]}. Received: --set {flags[0]}=...")
    options = {**pruning.named, **pruning.settings, "seed": pruning.seed}
    recipe_for(pruning.method, pruning.data, {**options, "loss": pruning.loss})
    return options


def _save(model: Any, path: Path) -> bool:
    """Save the model with its masks where its layers can carry them, without where not; whether they did."""
    try:
        model.save(path)
    except EnforcementError:
        strip(model).save(path)
        return False
    return True


def _about(pruning: Pruning, data: Data | None, report: PruningReport, carried: bool) -> dict[str, Any]:
    data_dir = None if pruning.data_dir is None else os.path.abspath(os.path.expanduser(pruning.data_dir))
    return {
        "command": pruning.command_line,
        "model": os.path.abspath(os.path.expanduser(pruning.source)),
        "data": data and {"name": pruning.data, "data_dir": data_dir, "description": data.description},
        "masks_in_model": carried,
        "versions": report.versions,
    }
