"""Channels that go: found to a budget, cut out of the network, and what is left trained on or from scratch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.channels import FoundChannels, find_channels
from tfprune_init.channels.importance_registry import IMPORTANCES
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.cost import CostModel
from tfprune_init.graph.variables import list_variables
from tfprune_init.masking.attachment import attach
from tfprune_init.masking.initializers import draw_initial_values, find_initializer
from tfprune_init.masks import Masks
from tfprune_init.selection import Budget
from tfprune_init.training.compacted_runs import cut_channels
from tfprune_init.training.events.event import Event, RunOutline
from tfprune_init.training.events.names import list_names

if TYPE_CHECKING:
    from tfprune_init.training.procedures import ProcedureRun


@dataclass(frozen=True)
class FindChannels(Event):
    """Find which channels stay, by `tpi.find_channels` at the weights as they are, and attach the masks.

    Args:
        budget: What may stay; for None the goal of the run, whose sparsity is a share of the channel groups.
        importance: Name of an importance.
        options: Other options of `tpi.find_channels`.
        exclude: Layers whose channels all stay: names or glob patterns.

    Raises:
        OptionError: If `importance` is no name, or `exclude` has something else than names in it.
    """

    budget: Budget | None = None
    importance: str = "l1"
    options: Mapping[str, Any] = field(default_factory=dict)
    exclude: Iterable[str] = ()

    def __post_init__(self) -> None:
        IMPORTANCES.find(self.importance)
        object.__setattr__(self, "exclude", list_names(self.exclude))

    def outline(self, outline: RunOutline) -> None:
        """Say that there are masks; refuse to find channels of a network that is pruned."""
        if outline.is_pruned:
            raise OptionError("FindChannels counts what a network without masks costs. Put a Compact before it.")
        outline.is_pruned = True

    def check(self, run: ProcedureRun) -> None:
        """Refuse options and budgets that find nothing, by trying them on the network before it is trained."""
        self._find(run)

    def apply(self, run: ProcedureRun) -> None:
        """Find the channels, and attach the masks."""
        began = time.perf_counter()
        found = self._find(run)
        merged = {**(run.state.masks or {}), **found.masks}
        run.state.masks = Masks({path: merged[path] for path in run.state.paths if path in merged})
        account = found.budget
        run.state.search = {
            "budget": {
                "kind": account.kind, "asked": account.asked, "limit": account.limit, "dense": account.dense,
                "got": account.got, "counted": "what compact leaves",
            },
            "steps": [],
        }  # fmt: skip
        attach(run.model, run.state.masks)
        run.state.seconds["pruning"] += time.perf_counter() - began
        if IMPORTANCES[self.importance].uses_gradients:
            run.count(0, self.options.get("batches") or 1, None)

    def _find(self, run: ProcedureRun) -> FoundChannels:
        importance = IMPORTANCES[self.importance]
        takes_seed = importance.uses_gradients or "seed" in importance.own_options
        options = {**({"seed": run.seed} if takes_seed else {}), **self.options}
        names = list_names(self.exclude)
        budget = self.budget or run.goal.budget or Budget(units=run.goal.density)
        if budget.kind == "latency":
            raise OptionError(
                "What is measured is not the same again, and a run that goes on after a crash has to end with the same "
                f"bits. Limit multiply_adds, or call tpi.find_channels yourself. Received: {budget!r}."
            )
        return find_channels(
            run.model, run.data.train, budget=budget, importance=self.importance, exclude=names or None, **options
        )


@dataclass(frozen=True)
class Compact(Event):
    """Cut what the masks prune out of the network, by `tpi.compact`: from here on the run is that of the smaller model.

    The optimizer begins anew. Snapshots of before are of another network, so they are gone. Masks stay where they prune
    something that could not be cut out.
    """

    def outline(self, outline: RunOutline) -> None:
        """Refuse to cut where nothing is pruned, and forget the snapshots."""
        if not outline.is_pruned:
            raise OptionError("There are no masks to compact by. Put a FindChannels or a Prune before.")
        if outline.rescales_dropout:
            raise OptionError("Rates of Dropout cannot follow the masks of a network that is compacted. Leave one out.")
        outline.is_pruned, outline.is_compacted = False, True
        outline.snapshots.clear()

    def check(self, run: ProcedureRun) -> None:
        """Refuse a model that `tpi.compact` does not take."""
        if not compat.is_symbolic(run.model):
            raise ModelError(
                f"Compact takes Sequential and functional models. Received: {type(run.model).__name__}, a subclassed "
                "model; leave Compact out, and its masks stay attached."
            )

    def apply(self, run: ProcedureRun) -> None:
        """Cut, and note what a run that goes on after it needs to cut again."""
        cut_channels(run)


@dataclass(frozen=True)
class StartOver(Event):
    """Give every variable what its layer's initializer draws for it, and go back to step 0: training from scratch.

    Masks stay as they are, and what they prune is 0. What no initializer fills, as states, keeps its value.
    """

    def outline(self, outline: RunOutline) -> None:
        """Go back to step 0."""
        outline.step = 0

    def apply(self, run: ProcedureRun) -> None:
        """Draw the values."""
        for place, target in enumerate(list_variables(run.model)):
            if find_initializer(target) is not None:
                sequence = np.random.SeedSequence([run.seed, place])
                (values,) = draw_initial_values(target, sequence, 1, "or train on from the values as they are")
                target.tensor.assign(values)
        if run.state.masks is not None:
            attach(run.model, run.state.masks)
        run.state.step = 0


@dataclass(frozen=True)
class TrainAtCost(Event):
    """Train for as many steps as cost what some steps of the network cost before it was compacted.

    That is int(steps x multiply-adds before / multiply-adds now), of one example, after the steps that are done. The
    progress bar counts it as those steps. A schedule of the learning rate is not stretched.

    Args:
        steps: Steps of the network as it was built.
    """

    steps: int

    def outline(self, outline: RunOutline) -> None:
        """Count the steps that are known before."""
        if not outline.is_compacted:
            raise OptionError("TrainAtCost trains a smaller network for longer. Put a Compact before it.")
        outline.training_steps += self.steps
        outline.step += self.steps

    def check(self, run: ProcedureRun) -> None:
        """Refuse a network whose multiply-adds are not known."""
        if CostModel(run.model).count().multiply_adds is None:
            raise ModelError(
                f"The multiply-adds of model {run.model.name!r} depend on sizes that are open, so steps of the same "
                "cost cannot be counted. Build it for a fixed size, or train for as many steps."
            )

    def apply(self, run: ProcedureRun) -> None:
        """Train."""
        first, last = run.state.compactions[0].account, run.state.compactions[-1].account
        steps = self.steps * first["before"]["multiply_adds"] // last["after"]["multiply_adds"]
        run.renew_optimizer()
        run.train(run.state.step + steps, None)
