"""The callback that holds zeros where TF-MOT's own callback leaves them to chance."""

from __future__ import annotations

from typing import Any

from tfprune_init.backend.compat import get_tf_variable
from tfprune_init.backend.instance_methods import get_replacement
from tfprune_init.masking.attachment import install_hooks
from tfprune_init.tfmot.constraint import find_wrappers, hold_at_zero
from tfprune_init.tfmot.imports import tf_keras


class EnforceMasks(tf_keras.callbacks.Callback):
    """Holds what TF-MOT's wrappers mask at exactly zero while `fit` runs, in our wrappers and in TF-MOT's own.

    Wrappers made by `wrap` hold their zeros without it. It adds three things. On TF-MOT's own wrappers, whose
    weights leak between batches, with averaged weights (EMA) and in checkpoints, it puts the same hold, and takes
    over what `UpdatePruningStep` does. Loaded models get masked gradients again where the optimizer shares
    statistics between weights (clipnorm). What a training step writes past the optimizer is zero again at the end
    of each epoch, for the callbacks after it in the list.
    """

    def on_train_begin(self, logs: Any = None) -> None:
        """Hold every masked weight, and start TF-MOT's count of steps where nothing else did."""
        new = get_replacement(self.model, "compile") is None  # what install_hooks puts there
        for wrapper in find_wrappers(self.model):
            new |= any([hold_at_zero(weight, mask) for weight, mask, _ in wrapper.pruning_vars])
            if int(wrapper.pruning_step.numpy()) == -1:
                wrapper.pruning_step.assign(0)
        if new:
            install_hooks(self.model)
            self.model.make_train_function(force=True)  # fit goes on with it

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Put back zeros that something wrote over."""
        for wrapper in find_wrappers(self.model):
            for weight, _, _ in wrapper.pruning_vars:
                get_tf_variable(weight).assign(get_tf_variable(weight))


def callbacks() -> list[EnforceMasks]:
    """Callbacks to put first in the list for `fit`, before `UpdatePruningStep` or instead of it.

    Example:
        >>> from tfprune_init import tfmot
        >>> [type(one).__name__ for one in tfmot.callbacks()]
        ['EnforceMasks']
    """
    return [EnforceMasks()]
