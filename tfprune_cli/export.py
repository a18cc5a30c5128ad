"""The command `tfprune export`: a saved Keras model as a verified TFLite file, with the account of it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from rich.console import Console

from tfprune_cli.data import check_data_options, load_data
from tfprune_cli.saved import load_model
from tfprune_init.errors import OptionError
from tfprune_init.export import export_tflite

SPARSE: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}
"""What `--sparse` may be, and what it means to `export_tflite`."""


@dataclass(frozen=True)
class Export:
    """What to export, and how.

    Attributes:
        source: A .keras file, or a folder that holds `model.keras`.
        output: The TFLite file to write.
        quantize: What `export_tflite` takes.
        sparse: One of `SPARSE`.
        data: What `load_data` takes; None for synthetic inputs.
        data_dir: Folder of prepared TFDS data.
        target: What `export_tflite` takes.
        measure: Whether to load and time the files.
        as_json: Whether to print the report as JSON instead of tables.
        plot: Picture to write; None for none.
    """

    source: str
    output: str
    quantize: str | None = None
    sparse: str = "auto"
    data: str | None = None
    data_dir: str | None = None
    target: str = "cpu"
    measure: bool = True
    as_json: bool = False
    plot: str | None = None


def run(export: Export, console: Console) -> None:
    """Export, and print the account.

    Args:
        export: What to export, and how.
        console: Where to print.

    Raises:
        PruningError: If an option or the model is wrong, or the file can't be made or disagrees with the model.
    """
    if export.quantize == "int8" and export.data is None:
        raise OptionError(
            "int8 measures the range of every activation on typical inputs: say which with --data, such as "
            "--data digits or --data tfds:mnist."
        )
    check_data_options(export.data, export.data_dir)
    model = load_model(export.source)
    data = None if export.data is None else load_data(export.data, export.data_dir)
    with Console(stderr=True).status("converting, verifying and measuring"):
        report = export_tflite(
            model,
            export.output,
            quantize=export.quantize,
            sparse=SPARSE[export.sparse],
            representative_data=data.train if data is not None and export.quantize == "int8" else None,
            verify=None if data is None else data.test,
            target=export.target,
            measure=export.measure,
        )
    if export.plot is not None:
        report.plot().savefig(export.plot, dpi=150)
    if export.as_json:
        sys.stdout.write(json.dumps(report.to_dict(), indent=2) + "\n")
        return
    report.print(console.file)
    if data is not None:
        console.print(f"Verified on {data.description}", highlight=False, markup=False)
