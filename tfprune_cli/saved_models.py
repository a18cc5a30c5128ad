"""Saved Keras models: loaded by the Keras that wrote them, without running code that a file brings."""

from __future__ import annotations

import json
import logging
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfprune_init.errors import ModelError, OptionError

MODEL_FILE = "model.keras"
"""The model in the folder of a run."""

_DAMAGE = (OSError, EOFError, RuntimeError, IndexError, MemoryError, zipfile.BadZipFile, zlib.error, struct.error)
"""What reading a damaged archive can raise, besides what Keras raises over a model that it does not know."""

_NO_NEWS = "Skipping variable loading for optimizer"


def load_model(source: str | Path, *, purpose: str = "export", compiled: bool = False) -> Any:
    """Load the model in a .keras file or in the folder of a run.

    Args:
        source: The file or folder.
        purpose: What the model is for, to say in messages.
        compiled: Whether to load its loss, metrics and optimizer too, where it has them.

    Raises:
        OptionError: If there is no such file.
        ModelError: If it can't be loaded.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        path = path / MODEL_FILE
    if not path.is_file():
        raise OptionError(
            f"There is no model to {purpose}: give a .keras file, or a folder with {MODEL_FILE}. "
            f"Received: {str(source)!r}"
        )
    try:
        with _new_optimizers_expected():
            # The Keras that wrote it; each fails over files of the other.
            return _keras_of(path).models.load_model(path, compile=compiled, safe_mode=True)
    except (*_DAMAGE, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error).strip()[:600]
        raise ModelError(
            f"{path} can't be loaded: {reason}. A model with layers, losses or code of your own is loaded in Python, "
            "where tfprune_init does the same."
        ) from error


@contextmanager
def _new_optimizers_expected() -> Iterator[None]:
    """Silence that an optimizer which never took a step was saved without the variables that the loaded one has."""

    def is_news(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_NO_NEWS)

    logger = logging.getLogger("absl")
    logger.addFilter(is_news)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_NO_NEWS)
            yield
    finally:
        logger.removeFilter(is_news)


def _keras_of(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        version = json.loads(archive.read("metadata.json"))["keras_version"]
    if version.startswith("2."):
        import tf_keras

        return tf_keras
    import keras

    return keras
