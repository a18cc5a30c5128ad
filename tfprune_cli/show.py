"""The command `tfprune show`: what masks keep, and what a run reached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tfprune_cli.progress import measured
from tfprune_cli.runs import Run, open_run
from tfprune_init.errors import OptionError
from tfprune_init.masks import Masks


def run(source: str, as_json: bool, console: Console) -> None:
    """Print what masks keep.

    Args:
        source: The folder of a run, or a file of masks.
        as_json: As JSON, for programs, rather than as a table.
        console: Where to print.

    Raises:
        OptionError: If there is neither a run nor a file.
        MaskFileError: If the file holds no masks.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise OptionError(f"There is neither a run nor a file of masks of that name. Received: {source!r}")
    run = open_run(path) if path.is_dir() else None
    masks = Masks.load(path) if run is None else run.masks
    if as_json:
        whole = _describe_masks(masks) | ({} if run is None else {"run": _describe_run(run)})
        console.file.write(json.dumps(whole, indent=2) + "\n")
        return
    console.print(_table(masks, source))
    lines = _mask_lines(masks) + ([] if run is None else _run_lines(_describe_run(run)))
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def _describe_masks(masks: Masks) -> dict[str, Any]:
    rows = [
        {
            "path": path,
            "shape": list(mask.shape),
            "size": mask.size,
            "kept": int(np.count_nonzero(mask)),
            "density": float(np.mean(mask)),
        }
        for path, mask in masks.items()
    ]
    return {
        "sparsity": masks.sparsity,
        "size": masks.size,
        "kept": masks.kept,
        "fingerprint": masks.fingerprint,
        "variables": rows,
        "empty": _empty(masks),
    }


def _describe_run(run: Run) -> dict[str, Any]:
    report, history = run.report, run.history
    return {
        "model": run.about["model"],
        "command": run.about["command"],
        "method": report["method"],
        "options": report["options"],
        "requested_sparsity": report["requested_sparsity"],
        "data": run.about["data"],
        "trained_epochs": len(history["epochs"]),
        "trained_on": history["trainings"][-1]["data"] if history["trainings"] else None,
        "last_epoch": history["epochs"][-1] if history["epochs"] else None,
    }


def _empty(masks: Masks) -> list[str]:
    return [path for path, mask in masks.items() if not mask.any()]


def _table(masks: Masks, source: str) -> Table:
    table = Table(title=source, title_justify="left")
    table.add_column("variable", overflow="fold")
    for name in ("shape", "kept", "of", "density"):
        table.add_column(name, justify="right")
    for path, mask in masks.items():
        kept = int(np.count_nonzero(mask))
        name = path if kept else f"{path} (empty)"
        table.add_row(name, "x".join(map(str, mask.shape)), f"{kept:,}", f"{mask.size:,}", f"{kept / mask.size:.2%}")
    table.add_section()
    table.add_row("all", "", f"{masks.kept:,}", f"{masks.size:,}", f"{masks.density:.2%}")
    return table


def _mask_lines(masks: Masks) -> list[str]:
    lines = [f"sparsity {masks.sparsity:.4%}", f"fingerprint {masks.fingerprint}"]
    return lines + ([f"Keep no weight: {', '.join(_empty(masks))}."] if _empty(masks) else [])


def _run_lines(run: dict[str, Any]) -> list[str]:
    data = run["data"]["description"] if run["data"] else "no data"
    lines = [f"Pruned by {run['method']} (asked for {run['requested_sparsity']:.4%}) on {data}"]
    if run["last_epoch"] is None:
        return [*lines, "Not trained yet."]
    values = {name: value for name, value in run["last_epoch"].items() if name not in ("epoch", "seconds")}
    epochs = f"{run['trained_epochs']} epoch" + ("s" if run["trained_epochs"] > 1 else "")
    return [
        *lines,
        f"Trained for {epochs} on {run['trained_on']['description']}; val_ is its test split",
        f"Last epoch: {measured(values)}",
    ]
