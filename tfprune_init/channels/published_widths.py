"""Widths that papers prune known networks to, fixed in advance: how many filters of each layer stay."""

from __future__ import annotations

from collections.abc import Sequence

from tfprune_init.registry import Registry
from tfprune_init.selection import count_kept


def _make_resnet_widths(blocks: int, pruned: Sequence[float], left_alone: Sequence[tuple[int, int]]) -> dict[str, int]:
    """Return the filters of the first convolutions of blocks.

    Args:
        blocks: Blocks of each stage.
        pruned: Share of the filters that goes, by stage.
        left_alone: (stage, block) of those that keep all.
    """
    return {
        f"stage{stage}_block{block}_conv1": count_kept(8 * 2**stage, 1 - share)
        for stage, share in enumerate(pruned, start=1)
        for block in range(1, blocks + 1)
        if share and (stage, block) not in left_alone
    }


PUBLISHED_WIDTHS: Registry[dict[str, int]] = Registry("set of published widths")
# The first convolution has half of its filters, and so have the last two blocks.
PUBLISHED_WIDTHS.register(
    "vgg16_a",
    {"block1_conv1": 32, **{f"block{block}_conv{conv}": 256 for block in (4, 5) for conv in (1, 2, 3)}},
)
# Convolutions 16, 20, 38 and 54, counted from the stem as the first, are left alone; and so on.
PUBLISHED_WIDTHS.register("resnet56_a", _make_resnet_widths(9, (0.1, 0.1, 0.1), [(1, 8), (2, 1), (3, 1), (3, 9)]))
PUBLISHED_WIDTHS.register(
    "resnet56_b",
    _make_resnet_widths(9, (0.6, 0.3, 0.1), [(1, 8), (1, 9), (2, 1), (2, 8), (3, 1), (3, 9)]),
)
PUBLISHED_WIDTHS.register("resnet110_a", _make_resnet_widths(18, (0.5, 0, 0), [(1, 18)]))
PUBLISHED_WIDTHS.register("resnet110_b", _make_resnet_widths(18, (0.5, 0.4, 0.3), [(1, 18), (2, 1), (3, 1)]))


def find_published_widths(name: str) -> dict[str, int]:
    """Return how many filters of each layer a paper keeps, for `reconstruct_channels(keep=...)`.

    Layers are named as in `tpi.models`: those of `vgg16` for "vgg16_a", of `resnet56` for "resnet56_a" and
    "resnet56_b", of `resnet110` for "resnet110_a" and "resnet110_b". In residual networks only the first convolution
    of a block is pruned. Layers that are not named keep all.

    Args:
        name: One of these.

    Returns:
        Number of filters that stay, by layer.

    Raises:
        OptionError: If there are no widths of that name.

    Example:
        >>> import tfprune_init as tpi
        >>> widths = tpi.find_published_widths("resnet56_b")
        >>> widths["stage1_block1_conv1"], widths["stage2_block2_conv1"], widths["stage3_block2_conv1"]
        (6, 22, 57)

    References:
        Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017; counts are cut off as in the code of Liu et al.,
        Rethinking the Value of Network Pruning, ICLR 2019.
    """
    return dict(PUBLISHED_WIDTHS.find(name))
