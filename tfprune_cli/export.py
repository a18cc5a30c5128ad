"""The command `tfprune export`: a saved Keras model as a verified TFLite file, with the account of it."""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tfprune_init.datasets import Dataset, load
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.export import export_tflite

SPARSE: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}
"""What `--sparse` may be, and what it means to `export_tflite`."""

MODEL_FILE = "model.keras"
"""The model in the folder of a run."""


@dataclass(frozen=True)
class Export:
    """What to export, and how.

    Attributes:
        source: A .keras file, or a folder that holds `model.keras`.
        output: The TFLite file to write.
        quantize: What `export_tflite` takes.
        sparse: One of `SPARSE`.
        data: "digits", or "tfds:" and the name of a data set of TFDS; None for synthetic inputs.
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
    if export.data_dir is not None and not (export.data or "").startswith("tfds:"):
        raise OptionError("--data-dir is for data sets of TFDS: it needs --data tfds:NAME.")
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


def load_data(name: str, data_dir: str | None) -> Dataset:
    """The data set that `--data` names.

    Raises:
        OptionError: If it is neither "digits" nor "tfds:" and a name.
        DatasetUnavailableError: If it isn't prepared and can't be downloaded.
    """
    if name != "digits" and not name.startswith("tfds:"):
        raise OptionError(f"--data takes digits or tfds:NAME, such as tfds:mnist. Received: {name!r}")
    return load(name.removeprefix("tfds:"), data_dir)


def load_model(source: str) -> Any:
    """The model in a .keras file or in the folder of a run, loaded without running code that the file brings.

    Args:
        source: The file or folder.

    Raises:
        OptionError: If there is no such file.
        ModelError: If it can't be loaded.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        path = path / MODEL_FILE
    if not path.is_file():
        raise OptionError(
            f"There is no model to export: give a .keras file, or a folder with {MODEL_FILE}. Received: {source!r}"
        )
    try:
        # The Keras that wrote it; each fails over files of the other.
        return _keras_of(path).models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, TypeError, KeyError, AttributeError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{path} can't be loaded: {str(error).strip()[:600]}. A model with layers of your own is exported from "
            "Python: tfprune_init.export_tflite(model, path)."
        ) from error


def _keras_of(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        version = json.loads(archive.read("metadata.json"))["keras_version"]
    if version.startswith("2."):
        import tf_keras

        return tf_keras
    import keras

    return keras
