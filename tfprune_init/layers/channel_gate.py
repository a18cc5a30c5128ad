"""Gates of Keras 3: layers that multiply each channel with a factor that is trained."""

from __future__ import annotations

import keras

from tfprune_init.layers.gates import PlainGate, register_gate


@register_gate("plain")
@keras.saving.register_keras_serializable(package="tfprune_init")
class ChannelGate(PlainGate, keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Multiply each channel with a trained factor, by default in [0, 1]; a channel whose factor is 0 is closed.

    Every step of an optimizer is followed by clipping to [0, upper]. Called at several places, the layer has one factor
    for the channels that stand together there. A regularizer is part of the loss that `fit` shows, and it is saved with
    the model.

    Args:
        axis: The axis of the channels.
        initial: What the factors are at first, in [0, upper].
        upper: The largest factor, positive; None for none.
        regularizer: A Keras regularizer of the factors, or its name, such as keras.regularizers.L1(1e-3).
        **kwargs: Usual layer arguments.

    Raises:
        OptionError: If an option is out of range.
        ModelError: When it is built, if the number of channels is not fixed.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> gate = tpi.layers.ChannelGate(regularizer=keras.regularizers.L1(0.5))
        >>> x = np.array([[1.0, 2.0, 3.0]], "float32")
        >>> gate(x).numpy().tolist(), float(gate.losses[0])
        ([[1.0, 2.0, 3.0]], 1.5)
        >>> gate.set_weights([np.array([1.0, 0.5, 0.0])])
        >>> gate(x).numpy().tolist(), gate.read_factors().tolist()
        ([[1.0, 1.0, 0.0]], [1.0, 0.5, 0.0])

    Reference:
        Wang et al., "Pruning from Scratch", AAAI 2020, https://arxiv.org/abs/1909.12579
    """
