"""What a layer with a kernel looks at: its window at each place, for Dense and convolutions of any rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Layer

_KINDS = frozenset(["Dense", "Conv1D", "Conv2D", "Conv3D"])


def find_window_obstacle(layer: Layer) -> str | None:
    """Return why the columns of a layer are not computed; None for Dense and convolutions without groups."""
    classes = compat.get_class_names(layer)
    transposed = any(name.endswith("Transpose") for name in classes)
    if transposed or not classes & _KINDS:
        return f"{type(layer).__name__} is neither Dense nor a convolution"
    if getattr(layer, "groups", 1) != 1:
        return f"{layer.name} is a convolution in groups"
    return None


@dataclass(frozen=True)
class Window:
    """The window of a layer along its axes of space, of which Dense on vectors has none.

    Attributes:
        sizes: Its size along each axis; 1 for Dense.
        strides: Steps from one place to the next.
        dilations: Steps from one weight to the next.
        padding: "valid", "same" or "causal".
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: str

    @classmethod
    def of(cls, layer: Layer, axes: int) -> Window:
        """Read the window of a layer.

        Args:
            layer: Dense, or a convolution.
            axes: How many axes of space its input has.
        """
        if "Dense" in compat.get_class_names(layer):
            return cls((1,) * axes, (1,) * axes, (1,) * axes, "valid")
        return cls(
            tuple(layer.kernel_size), tuple(layer.strides), tuple(layer.dilation_rate), str(layer.padding).lower()
        )

    def count_places(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of places along each axis of an input of these sizes."""
        return tuple(
            -(-size // stride) if self.padding != "valid" else (size - extent) // stride + 1
            for size, stride, extent in zip(sizes, self.strides, self._extents, strict=True)
        )

    def gather(self, x: np.ndarray, examples: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return what the window shows at some places; beyond the borders are zeros.

        Args:
            x: Inputs, of shape [examples, sizes..., channels].
            examples: The example of each place, of shape [n].
            places: Index of each place in the output along each axis, of shape [n, axes].

        Returns:
            Array of shape [n, size of the window, channels], float64.

        Example:
            >>> import numpy as np
            >>> window = Window((3,), (2,), (1,), "same")
            >>> x = np.arange(5.0).reshape(1, 5, 1)
            >>> window.count_places((5,)), window.gather(x, np.array([0, 0]), np.array([[0], [1]]))[..., 0].tolist()
            ((3,), [[0.0, 0.0, 1.0], [1.0, 2.0, 3.0]])
        """
        sizes = x.shape[1:-1]
        before = self._find_padding(sizes)
        padded = np.pad(x, [(0, 0), *((pad, self._extents[i]) for i, pad in enumerate(before)), (0, 0)])
        every = np.array(list(np.ndindex(self.sizes)), int).reshape(math.prod(self.sizes), len(self.sizes))
        offsets = every * np.array(self.dilations, int)  # [window, axes]
        starts = places * np.array(self.strides, int)
        index = (starts[:, None, :] + offsets[None]).transpose(2, 0, 1)  # [axes, n, window]
        shown = padded[(np.broadcast_to(examples[:, None], (len(examples), len(offsets))), *index)]
        return np.asarray(shown, np.float64)

    @property
    def _extents(self) -> tuple[int, ...]:
        return tuple((size - 1) * step + 1 for size, step in zip(self.sizes, self.dilations, strict=True))

    def _find_padding(self, sizes: tuple[int, ...]) -> list[int]:
        """Return how many zeros stand before the input along each axis, as TensorFlow puts them."""
        if self.padding == "valid":
            return [0] * len(sizes)
        if self.padding == "causal":
            return [extent - 1 for extent in self._extents]
        places = self.count_places(sizes)
        along = zip(sizes, places, self.strides, self._extents, strict=True)
        return [max((count - 1) * stride + extent - size, 0) // 2 for size, count, stride, extent in along]


def to_channels_last(x: Any, layer: Layer) -> np.ndarray:
    """Return the input of a layer, or what it gives, as float64 with its channels along the last axis."""
    array = np.asarray(x, np.float64)
    first = getattr(layer, "data_format", None) == "channels_first" and array.ndim > 2
    return np.moveaxis(array, 1, -1) if first else array
