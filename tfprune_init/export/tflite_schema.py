"""The classes of the TFLite file format, generated from its schema: the one place that imports them from TensorFlow."""

from __future__ import annotations

from tfprune_init.errors import BackendError

try:
    from tensorflow.lite.python import schema_py_generated as schema
except ImportError as error:
    raise BackendError(
        "TFLite files are read and written with tensorflow.lite.python.schema_py_generated, which this TensorFlow does "
        f"not have. Received: {error}. Try: pip install 'tensorflow>=2.21,<2.22', or a newer tfprune_init."
    ) from error

__all__ = ["schema"]
