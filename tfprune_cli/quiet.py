"""A quiet start: TensorFlow writes to the standard error while it is imported.

No setting silences all of those lines, so the file descriptor must point elsewhere during the import. A
program may do that to itself, a library may not.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def import_tensorflow() -> None:
    """Import TensorFlow without its noise.

    A TF_CPP_MIN_LOG_LEVEL in the environment is kept: whoever sets it wants to read the log.
    """
    if _LOG_LEVEL in os.environ:
        return
    # What goes wrong at run time reaches Python as an exception; the log adds which GPUs are missing.
    os.environ[_LOG_LEVEL] = "3"
    with _standard_error_dropped():
        importlib.import_module("tensorflow")


@contextmanager
def _standard_error_dropped() -> Iterator[None]:
    # Native code writes to the descriptor, past sys.stderr.
    kept = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)
