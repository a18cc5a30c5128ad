"""Dropout that follows the masks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfprune_init.errors import ModelError, OptionError
from tfprune_init.training.dropout_rates import DropoutRates
from tfprune_init.training.events.event import Event, RunOutline
from tfprune_init.training.events.names import list_names

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


@dataclass(frozen=True)
class RescaleDropout(Event):
    """Let the rates of Dropout follow the masks from here on: D sqrt(C / C_dense).

    D is the rate that a layer begins the run with, C the number of connections kept of the layer whose units it drops,
    the nearest one with kernels before it, and C_dense their number without masks. The rates change with every later
    pruning; a second event of this kind is the same one again. The model has the last rates when the run ends.

    Args:
        exclude: Dropout layers to leave alone: names, paths or glob patterns.
        optional: Whether a model without Dropout is fine; it is an error otherwise.

    Raises:
        OptionError: If `exclude` has something else than names in it.

    Reference:
        Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015, equation 2.
    """

    exclude: Iterable[str] = ()
    optional: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "exclude", list_names(self.exclude))

    def outline(self, outline: RunOutline) -> None:
        """Say that they follow, where the model has any."""
        outline.rescales_dropout = True

    def apply(self, run: ProcedureRun) -> None:
        """Let them follow, beginning with the masks of now."""
        exclude = list_names(self.exclude)
        if run.dropout_rates is not None:
            if run.dropout_rates.exclude != exclude:
                raise OptionError(
                    f"Rates of Dropout follow the masks already, without {list(run.dropout_rates.exclude)}. Give all "
                    f"RescaleDropout of a procedure the same exclude=. Received: {exclude!r}."
                )
            return
        rates = DropoutRates(run.model, exclude)
        if not len(rates) and not self.optional:
            raise ModelError(
                f"RescaleDropout has no effect: no layer of model {run.model.name!r} drops anything. Leave it out."
            )
        run.dropout_rates = rates
        rates.rescale(run.state.masks)

    def resume(self, run: ProcedureRun) -> None:
        """Let them follow again: they are not saved, as masks and the rates of the beginning tell them."""
        self.apply(run)
