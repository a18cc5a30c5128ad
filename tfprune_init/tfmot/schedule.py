"""The schedule of masks that are given, not searched for while the model trains."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfprune_init.tfmot.imports import sparsity, tf_keras


@tf_keras.utils.register_keras_serializable(package="tfprune_init")
class FixedMasks(sparsity.PruningSchedule):
    """A TF-MOT schedule that never updates masks.

    `PruneAtInit` has it; given to TF-MOT's own `prune_low_magnitude`, it keeps the masks that were assigned to
    the wrappers.

    Example:
        >>> from tfprune_init.tfmot import FixedMasks
        >>> update, sparsity = FixedMasks()(step=100)
        >>> bool(update), float(sparsity)
        (False, 0.0)
    """

    def __call__(self, step: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Whether to update masks at a step, which is never, and to which sparsity: 0, TF-MOT's word for none."""
        return tf.constant(False), tf.constant(0.0)

    def get_config(self) -> dict[str, Any]:
        """Its registered name, by which TF-MOT's wrapper finds the class again."""
        return {"class_name": tf_keras.utils.get_registered_name(type(self)), "config": {}}
