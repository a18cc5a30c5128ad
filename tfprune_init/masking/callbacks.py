"""Pruning while the network trains: a callback that prunes every few epochs (SNIP-it and SNAP-it during training)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from tfprune_init.backend.batches import Batches
from tfprune_init.backend.callbacks import BackendCallback
from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError
from tfprune_init.graph.variables import Exclusion, find_prunable_variables
from tfprune_init.masking.attachment import attach, get_attached_masks
from tfprune_init.masks import Masks
from tfprune_init.methods import resolve_method
from tfprune_init.methods.goal import Goal
from tfprune_init.methods.mask_search import search_masks
from tfprune_init.methods.mask_selector import make_selector
from tfprune_init.report import conclude_search
from tfprune_init.scoring import ScoringEngine
from tfprune_init.selection.schedules import compute_densities


class PruneDuringTraining(BackendCallback):
    """Prune a network in events, every few epochs of its training.

    At each event the network is judged as it is then, under the masks it has, and pruned to the next density of the
    schedule; what is pruned stays at exactly zero from there on. Works in `fit` of Keras 3 and of tf_keras.

    Args:
        data: What connections are judged by, as in `find_masks`; each event takes the next batches.
        sparsity: Share to remove in the end, in [0, 1).
        method: A method whose pruned weights stay pruned: "snip_it", "snap_it", "iter_snip", "magnitude", ...
        every: Epochs between events.
        delay: Epochs before the first event can come: events are at the ends of epochs delay + every,
            delay + 2 * every, ..., counted from 1.
        events: Number of events; the method's number of steps by default, or 1 for methods of one step.
        schedule: Density at each event; the method's own by default, "halving" for methods of one step.
        exclude: What not to prune.
        prune_bias: Whether biases are prunable too.
        **options: Options of `find_masks`: loss, batches, granularity, allocation, training, seed,
            on_collapse and the criterion's.

    Attributes:
        masks: The masks of the last event; None before the first.
        history: For each event, its epoch (counted from 1) and the share of weights kept.

    Raises:
        OptionError: If an option is out of range or has no effect, or training ends before the last event.
        NetworkCollapseError: If an event would leave a network that passes no signal. The masks stay those of the
            event before. With on_collapse="warn", training goes on with the collapsed network.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
        >>> model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> x, y = np.random.default_rng(0).normal(size=(64, 8)), np.arange(64) % 3
        >>> pruning = tpi.PruneDuringTraining((x, y), sparsity=0.75, every=1, delay=0, events=3)
        >>> history = model.fit(x, y, epochs=4, verbose=0, callbacks=[pruning])
        >>> pruning.history
        [(1, 0.5), (2, 0.375), (3, 0.25)]

    Reference:
        Verdenius et al., Pruning via Iterative Ranking of Sensitivity Statistics, 2020; every and delay as in its
        code, whose README uses 4 and 4.
    """

    def __init__(
        self,
        data: Any,
        *,
        sparsity: float,
        method: str = "snip_it",
        every: int = 4,
        delay: int = 4,
        events: int | None = None,
        schedule: Any = None,
        exclude: Exclusion | Iterable[Exclusion] | None = None,
        prune_bias: bool = False,
        **options: Any,
    ):
        super().__init__()
        for name, value, least in (("every", every, 1), ("delay", delay, 0), ("events", events, 1)):
            if value is not None:
                check_integer(name, value, least)
        if "steps" in options:
            raise OptionError(f"Steps are events here. Received: steps={options['steps']!r}; use events=.")
        self._resolved = resolve_method(method, data, options)
        if self._resolved.method.regrow:
            raise OptionError(
                f"Method {method!r} lets pruned weights return, which training has long since left behind. "
                "Use snip_it, snap_it, iter_snip or another without regrowth."
            )
        self._batches = None if data is None else Batches(data)
        self._sparsity = sparsity
        self._every = every
        self._delay = delay
        own = self._resolved.method
        usual = own.schedule if own.iterative else "halving"
        self._plan = (usual if schedule is None else schedule, own.steps if events is None else events)
        self._exclude = exclude
        self._prune_bias = prune_bias
        self.masks: Masks | None = None
        self.history: list[tuple[int, float]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Plan the events, and refuse a plan that training cuts short."""
        targets = find_prunable_variables(self.model, exclude=self._exclude, prune_bias=self._prune_bias)
        self._selector = make_selector(self.model, targets, self._resolved, self._batches, self._prune_bias)
        schedule, events = self._plan
        self._densities = compute_densities(schedule, self._selector.resolve_density(self._sparsity), events)
        last = self._delay + self._every * events
        epochs = self.params.get("epochs") or last
        if epochs < last:
            raise OptionError(
                f"The last of {events} events comes after epoch {last}. Received: epochs={epochs}; train longer, or "
                "give fewer events or a smaller every or delay."
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Prune, if an event falls on this epoch."""
        since = epoch + 1 - self._delay
        if since <= 0 or since % self._every or len(self.history) == len(self._densities):
            return
        density = self._densities[len(self.history)]
        resolved = replace(self._resolved, method=replace(self._resolved.method, schedule="one_shot", steps=1))
        targets = self._selector.variables.prunable
        held: Mapping[str, np.ndarray] = get_attached_masks(self.model) or {}
        left = {t.path: held.get(t.path, np.ones(t.shape, bool)) for t in targets}
        with ScoringEngine(self.model, targets, data=self._batches, **resolved.engine_options) as engine:
            found = search_masks(
                engine, self._selector, resolved, Goal(density, last=self._densities[-1]), verbose=0, left=left
            )
        conclude_search(self.model, found, self._prune_bias)
        attach(self.model, found.masks)
        self.model.make_train_function(force=True)  # fit goes on with it
        self.masks = found.masks
        self.history.append((epoch + 1, found.masks.density))
