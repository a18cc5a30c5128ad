"""k-winners layers of Keras 3: sparse activations in place of ReLU."""

from __future__ import annotations

import keras

from tfprune_init.layers.winners import ImageWinners, UnitWinners


@keras.saving.register_keras_serializable(package="tfprune_init")
class KWinners(UnitWinners, keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Keep the k largest units of each example, in place of ReLU; all others are 0.

    Units compete with x * exp(boost * (k / n - duty cycle)), so that those that seldom won before win sooner; winners
    come out as they went in, x. Ties go to the lower position. A negative x can win where few are positive. Gradients
    pass through winners alone.

    The duty cycle of a unit is the share of training examples for which its output was positive, averaged over the
    last `period` examples, or over one batch where that is larger. In inference it stays as it is, and boosts as in
    training. It is saved with the model. `BoostDecay` lowers the boost after every epoch.

    On inputs of more axes, such as (batch, height, width, channels), the units of the last axis compete at each place.

    Args:
        k: How many win in training: an integer, or a share of the units as a float in (0, 1).
        k_inference_factor: How many times as many win in inference: round(k * factor), at most all.
        boost: Strength of boosting at the start, from 0 (none) to 50.
        period: Number of examples that duty cycles are averaged over.
        **kwargs: Usual layer arguments.

    Raises:
        OptionError: If an option is out of range, or, when it is built, k is not less than the number of units.
        ModelError: When it is built, if the number of units is not fixed.

    Example:
        >>> import numpy as np, tfprune_init as tpi
        >>> layer = tpi.layers.KWinners(2, boost=0.0)
        >>> x = np.array([[0.125, 0.75, 0.25, 0.5, 0.75]], "float32")
        >>> layer(x, training=True).numpy().tolist()
        [[0.0, 0.75, 0.0, 0.0, 0.75]]
        >>> layer.duty_cycle.numpy().tolist()
        [0.0, 1.0, 0.0, 0.0, 1.0]
        >>> layer(x).numpy().tolist()
        [[0.0, 0.75, 0.0, 0.5, 0.75]]

    Reference:
        Ahmad & Scheinkman, "How can we be so dense? The benefits of using highly sparse representations", 2019,
        https://arxiv.org/abs/1903.11257
    """


@keras.saving.register_keras_serializable(package="tfprune_init")
class KWinners2D(ImageWinners, keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Keep the k largest numbers of all channels and places of each image; see `KWinners`.

    Each channel has one duty cycle: the share of examples and places at which its output was positive.

    Args:
        k: How many of height * width * channels win in training: an integer, or a share as a float in (0, 1).
        k_inference_factor: As in `KWinners`.
        boost: As in `KWinners`.
        period: As in `KWinners`.
        data_format: "channels_last" or "channels_first"; Keras's `image_data_format` by default.
        **kwargs: Usual layer arguments.

    Raises:
        OptionError: If an option is out of range, or, when it is built, k is not less than the numbers of an image.
        ModelError: When it is built, if images have no fixed size.

    Example:
        >>> import numpy as np, tfprune_init as tpi
        >>> layer = tpi.layers.KWinners2D(0.25, boost=0.0)
        >>> layer(np.arange(8.0).reshape(1, 2, 2, 2), training=True).numpy().ravel().tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 6.0, 7.0]
        >>> layer.duty_cycle.numpy().tolist()
        [0.25, 0.25]
    """
