"""The wrapper that holds given masks: a TF-MOT wrapper to TF-MOT, and exact zeros after every step."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfprune_init.backend.compat import copy_batch_input_shape
from tfprune_init.errors import ModelError
from tfprune_init.graph.variables import list_variables
from tfprune_init.masks import Masks
from tfprune_init.tfmot.constraint import hold_at_zero
from tfprune_init.tfmot.imports import PruneLowMagnitude, Pruning, tf_keras
from tfprune_init.tfmot.schedule import FixedMasks


@tf_keras.utils.register_keras_serializable(package="tfprune_init")
class PruneAtInit(PruneLowMagnitude):
    """A layer whose pruned weights stay at zero, in TF-MOT's own kind of wrapper.

    It wraps any layer of tf_keras and computes exactly what the layer inside computes. TF-MOT's callbacks,
    `collect_prunable_layers` and `strip_pruning` take it for one of theirs, but it needs none of them: its masks
    are variables that a constraint on the masked weights reads after every step. They are saved with the model, in
    .keras, .h5 and SavedModel files, and come back with no custom_objects wherever `tfprune_init.tfmot` is imported.

    Args:
        layer: The layer to wrap.
        masks: A mask for each masked variable, by its path within the layer, e.g. "kernel" or "query/kernel".
        paths: Paths of all variables of the layer in their order, if its own differ: layers within it that
            have no name of their own are named anew whenever it is loaded. Its own by default.
        **kwargs: Usual layer arguments.

    Attributes:
        pruning_vars: TF-MOT's triples of weight, mask and threshold; the threshold means nothing here.

    Example:
        >>> import numpy as np, tf_keras
        >>> from tfprune_init.tfmot import PruneAtInit
        >>> layer = PruneAtInit(tf_keras.layers.Dense(3), {"kernel": np.eye(3, dtype=bool)})
        >>> model = tf_keras.Sequential([tf_keras.Input((3,)), layer])
        >>> int((layer.layer.kernel.numpy() != 0).sum())
        3
    """

    # Variables keep the paths they have without the wrapper.
    carries_masks = True

    def __init__(
        self, layer: Any, masks: Mapping[str, npt.ArrayLike], paths: Sequence[str] | None = None, **kwargs: Any
    ):
        # TF-MOT's own constructor refuses layers that it does not know how to prune by magnitude.
        given = {"name": f"prune_at_init_{layer.name}", "dtype": layer.dtype_policy, **kwargs}
        super(PruneLowMagnitude, self).__init__(layer, **given)
        self.supports_masking = layer.supports_masking
        self.stateful = layer.stateful
        copy_batch_input_shape(layer, self)
        self.pruning_schedule = FixedMasks()
        self._masks = Masks(masks)
        # Assigned as usual, the weights in it would become weights of the wrapper too, and be saved twice.
        self.__dict__.update(pruning_vars=[], _paths=None if paths is None else tuple(paths))

    def build(self, input_shape: Any = None) -> None:
        """Build the layer inside, and a variable for each mask."""
        super(PruneLowMagnitude, self).build(input_shape)
        variables = [
            self._state(name, mask.shape, self.dtype, _constant(mask))
            for name, mask in zip(_names(self._masks), self._masks.values(), strict=True)
        ]
        self.threshold = self._state("threshold", (), self.dtype, "zeros")
        self.pruning_step = self._state("pruning_step", (), tf.int64, tf_keras.initializers.Constant(-1))
        self.__dict__["mask_variables"] = dict(zip(self._masks, variables, strict=True))
        if len(self._variables()) == len(self._masks):
            self._hold()

    def call(self, inputs: Any, *args: Any, training: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        """Return what the layer inside computes."""
        takes = inspect.signature(self.layer.call).parameters
        known = {"training": training, "mask": mask}
        kwargs.update({name: value for name, value in known.items() if name in takes and value is not None})
        outputs = self.layer(inputs, *args, **kwargs)
        if not self.pruning_vars:
            self._hold()
        return outputs

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Time-step mask of the layer inside."""
        return self.layer.compute_mask(inputs, mask)

    def reset_states(self, *args: Any) -> None:
        """Reset the states of a stateful recurrent layer inside."""
        self.layer.reset_states(*args)

    def get_prunable_weights(self) -> list[Any]:
        """Return the masked variables: TF-MOT's contract for layers that say what may be pruned."""
        return [weight for weight, _, _ in self.pruning_vars]

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the wrapper and of the layer inside; the masks themselves are weights."""
        own = [target.path for target in list_variables(self.layer)]
        return {
            **super(PruneLowMagnitude, self).get_config(),
            "masked": [[path, list(mask.shape)] for path, mask in self._masks.items()],
            "paths": own if self._paths is None else list(self._paths),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> PruneAtInit:
        """Return the wrapper that `get_config` described, with masks that prune nothing until weights are loaded."""
        config = dict(config)
        layer = tf_keras.layers.deserialize(config.pop("layer"), custom_objects=custom_objects)
        masks = {path: np.ones(shape, bool) for path, shape in config.pop("masked")}
        return cls(layer, masks, **config)

    def _variables(self) -> dict[str, Any]:
        """Return the masked variables by path, as far as the layer has all its variables already."""
        found = list_variables(self.layer)
        paths = [target.path for target in found] if self._paths is None else self._paths
        if len(found) != len(paths):
            return {}
        known = dict(zip(paths, found, strict=True))
        masks = {path: mask for path, mask in self._masks.items() if path in known}
        return {path: known[path].variable for path, mask in masks.items() if known[path].shape == mask.shape}

    def _hold(self) -> None:
        weights = self._variables()
        if len(weights) != len(self._masks):
            raise ModelError(_unfit(self.layer, self._masks))
        self.__dict__["pruning_vars"] = [
            (weight, self.mask_variables[path], self.threshold) for path, weight in weights.items()
        ]
        self.__dict__["pruning_obj"] = Pruning(
            training_step_fn=lambda: self.pruning_step,
            pruning_vars=self.pruning_vars,
            pruning_schedule=self.pruning_schedule,
            block_size=(1, 1),
            block_pooling_type="AVG",
        )
        for weight, mask, _ in self.pruning_vars:
            hold_at_zero(weight, mask)

    def _state(self, name: str, shape: Any, dtype: Any, initializer: Any) -> tf.Variable:
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            initializer=initializer,
            trainable=False,
            experimental_autocast=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )


def _names(masks: Masks) -> list[str]:
    """Return a name for each mask, unique in the layer as .h5 files need it, whatever the layers inside are called."""
    lasts = [f"mask_{path.rsplit('/', 1)[-1]}" for path in masks]
    earlier = [lasts[:i].count(last) for i, last in enumerate(lasts)]
    return [f"{last}_{count}" if count else last for last, count in zip(lasts, earlier, strict=True)]


def _constant(mask: np.ndarray) -> Any:
    return lambda shape, dtype=None, **kwargs: tf.cast(mask, dtype)


def _unfit(layer: Any, masks: Masks) -> str:
    wanted = ", ".join(f"{path} {mask.shape}" for path, mask in masks.items())
    has = ", ".join(f"{target.path} {target.shape}" for target in list_variables(layer))
    return (
        f"The masks of layer {layer.name!r} are for {wanted}. Received: a layer with {has or 'no variables'}. Give "
        "masks by paths within the layer, of the shapes of its variables."
    )
