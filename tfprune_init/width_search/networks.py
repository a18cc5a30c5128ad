"""Residual networks by the widths of their convolutions, and the space of those that a search chooses among."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np

from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError
from tfprune_init.models.initialization import he_normal
from tfprune_init.models.resnet import add_conv_bn, add_shortcut
from tfprune_init.width_search.channels import list_depths, list_widths


class Convolution(NamedTuple):
    """What the cost of a convolution depends on: places of its output, kernel size, and channels."""

    positions: int
    kernel: int
    inputs: int
    outputs: int


@dataclass(frozen=True)
class ResNetWidths:
    """A residual network of blocks of two 3x3 convolutions, by the widths of all of them.

    Where a block changes the shape, its shortcut is a 1x1 convolution with BatchNorm. The first block of each stage but
    the first has stride 2.

    Attributes:
        input_shape: (height, width, channels).
        classes: Number of logits.
        stem: Filters of the first convolution.
        stages: For each stage a pair of filters for each of its blocks.
    """

    input_shape: tuple[int, int, int]
    classes: int
    stem: int
    stages: tuple[tuple[tuple[int, int], ...], ...]

    def build(self, seed: int | None = None) -> keras.Model:
        """Build it, untrained and not compiled.

        Args:
            seed: Makes the initial weights repeatable; None draws other weights in every call.

        Returns:
            A functional model of Keras 3 from images to logits.

        Example:
            >>> from tfprune_init.width_search import ResNetWidths
            >>> ResNetWidths((8, 8, 1), 10, 4, (((4, 6),), ((9, 12),))).build(seed=0).output_shape
            (None, 10)
        """
        inputs = keras.Input(self.input_shape, name="image")
        x = keras.layers.ReLU(name="stem_relu")(add_conv_bn(inputs, self.stem, 3, "stem", seed))
        for stage, blocks in enumerate(self.stages, start=1):
            for number, (first, second) in enumerate(blocks, start=1):
                stride, name = _find_stride(stage, number), f"stage{stage}_block{number}"
                y = add_conv_bn(x, first, 3, f"{name}_conv1", seed, stride)
                y = keras.layers.ReLU(name=f"{name}_conv1_relu")(y)
                x = add_shortcut(x, add_conv_bn(y, second, 3, f"{name}_conv2", seed), stride, name, seed)
        x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
        outputs = keras.layers.Dense(self.classes, kernel_initializer=he_normal("head", seed), name="head")(x)
        return keras.Model(inputs, outputs, name="searched_resnet")

    def count_multiply_adds(self) -> int:
        """Count the multiply-adds of one example: convolutions, shortcuts among them, and the output layer.

        Example:
            >>> from tfprune_init.width_search import ResNetSpace
            >>> ResNetSpace((32, 32, 3), 10).largest.count_multiply_adds()
            12501632
        """
        return sum(one.positions * one.kernel**2 * one.inputs * one.outputs for one in self._walk())

    def _walk(self) -> Iterator[Convolution]:
        yield Convolution(math.prod(self.input_shape[:2]), 3, self.input_shape[2], self.stem)
        width = self.stem
        for stage, blocks in enumerate(self.stages, start=1):
            positions = count_positions(self.input_shape, stage)
            for number, (first, second) in enumerate(blocks, start=1):
                yield Convolution(positions, 3, width, first)
                yield Convolution(positions, 3, first, second)
                if _find_stride(stage, number) > 1 or width != second:
                    yield Convolution(positions, 1, width, second)
                width = second
        yield Convolution(1, 1, width, self.classes)

    def __str__(self) -> str:
        """Return the widths, a stage after a bar: "16 | 6 4  4 4 | 32 32"."""
        stages = ["  ".join(f"{first} {second}" for first, second in blocks) for blocks in self.stages]
        return " | ".join([str(self.stem), *stages])


@dataclass(frozen=True)
class ResNetSpace:
    """The residual networks that a search chooses among: each has some of the widths and blocks of the largest.

    Each convolution has 30%, 40%, ... 100% of its filters, each stage some of its first blocks, as `list_widths` and
    `list_depths` say.

    Args:
        input_shape: (height, width, channels).
        classes: Number of logits.
        stages: Blocks and filters of each stage in the largest network. By default it is ResNet-8; ((3, 16), (3, 32),
            (3, 64)) is `tpi.models.resnet20`.

    Raises:
        OptionError: If a number is no positive integer, or there is no stage.

    Example:
        >>> import tfprune_init as tpi
        >>> space = tpi.ResNetSpace((8, 8, 1), 10)
        >>> print(space.largest)
        16 | 16 16 | 32 32 | 64 64
    """

    input_shape: tuple[int, int, int]
    classes: int
    stages: tuple[tuple[int, int], ...] = ((1, 16), (1, 32), (1, 64))

    def __post_init__(self) -> None:
        if len(self.input_shape) != 3 or not self.stages or any(len(stage) != 2 for stage in self.stages):
            raise OptionError(
                "A space has input_shape=(height, width, channels) and stages=((blocks, filters), ...). Received: "
                f"input_shape={self.input_shape!r}, stages={self.stages!r}."
            )
        for name, values in (("input_shape", self.input_shape), ("stages", sum(map(tuple, self.stages), ()))):
            for value in values:
                check_integer(f"a number of {name}", value, 1)
        check_integer("classes", self.classes, 2)

    @property
    def largest(self) -> ResNetWidths:
        """The network of all widths and blocks."""
        stages = tuple(((filters, filters),) * blocks for blocks, filters in self.stages)
        return ResNetWidths(self.input_shape, self.classes, self.stages[0][1], stages)

    def list_choices(self) -> dict[str, tuple[int, ...]]:
        """List what can be chosen, by name: widths of convolutions, and depths of stages.

        Example:
            >>> import tfprune_init as tpi
            >>> list(tpi.ResNetSpace((8, 8, 1), 10, stages=((1, 16),)).list_choices())
            ['stem', 'stage1_depth', 'stage1_block1_conv1', 'stage1_block1_conv2']
        """
        choices = {"stem": list_widths(self.stages[0][1])}
        for stage, (blocks, filters) in enumerate(self.stages, start=1):
            choices[f"stage{stage}_depth"] = list_depths(blocks)
            for number in range(1, blocks + 1):
                choices |= {f"stage{stage}_block{number}_conv{conv}": list_widths(filters) for conv in (1, 2)}
        return choices

    def choose(self, probabilities: Mapping[str, np.ndarray]) -> ResNetWidths:
        """Return the network of the likeliest widths and depths; ties go to the smaller one.

        Args:
            probabilities: By name, as `list_choices` has them; logits do as well.
        """
        chosen = {name: sizes[int(np.argmax(probabilities[name]))] for name, sizes in self.list_choices().items()}
        stages = tuple(
            tuple(
                (chosen[f"stage{stage}_block{number}_conv1"], chosen[f"stage{stage}_block{number}_conv2"])
                for number in range(1, chosen[f"stage{stage}_depth"] + 1)
            )
            for stage in range(1, len(self.stages) + 1)
        )
        return ResNetWidths(self.input_shape, self.classes, chosen["stem"], stages)


def count_positions(input_shape: tuple[int, int, int], stage: int) -> int:
    """Count the places of a feature map in a stage, the first of which is 1.

    Example:
        >>> from tfprune_init.width_search.networks import count_positions
        >>> count_positions((9, 8, 1), 2)
        20
    """
    halved = 2 ** (stage - 1)
    return math.prod(-(-size // halved) for size in input_shape[:2])


def _find_stride(stage: int, block: int) -> int:
    return 2 if stage > 1 and block == 1 else 1
