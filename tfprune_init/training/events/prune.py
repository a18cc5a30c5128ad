"""Masks that are found, and masks that are moved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tfprune_init.checks import check_number
from tfprune_init.errors import OptionError
from tfprune_init.masking.attachment import attach
from tfprune_init.training.events.event import Event, RunOutline
from tfprune_init.training.events.names import list_names
from tfprune_init.training.pruning import check_pruning, prune
from tfprune_init.training.thresholds import prune_by_threshold

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


@dataclass(frozen=True)
class Prune(Event):
    """Find masks among what is left, and attach them.

    Args:
        method: A method of `tpi.list_methods()`.
        density: Share of the prunable weights that stays, in (0, 1]; that of the run by default.
        options: Options of the method, as `tpi.find_masks` takes them.
        exclude: What not to prune: names of layers or variables, or glob patterns. It keeps the masks that it has.
        prune_bias: Whether biases are prunable too.

    Raises:
        OptionError: If `exclude` has something else than names in it.
    """

    method: str
    density: Fraction | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    exclude: Iterable[str] = ()
    prune_bias: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "exclude", list_names(self.exclude))

    def outline(self, outline: RunOutline) -> None:
        """Say that there are masks."""
        outline.is_pruned = True

    def check(self, run: ProcedureRun) -> None:
        """Refuse options that the method does not take, and names of layers that the network does not have."""
        check_pruning(run, self.method, self.options, list_names(self.exclude), self.prune_bias)

    def apply(self, run: ProcedureRun) -> None:
        """Find the masks, and attach them."""
        exclude = list_names(self.exclude)
        prune(run, self.method, self.density, self.options, exclude=exclude, prune_bias=self.prune_bias)


@dataclass(frozen=True)
class PruneByThreshold(Event):
    """Prune the weights of each layer that are small beside their standard deviation, and attach the masks.

    Of what is left of a layer's weights w those stay whose absolute value is at least quality * std(w), the standard
    deviation around their mean, over what is left, divided by their number. How many stay follows from that.

    Args:
        quality: A positive number for all layers, or a dict from layer name, variable path or glob pattern to the
            number of that layer; the first that matches counts, and every layer has to be named.
        exclude: What not to prune: names of layers or variables, or glob patterns. It keeps the masks that it has.
        prune_bias: Whether biases are prunable too.

    Raises:
        OptionError: If a quality is no positive number, or `exclude` has something else than names in it.

    Reference:
        Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015, which does not
        say over which weights the standard deviation is taken.
    """

    quality: float | Mapping[str, float]
    exclude: Iterable[str] = ()
    prune_bias: bool = False

    def __post_init__(self) -> None:
        given = self.quality if isinstance(self.quality, Mapping) else {"": self.quality}
        if not given:
            raise OptionError("quality= needs at least one layer. Received: an empty dict.")
        for name, value in given.items():
            check_number(f"quality of {name}" if name else "quality", value, "a number above 0", lambda one: one > 0)
        object.__setattr__(self, "exclude", list_names(self.exclude))

    def outline(self, outline: RunOutline) -> None:
        """Say that there are masks."""
        outline.is_pruned = True

    def apply(self, run: ProcedureRun) -> None:
        """Find the masks, and attach them."""
        prune_by_threshold(run, self.quality, exclude=list_names(self.exclude), prune_bias=self.prune_bias)


@dataclass(frozen=True)
class ShuffleMasks(Event):
    """Move what each variable keeps to random places. Weights that come back are 0 until a `Rewind`."""

    def outline(self, outline: RunOutline) -> None:
        """Refuse to shuffle nothing."""
        if not outline.is_pruned:
            raise OptionError("There are no masks to shuffle. Put a Prune before.")

    def apply(self, run: ProcedureRun) -> None:
        """Shuffle the masks."""
        assert run.state.masks is not None  # the outline refused that
        run.state.masks = run.state.masks.shuffled(run.seed)
        attach(run.model, run.state.masks)
