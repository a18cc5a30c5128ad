"""Whole channels that go, with the next layer's weights rewritten."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfprune_init.channels.reconstruction import plan_reconstruction, reconstruct_channels
from tfprune_init.errors import OptionError
from tfprune_init.masks import Masks
from tfprune_init.training.events.event import Event, RunOutline

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


@dataclass(frozen=True)
class ReconstructChannels(Event):
    """Remove whole channels of each layer, refit the next layer's weights on the training data, and attach the masks.

    It runs the network forwards only, so it costs no gradient step. How much goes is up to `keep`, not to the sparsity
    of the run. Masks of biases, scales and offsets of the removed channels are attached too.

    Args:
        method: As in `tpi.reconstruct_channels`.
        keep: As there.
        refit: As there.
        batches: As there.
        places: As there.
    """

    method: str = "thinet"
    keep: float | Mapping[str, float | int] = 0.5
    refit: str | None = None
    batches: int | None = None
    places: int | None = None

    def outline(self, outline: RunOutline) -> None:
        """Say that there are masks, and refuse those that are there already."""
        if outline.is_pruned:
            raise OptionError(
                "Channels are reconstructed in a network without masks. Put ReconstructChannels before other pruning."
            )
        outline.is_pruned = True

    def check(self, run: ProcedureRun) -> None:
        """Refuse options out of range, and names of layers that the network does not have."""
        plan_reconstruction(
            run.model, run.data.train, self.method, self.keep, self.refit, self.batches, self.places, run.seed
        )

    def apply(self, run: ProcedureRun) -> None:
        """Find the channels, rewrite the weights, and attach the masks."""
        began = time.perf_counter()
        found = reconstruct_channels(
            run.model,
            run.data.train,
            method=self.method,
            keep=self.keep,
            refit=self.refit,
            batches=self.batches,
            places=self.places,
            seed=run.seed,
            verbose=0,
        )
        found.apply(run.model)
        run.state.masks = Masks({path: found.masks[path] for path in run.state.paths if path in found.masks})
        run.state.seconds["pruning"] += time.perf_counter() - began
