"""Training on many replicas: a loop for Keras 3 models where Keras's own `fit` does not work.

with strategy.scope():
model = ...
model.compile(...)
tpi.prune_at_init(model, train, sparsity=0.9)
history = tpi.distribute.fit(model, train, epochs=5, checkpoint="run/")
"""

from __future__ import annotations

from tfprune_init.distribute.fit import fit
from tfprune_init.keras_fit import fit_refusal

__all__ = ["fit", "fit_refusal"]
