"""How many channels of each layer stay: a share, or shares and counts by layer."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from tfprune_init.channels.reconstruction.unit_pairs import UnitPair
from tfprune_init.checks import check_integer, check_number
from tfprune_init.errors import OptionError
from tfprune_init.graph.variables import is_named_by
from tfprune_init.selection import count_kept

_NOT_NAMED = "keep= does not name it"
_ALL_STAY = "keep= leaves all its units"


def count_kept_channels(
    keep: Any, pairs: Sequence[UnitPair], skipped: Mapping[str, str]
) -> tuple[dict[str, int], dict[str, str]]:
    """Find how many units of each kernel stay.

    Args:
        keep: A share in (0, 1], of which floor(channels * share) stay, but at least one. Or a mapping from layer name,
            variable path or glob pattern to such a share or to a number of channels, an integer.
        pairs: The kernels that may lose units.
        skipped: Why each other prunable kernel may not.

    Returns:
        For each kernel that loses units, how many stay; and the others with their reason.

    Raises:
        OptionError: If a number is out of range, a name matches no kernel that may lose units or one that another
            name matches, or nothing would go.
    """
    sizes = {pair.maker.path: len(pair.groups) for pair in pairs}
    named = _read_mapping(keep, sizes, skipped) if isinstance(keep, Mapping) else dict.fromkeys(sizes, keep)
    counts = {path: _count(named[path], path, sizes[path]) for path in sizes if path in named}
    left = {path: count for path, count in counts.items() if count < sizes[path]}
    if not left:
        reasons = "; ".join(f"{path}: {why}" for path, why in list(skipped.items())[:4])
        raise OptionError(
            f"No channel would go. Received: keep={keep!r}, for {len(sizes)} layers that may lose channels"
            + (f" ({reasons})." if reasons else ".")
        )
    whole = {path: _ALL_STAY if path in counts else _NOT_NAMED for path in sizes if path not in left}
    return left, {**skipped, **whole}


def _read_mapping(keep: Mapping[Any, Any], sizes: Mapping[str, int], skipped: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pattern, value in keep.items():
        matches = [path for path in sizes if is_named_by(path, str(pattern))]
        if not matches:
            others = [f"{path}: {why}" for path, why in skipped.items() if is_named_by(path, str(pattern))]
            raise OptionError(
                f"keep= names {pattern!r}, which matches no layer that may lose channels"
                + (f" ({'; '.join(others[:2])})" if others else "")
                + f". There is: {', '.join(list(sizes)[:10]) or 'none'}."
            )
        twice = [path for path in matches if path in found]
        if twice:
            raise OptionError(f"keep= names {twice[0]} twice. Received: {list(keep)!r}.")
        found |= dict.fromkeys(matches, value)
    return found


def _count(value: Any, path: str, channels: int) -> int:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        if check_integer("keep", value, 1) > channels:
            raise OptionError(f"{path} has {channels} channels. Received: keep={value}.")
        return int(value)
    share = check_number("keep", value, "a share in (0, 1], or by layer a number of channels", lambda one: 0 < one <= 1)
    return max(1, count_kept(channels, share))
