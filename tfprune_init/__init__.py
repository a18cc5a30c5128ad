"""Prune neural networks before they are trained, in TensorFlow and Keras.

    import tfprune_init as tpi

    report = tpi.prune_at_init(model, train, sparsity=0.95, method="force")
    model.fit(train, epochs=5)
    edge = tpi.export_tflite(tpi.strip(model), "model.tflite")

See the README for the whole story.
"""

from typing import TYPE_CHECKING, Any

from tfprune_init.api import find_masks, prune_at_init, score
from tfprune_init.callbacks import PruneDuringTraining
from tfprune_init.criteria import criterion
from tfprune_init.enforce import attach
from tfprune_init.errors import PruningError
from tfprune_init.layers import PrunableLayer, strip, wrap
from tfprune_init.masks import Masks
from tfprune_init.methods import Method, methods, register
from tfprune_init.optimizers import mask_gradients
from tfprune_init.reinitialize import reinitialize
from tfprune_init.report import PruningReport
from tfprune_init.version import __version__

if TYPE_CHECKING:
    from tfprune_init import datasets, distribute, models, pages, plots, tfmot
    from tfprune_init.compaction import Compaction
    from tfprune_init.compaction.compact import compact
    from tfprune_init.experiments import Results
    from tfprune_init.experiments.compare import compare
    from tfprune_init.export import EdgeReport, export_tflite
    from tfprune_init.tensorboard import TensorBoardSparsity

__all__ = [
    "Compaction",
    "EdgeReport",
    "Masks",
    "Method",
    "PrunableLayer",
    "PruneDuringTraining",
    "PruningError",
    "PruningReport",
    "Results",
    "TensorBoardSparsity",
    "__version__",
    "attach",
    "compact",
    "compare",
    "criterion",
    "datasets",
    "distribute",
    "export_tflite",
    "find_masks",
    "mask_gradients",
    "methods",
    "models",
    "pages",
    "plots",
    "prune_at_init",
    "register",
    "reinitialize",
    "score",
    "strip",
    "tfmot",
    "wrap",
]

_LATER = {
    "Compaction": "compaction",
    "EdgeReport": "export",
    "Results": "experiments",
    "TensorBoardSparsity": "tensorboard",
    "compact": "compaction",
    "compare": "experiments",
    "datasets": "",
    "distribute": "",
    "export_tflite": "export",
    "models": "",
    "pages": "",
    "plots": "",
    "tfmot": "",
}


def __getattr__(name: str) -> Any:
    """Import the rooms that not every user enters on first use."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = import_module(f"{__name__}.{_LATER[name] or name}")
    return getattr(home, name) if _LATER[name] else home
