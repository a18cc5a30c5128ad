"""Training on many replicas: a loop for Keras 3 models where Keras's own `fit` does not work.

    with strategy.scope():
        model = ...
        model.compile(...)
    tpi.prune_at_init(model, train, sparsity=0.9)
    history = tpi.distribute.fit(model, train, epochs=5, checkpoint="run/")

Masks are held after every step on every replica.
"""

from __future__ import annotations

from tfprune_init.backend.fit_support import unsupported_fit_reason
from tfprune_init.distribute.training import fit

__all__ = [
    "fit",
    "unsupported_fit_reason",
]
