"""`tfprune show`: what masks keep, and what a run or a comparison reached."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfprune_cli.declaration import command, write_json_output
from tfprune_cli.options import json_option

if TYPE_CHECKING:
    from rich.table import Table

    from tfprune_init.masks import Masks

_ABOUT = """Say what masks keep: sparsity, fingerprint, and for each variable its shape and
how many of its weights are kept. For a run also the method, the data and, once
it is trained, what was measured on the test split. For a comparison the
accuracies of all methods."""

_EXAMPLES = """examples:
  tfprune show run
  tfprune show masks.npz --json
  tfprune show runs/lenet
      what `tfprune compare` wrote there
  tfprune show runs/lenet/runs/075695dfd2c9db83
      one run of it
"""


@command("show", summary="say what masks keep, and what a run reached", about=_ABOUT, examples=_EXAMPLES)
@click.argument(
    "source",
    metavar="RUN_OR_MASKS",
    type=click.Path(),
    help="a folder of `tfprune prune` or `tfprune compare`, or a file of masks",
)
@json_option
def execute(source: str, as_json: bool) -> None:
    """Print what masks keep."""
    from rich.console import Console

    from tfprune_init.errors import OptionError
    from tfprune_init.experiments.storage import RESULTS
    from tfprune_init.masks import Masks

    path = Path(source).expanduser()
    if not path.exists():
        raise OptionError(f"There is neither a run nor a file of masks of that name. Received: {source!r}")
    if (path / RESULTS).is_file():
        _show_comparison(path, as_json)
        return
    masks, about = _read_run(path) if path.is_dir() else (Masks.load(path), None)
    if as_json:
        known = {} if masks is None else _describe_masks(masks)
        write_json_output(known | ({} if about is None else {"run": about}))
        return
    console = Console()
    lines = [] if about is None else _make_run_lines(about)
    if masks is not None:
        console.print(_make_table(masks, source))
        lines = _make_mask_lines(masks) + lines
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def _show_comparison(folder: Path, as_json: bool) -> None:
    import sys
    from dataclasses import asdict

    from tfprune_init.experiments import Results

    results = Results.load(folder)
    if as_json:
        write_json_output({"out": str(folder), "summary": [asdict(row) for row in results.summary()]})
    else:
        results.print(sys.stdout)


def _read_run(folder: Path) -> tuple[Masks | None, dict[str, Any]]:
    """Return the masks of a run, if it found any, and what is known of it, in types that JSON knows."""
    from tfprune_cli.run_folder import is_run, open_run
    from tfprune_init.experiments import Run
    from tfprune_init.experiments.storage import COMPARED, MASKS_FILE, read_run_file
    from tfprune_init.masks import Masks

    values = read_run_file(folder) if is_run(folder) else {}
    if values.get("kind") == COMPARED:
        masks = Masks.load(folder / MASKS_FILE) if (folder / MASKS_FILE).is_file() else None
        Run.from_dict(values, f"{folder} is damaged")
        return masks, _describe_compared_run(values)
    run = open_run(folder)
    report, history = run.report, run.history
    about = {
        "kind": run.about["kind"],
        "model": run.about["model"],
        "command": run.about["command"],
        "method": report["method"],
        "options": report["options"],
        "requested_sparsity": report["requested_sparsity"],
        "data": run.about["data"],
        "trained_epochs": len(history["epochs"]),
        "trained_on": history["trainings"][-1]["data"] if history["trainings"] else None,
        "last_epoch": history["epochs"][-1] if history["epochs"] else None,
        "cost": run.about.get("cost"),
    }
    return run.masks, about


def _describe_compared_run(values: dict[str, Any]) -> dict[str, Any]:
    same = ("kind", "id", "label", "method", "options", "seed", "status", "error", "accuracy", "loss", "guess")
    return {name: values[name] for name in same} | {
        "requested_sparsity": values["sparsity"],
        "trained_epochs": len(values["history"]),
        "last_epoch": {"epoch": len(values["history"]), **values["history"][-1]} if values["history"] else None,
    }


def _describe_masks(masks: Masks) -> dict[str, Any]:
    rows = [
        {
            "path": path,
            "shape": list(mask.shape),
            "size": mask.size,
            "kept": int(mask.sum()),
            "density": float(mask.mean()),
        }
        for path, mask in masks.items()
    ]
    return {
        "sparsity": masks.sparsity,
        "size": masks.size,
        "kept": masks.kept,
        "fingerprint": masks.fingerprint,
        "collapse": masks.collapse,
        "variables": rows,
        "empty": _find_empty(masks),
    }


def _find_empty(masks: Masks) -> list[str]:
    return [path for path, mask in masks.items() if not mask.any()]


def _make_table(masks: Masks, source: str) -> Table:
    from rich.table import Table

    table = Table(title=source, title_justify="left")
    table.add_column("variable", overflow="fold")
    for name in ("shape", "kept", "of", "density"):
        table.add_column(name, justify="right")
    for path, mask in masks.items():
        kept = int(mask.sum())
        name = path if kept else f"{path} (empty)"
        table.add_row(name, "x".join(map(str, mask.shape)), f"{kept:,}", f"{mask.size:,}", f"{kept / mask.size:.2%}")
    table.add_section()
    table.add_row("all", "", f"{masks.kept:,}", f"{masks.size:,}", f"{masks.density:.2%}")
    return table


def _make_mask_lines(masks: Masks) -> list[str]:
    empty = _find_empty(masks)
    lines = [f"sparsity {masks.sparsity:.4%}", f"fingerprint {masks.fingerprint}"]
    lines += [f"Keep no weight: {', '.join(empty)}."] if empty else []
    return lines if masks.collapse is None else [*lines, masks.collapse]


def _make_run_lines(run: dict[str, Any]) -> list[str]:
    from tfprune_init.experiments.storage import COMPARED
    from tfprune_init.training import TrainingCost

    if run["kind"] == COMPARED:
        return _make_compared_lines(run)
    data = run["data"]["description"] if run["data"] else "no data"
    lines = [f"Pruned by {run['method']} ({_describe_goal(run)}) on {data}"]
    if run["last_epoch"] is None:
        return [*lines, "Not trained yet."]
    return [
        *lines,
        f"Trained for {_count_epochs(run)} on {run['trained_on']['description']}; val_ is its test split",
        f"Last epoch: {_describe_epoch(run['last_epoch'])}",
        *([TrainingCost(**run["cost"]).describe()] if run["cost"] else []),
    ]


def _make_compared_lines(run: dict[str, Any]) -> list[str]:
    options = "".join(f", {name}={value!r}" for name, value in run["options"].items())
    lines = [
        f"Run {run['id']} of a comparison: {run['label']} (method {run['method']}{options}), "
        f"{_describe_goal(run)}, seed {run['seed']}"
    ]
    if run["status"] != "trained":
        return [*lines, f"It {run['status']}: {run['error']}"]
    loss = "not finite" if run["loss"] is None else f"{run['loss']:.4f}"
    return [
        *lines,
        f"Trained for {_count_epochs(run)}; last epoch: {_describe_epoch(run['last_epoch'])}",
        f"Test split: accuracy {run['accuracy']:.4f}, loss {loss}; always guessing the most frequent class gives "
        f"{run['guess']:.4f}",
    ]


def _describe_goal(run: dict[str, Any]) -> str:
    asked = run["requested_sparsity"]
    return "as much as it found" if asked is None else f"asked for {asked:.4%}"


def _count_epochs(run: dict[str, Any]) -> str:
    return f"{run['trained_epochs']} epoch" + ("s" if run["trained_epochs"] > 1 else "")


def _describe_epoch(epoch: dict[str, Any]) -> str:
    from tfprune_cli.progress import describe_measured

    values = {name: value for name, value in epoch.items() if name not in ("epoch", "seconds") and value is not None}
    return describe_measured(values)
