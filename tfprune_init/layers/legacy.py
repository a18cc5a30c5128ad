"""k-winners layers and gates of tf_keras; importing this module lets tf_keras load files that hold them.

Example:
    >>> import numpy as np, tf_keras
    >>> from tfprune_init.layers import legacy
    >>> layer = legacy.KWinners(2, boost=0.0)
    >>> layer(np.array([[0.25, 0.5, 1.0, 0.75]], "float32"), training=True).numpy().tolist()
    [[0.0, 0.0, 1.0, 0.75]]
"""

from __future__ import annotations

from tfprune_init.errors import MissingDependencyError
from tfprune_init.layers import channel_gate, k_winners
from tfprune_init.layers.gates import PlainGate
from tfprune_init.layers.winners import ImageWinners, UnitWinners

try:
    import tf_keras
except ImportError as error:
    raise MissingDependencyError("tfprune_init.layers.legacy", "tf_keras", None, str(error)) from error


def _make_layer(twin: type, kind: type) -> type:
    """Make the tf_keras class that does what a class of Keras 3 does."""
    content = {"__doc__": twin.__doc__, "__module__": __name__}
    made = type(twin.__name__, (kind, tf_keras.layers.Layer), content)
    registered: type = tf_keras.utils.register_keras_serializable(package="tfprune_init")(made)
    return registered


ChannelGate = _make_layer(channel_gate.ChannelGate, PlainGate)
KWinners = _make_layer(k_winners.KWinners, UnitWinners)
KWinners2D = _make_layer(k_winners.KWinners2D, ImageWinners)

__all__ = ["ChannelGate", "KWinners", "KWinners2D"]
