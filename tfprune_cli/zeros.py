"""The last word on the zeros: counted in the weights, whatever held them there."""

from __future__ import annotations

import numpy as np

from tfprune_init.backend.protocols import Model
from tfprune_init.errors import EnforcementError
from tfprune_init.masks import Masks


def check_zeros(model: Model, masks: Masks) -> None:
    """Count pruned weights that are not exactly 0.0.

    Args:
        model: The trained model, masks off.
        masks: What was kept.

    Raises:
        EnforcementError: If there are any.
    """
    back = {path: np.count_nonzero(np.asarray(t.effective)[~masks[path]]) for path, t in masks.check(model).items()}
    leaks = [f"{count:,} of {path}" for path, count in back.items() if count]
    if leaks:
        raise EnforcementError(f"Pruned weights are not zero after training: {', '.join(leaks)}.")
