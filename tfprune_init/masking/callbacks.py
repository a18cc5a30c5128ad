"""Pruning while the network trains: a callback that prunes every few epochs or steps (SNIP-it, gradual magnitude)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from tfprune_init.backend.batches import Batches
from tfprune_init.errors import OptionError
from tfprune_init.graph.variables import Exclusion, find_prunable_variables
from tfprune_init.masking.attachment import attach, get_attached_masks
from tfprune_init.masking.events import EventCallback, make_plan, search_at_event
from tfprune_init.masks import Masks
from tfprune_init.methods import resolve_method
from tfprune_init.methods.mask_selector import make_selector
from tfprune_init.selection.schedules import compute_densities


class PruneDuringTraining(EventCallback):
    """Prune a network in events, every few epochs or steps of its training.

    At each event the network is judged as it is then, under the masks it has, and pruned to the next density of the
    schedule; what is pruned stays at exactly zero from there on. Works in `fit` of Keras 3 and of tf_keras.

    Gradual magnitude pruning (Zhu & Gupta, 2017) is `method="magnitude", schedule="cubic", unit="steps", every=100,
    until=...`. TF-MOT prunes all layers alike, which is `allocation="uniform"`; by default layers compete. Each event
    traces the training step anew.

    Args:
        data: What connections are judged by, as in `find_masks`; each event takes the next batches.
        sparsity: Share to remove in the end, in [0, 1).
        method: A method whose pruned weights stay pruned: "snip_it", "snap_it", "iter_snip", "magnitude", ...
        every: Epochs between events, or steps.
        delay: Epochs or steps before the first event can come: events are at the ends of epochs delay + every,
            delay + 2 * every, ..., counted from 1.
        events: Number of events; the method's number of steps by default, or 1 for methods of one step.
        until: In place of `events`: the last event is the last one that is not after so many epochs or steps.
        unit: "epochs" or "steps": what `every`, `delay` and `until` count.
        schedule: Density at each event; the method's own by default, "halving" for methods of one step.
        exclude: What not to prune.
        prune_bias: Whether biases are prunable too.
        **options: Options of `find_masks`: loss, batches, granularity, allocation, training, seed,
            on_collapse and the criterion's.

    Attributes:
        masks: The masks of the last event; None before the first.
        history: For each event, its epoch or step (counted from 1) and the share of weights kept.

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

        Gradual magnitude pruning, at the ends of steps 2, 4, 6 and 8, of the model without these masks:

        >>> model = tpi.strip(model)
        >>> gradual = tpi.PruneDuringTraining(
        ...     None, sparsity=0.875, method="magnitude", schedule="cubic", unit="steps", every=2, delay=0, until=8
        ... )
        >>> history = model.fit(x, y, epochs=4, batch_size=32, verbose=0, callbacks=[gradual])
        >>> gradual.history[-1]
        (8, 0.125)

    Reference:
        Verdenius et al., Pruning via Iterative Ranking of Sensitivity Statistics, 2020; every and delay as in its
        code, whose README uses 4 and 4.
    """

    def __init__(
        self,
        data: Any,
        *,
        sparsity: float | Fraction,
        method: str = "snip_it",
        every: int = 4,
        delay: int = 4,
        events: int | None = None,
        until: int | None = None,
        unit: str = "epochs",
        schedule: Any = None,
        exclude: Exclusion | Iterable[Exclusion] | None = None,
        prune_bias: bool = False,
        **options: Any,
    ):
        super().__init__()
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
        own = self._resolved.method
        usual = own.steps if until is None else None
        self._events = make_plan(unit, every, delay, events=usual if events is None else events, until=until)
        self._schedule = schedule or (own.schedule if own.iterative else "halving")
        self._exclude = exclude
        self._prune_bias = prune_bias
        self.masks: Masks | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Plan the events, and refuse a plan that training cuts short."""
        targets = find_prunable_variables(self.model, exclude=self._exclude, prune_bias=self._prune_bias)
        self._selector = make_selector(self.model, targets, self._resolved, self._batches, self._prune_bias)
        density = self._selector.resolve_density(self._sparsity)
        self._densities = compute_densities(self._schedule, density, self._events.events)
        self.follow(self._events)

    def prune_at(self, number: int, place: int) -> None:
        """Prune to the density of an event."""
        density = self._densities[number - 1]
        held: Mapping[str, np.ndarray] = get_attached_masks(self.model) or {}
        left = {t.path: held.get(t.path, np.ones(t.shape, bool)) for t in self._selector.variables.prunable}
        self.masks = search_at_event(
            self.model,
            self._selector,
            self._resolved,
            self._batches,
            density,
            last=self._densities[-1],
            left=left,
            prune_bias=self._prune_bias,
        ).masks
        attach(self.model, self.masks)
        self.model.make_train_function(force=True)  # fit goes on with it
        self.history.append((place, self.masks.density))
