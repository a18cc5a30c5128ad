"""Values from a layer's own initializer, drawn again with another seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.errors import ModelError
from tfprune_init.graph.variables import ModelVariable


def find_initializer(target: ModelVariable) -> Any | None:
    """Find what its layer filled a variable with; None if the layer does not say.

    Example:
        >>> import keras
        >>> from tfprune_init.graph.variables import list_variables
        >>> from tfprune_init.masking.initializers import find_initializer
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        >>> [type(find_initializer(target)).__name__ for target in list_variables(model)]
        ['GlorotUniform', 'Zeros']
    """
    classes = compat.get_class_names(target.layer)
    # A depthwise convolution of tf_keras has both attributes, and this is the one it uses.
    depthwise = target.name == "kernel" and any(name.startswith("DepthwiseConv") for name in classes)
    names = ["depthwise"] if depthwise else [target.name, target.name.removesuffix("_kernel")]
    found = (getattr(target.layer, f"{name}_initializer", None) for name in names)
    return next((initializer for initializer in found if initializer is not None), None)


def draw_initial_values(
    target: ModelVariable, sequence: np.random.SeedSequence, count: int, otherwise: str
) -> list[np.ndarray]:
    """Draw values of a variable from its initializer, with as many seeds.

    Args:
        target: The variable.
        sequence: What the seeds come from; the first ones are the same for every count.
        count: How many.
        otherwise: What else the caller can do about an initializer that does not serve, as the end of a sentence.

    Returns:
        Arrays of the variable's shape. An initializer that takes no seed, as that of constants, gives one.

    Raises:
        ModelError: If the layer has no initializer for the variable, or one that is random and takes no seed.
    """
    initializer = find_initializer(target)
    if initializer is None:
        raise ModelError(
            f"Layer {target.layer.name!r} ({type(target.layer).__name__}) does not say what {target.path} is "
            f"initialized with. Keep the initializer as its attribute {target.name}_initializer, {otherwise}."
        )
    config = initializer.get_config() if hasattr(initializer, "get_config") else {}
    # A copy with a seed of its own: with the seed it has, it would give the present values again.
    if "seed" in config:
        if target.equation and None in (config.get("input_axes", ()), config.get("output_axes", ())):
            # As Keras 3's EinsumDense does when it is built: its equation says which axes are the inputs.
            config["input_axes"], config["output_axes"] = target.units
        # 31 bits, which is what both Keras versions take.
        seeds = [int(word) >> 1 for word in sequence.generate_state(count)]
        return [_call(type(initializer).from_config({**config, "seed": seed}), target) for seed in seeds]
    values = _call(initializer, target)
    if not np.array_equal(values, _call(initializer, target)):
        raise ModelError(
            f"The initializer of {target.path} is random, but its get_config() has no 'seed', so its values could not "
            f"be drawn again. Give it one, {otherwise}. Received: {initializer!r}."
        )
    return [values]


def _call(initializer: Any, target: ModelVariable) -> np.ndarray:
    values = np.array(initializer(target.shape, dtype=target.tensor.dtype.name))
    if target.name == "bias" and getattr(target.layer, "unit_forget_bias", False):
        # The bias of an LSTM holds those of four gates, the second of which forgets and begins at 1.
        quarter = len(values) // 4
        values[quarter : 2 * quarter] = 1
    return values
