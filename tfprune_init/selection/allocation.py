"""Allocation: how a budget is shared out among layers. Inside each share the scores decide.

"er", "erk" and "balanced" give each layer a weight. Layers keep in proportion to it, except that none keeps more than
it has: those that would are kept whole, and the others share what is left. Arithmetic is exact, so that counts are.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from tfprune_init.errors import OptionError
from tfprune_init.graph.variables import is_named_by
from tfprune_init.registry import Registry
from tfprune_init.selection.apportionment import apportion, share_in_proportion
from tfprune_init.selection.budget import count_kept, parse_sparsity
from tfprune_init.selection.granularity import Pool, Share
from tfprune_init.selection.matrix_layout import Layout, Layouts


class Allocation:
    """How a budget is shared out among the pools of a network.

    Attributes:
        name: What `allocation=` calls it.
        summary: One line for tables.
        compares_layers: Whether scores of different layers compete, so that their scale in each matters.
    """

    name: str
    summary: str
    compares_layers: bool = False

    def share_out(
        self, pools: Mapping[str, Pool], left: Mapping[str, int], density: Fraction, layouts: Layouts, final: Fraction
    ) -> list[Share]:
        """Say how many groups the pools of a network keep.

        Args:
            pools: All pools, in their order.
            left: Number of candidates of each.
            density: Share of all groups to keep, in (0, 1].
            layouts: How the weights of each variable lie.
            final: The density of the last step, which `density` is on the way to.
        """
        raise NotImplementedError


ALLOCATIONS: Registry[Allocation] = Registry("allocation")


def register_allocation(allocation: type[Allocation]) -> type[Allocation]:
    """Register a class of allocation under its name. A decorator.

    Raises:
        OptionError: If the name is taken.

    Example:
        >>> from tfprune_init.selection.allocation import ALLOCATIONS, Allocation, register_allocation
        >>> from tfprune_init.selection.granularity import Share
        >>> @register_allocation
        ... class FirstLayer(Allocation):
        ...     name, summary = "first_layer", "only the first layer is pruned"
        ...
        ...     def share_out(self, pools, left, density, layouts, final):
        ...         first, *others = pools
        ...         whole = [Share((pool,), left[pool], None) for pool in others]
        ...         return [Share((first,), int(pools[first].size * density), None), *whole]
        >>> ALLOCATIONS.pop("first_layer").compares_layers
        False
    """
    ALLOCATIONS.register(allocation.name, allocation())
    return allocation


def find_allocation(value: Any) -> Allocation:
    """Return the allocation of a name, or that of a dict of sparsities by layer.

    Raises:
        OptionError: If there is none of that name, or the dict is empty or has a value that is no sparsity.
    """
    return PerLayer(value) if isinstance(value, Mapping) else ALLOCATIONS.find(value)


@register_allocation
class Global(Allocation):
    """Let all groups of one kind compete over the whole network: floor(N * density) of them are kept."""

    name, summary, compares_layers = "global", "all compete over the whole network", True

    def share_out(
        self, pools: Mapping[str, Pool], left: Mapping[str, int], density: Fraction, layouts: Layouts, final: Fraction
    ) -> list[Share]:
        """Return one share for all pools of one kind."""
        shares = []
        for kind in dict.fromkeys(pool.kind for pool in pools.values()):
            own = tuple(name for name, pool in pools.items() if pool.kind == kind)
            shares.append(Share(own, count_kept(sum(pools[name].size for name in own), density), density))
        return shares


@register_allocation
class Uniform(Allocation):
    """Keep the same share of each layer: floor(n * density) of its n groups."""

    name, summary = "uniform", "each layer keeps the same share"

    def share_out(
        self, pools: Mapping[str, Pool], left: Mapping[str, int], density: Fraction, layouts: Layouts, final: Fraction
    ) -> list[Share]:
        """Return one share a pool."""
        return [
            Share((name,), min(count_kept(pool.size, density), left[name]), density) for name, pool in pools.items()
        ]


class Proportional(Allocation):
    """Give each layer a number in proportion to a weight: floor(N * density) groups are kept in all."""

    def weight(self, layout: Layout) -> Fraction:
        """Return what the number of kept weights of a variable is in proportion to."""
        raise NotImplementedError

    def pool_weight(self, pool: Pool, layouts: Layouts) -> Fraction:
        """Return what the number of kept groups of a pool is in proportion to."""
        weights = sum((self.weight(layouts[path]) for path in pool.paths), Fraction(0))
        return weights * pool.size / sum(layouts[path].size for path in pool.paths)

    def share_out(
        self, pools: Mapping[str, Pool], left: Mapping[str, int], density: Fraction, layouts: Layouts, final: Fraction
    ) -> list[Share]:
        """Return one share a pool; pools that would keep more than they have are kept whole."""
        weights = [self.pool_weight(pool, layouts) for pool in pools.values()]
        total = count_kept(sum(pool.size for pool in pools.values()), density)
        counts = apportion(weights, [left[name] for name in pools], min(total, sum(left.values())))
        return [Share((name,), count, None) for name, count in zip(pools, counts, strict=True)]


@register_allocation
class ErdosRenyiKernel(Proportional):
    """Densities of layers in proportion to sum(shape) / prod(shape), at most 1.

    Reference: Evci et al., Rigging the Lottery, ICML 2020.
    """

    name, summary = "erk", "Erdős-Rényi-Kernel: layers of small shape keep a larger share"

    def weight(self, layout: Layout) -> Fraction:
        """Return sum(shape): density times prod(shape)."""
        return Fraction(sum(layout.shape))


@register_allocation
class ErdosRenyi(Proportional):
    """Densities of layers in proportion to (in + out) / (in * out), at most 1, whatever the window of a kernel.

    Reference: Mocanu et al., Scalable training of artificial neural networks with adaptive sparse connectivity,
    Nature Communications 2018.
    """

    name, summary = "er", "Erdős-Rényi: layers of few units keep a larger share, whatever their window"

    def weight(self, layout: Layout) -> Fraction:
        """Return size * (in + out) / (in * out)."""
        inputs, outputs = layout.extent(layout.axes.inputs), layout.extent(layout.axes.outputs)
        return Fraction(layout.size * (inputs + outputs), inputs * outputs)


@register_allocation
class Balanced(Proportional):
    """Keep the same number of weights in each layer, small layers whole."""

    name, summary = "balanced", "each layer keeps the same number"

    def weight(self, layout: Layout) -> Fraction:
        """Return 1."""
        return Fraction(1)


class PerLayer(Allocation):
    """Give layers their own sparsity; all others compete for the sparsity of the call.

    Args:
        sparsities: Sparsity in [0, 1) by layer name, variable path or glob pattern; the first that matches counts.

    Example:
        >>> from tfprune_init.selection.allocation import PerLayer
        >>> PerLayer({"head": 0.5, "block*/conv": 0.9})
        PerLayer({'head': 0.5, 'block*/conv': 0.9})
    """

    name, summary, compares_layers = "per layer", "each layer keeps the share it is given", True

    def __init__(self, sparsities: Mapping[str, Any]):
        if not sparsities:
            raise OptionError("allocation= needs at least one layer. Received: an empty dict.")
        self.sparsities = dict(sparsities)
        self._densities = {pattern: 1 - parse_sparsity(value) for pattern, value in sparsities.items()}

    def __repr__(self) -> str:
        return f"PerLayer({self.sparsities!r})"

    def __str__(self) -> str:
        return ", ".join(f"{pattern}={value}" for pattern, value in self.sparsities.items())

    def match(self, pools: Mapping[str, Pool]) -> dict[str, Fraction]:
        """Return the density of each pool that has its own.

        Raises:
            OptionError: If a pattern matches nothing, or kernels that go together are given different sparsities.
        """
        found: dict[str, Fraction] = {}
        used: set[str] = set()
        for name, pool in pools.items():
            hits = {path: next((p for p in self._densities if is_named_by(path, p)), None) for path in pool.paths}
            given = {self._densities[hit] for hit in hits.values() if hit is not None}
            used.update(hit for hit in hits.values() if hit is not None)
            if len(given) > 1:
                raise OptionError(
                    f"Units of {', '.join(pool.paths)} go together, so they have one sparsity. "
                    f"Received: allocation={self.sparsities!r}."
                )
            if given:
                found[name] = given.pop()
        unused = [pattern for pattern in self._densities if pattern not in used]
        if unused:
            names = sorted({path for pool in pools.values() for path in pool.paths})
            raise OptionError(
                f"allocation= names layers that are not pruned. Received: {', '.join(map(repr, unused))}; "
                f"prunable are {', '.join(names[:8])}."
            )
        return found

    def share_out(
        self, pools: Mapping[str, Pool], left: Mapping[str, int], density: Fraction, layouts: Layouts, final: Fraction
    ) -> list[Share]:
        """Return one share for each pool with its own sparsity, and those of "global" for the others."""
        own = self.match(pools)
        others = {name: pool for name, pool in pools.items() if name not in own}
        # On the way to their own sparsity they have come as far as the others.
        behind = (density - final) / (1 - final) if final < 1 else Fraction(0)
        shares = []
        for name, density_of_pool in own.items():
            now = density_of_pool + (1 - density_of_pool) * behind
            shares.append(Share((name,), count_kept(pools[name].size, now), now))
        return shares + ALLOCATIONS["global"].share_out(others, left, density, layouts, final)


def layer_densities(allocation: str, layouts: Layouts, density: float | Fraction) -> dict[str, float]:
    """Return the density that "erk", "er" or "balanced" gives each layer, before counts are made whole.

    Args:
        allocation: "erk", "er" or "balanced".
        layouts: The variables.
        density: Density of all of them together, in (0, 1].

    Returns:
        Mapping from path to a density in [0, 1]; weighted by the layers' sizes, they average to `density`.

    Raises:
        OptionError: If there is no such allocation.

    Example:
        >>> from tfprune_init.graph.kernel_axes import KernelAxes
        >>> from tfprune_init.selection import Layout, layer_densities
        >>> axes = KernelAxes((0,), (1,))
        >>> layouts = {"hidden": Layout((90, 30), axes), "head": Layout((30, 10), axes)}
        >>> layer_densities("erk", layouts, 0.5)
        {'hidden': 0.4444444444444444, 'head': 1.0}
    """
    found = ALLOCATIONS.find(allocation)
    if not isinstance(found, Proportional):
        kinds = sorted(name for name, one in ALLOCATIONS.items() if isinstance(one, Proportional))
        raise OptionError(f"allocation must be one of {kinds}. Received: {allocation!r}.")
    sizes = [layout.size for layout in layouts.values()]
    weights = [found.weight(layout) for layout in layouts.values()]
    shares = share_in_proportion(weights, sizes, Fraction(density) * sum(sizes))
    return {path: float(share / size) for path, share, size in zip(layouts, shares, sizes, strict=True)}
