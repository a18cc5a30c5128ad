"""Dynamic pruning with feedback (DPF): pruned weights go on training, and return where they grow large."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np

from tfprune_init.errors import OptionError, PruningError, ScoreError
from tfprune_init.graph.variables import Exclusion, find_prunable_variables
from tfprune_init.masking.attachment import attach
from tfprune_init.masking.events import EventCallback, make_plan, search_at_event
from tfprune_init.masking.straight_through import StraightThrough
from tfprune_init.masks import Masks
from tfprune_init.methods import resolve_method
from tfprune_init.methods.mask_selector import MaskSelector, make_selector
from tfprune_init.selection.schedules import compute_densities


class DynamicPruning(EventCallback):
    """Prune a network while it trains, and let pruned weights return: dynamic pruning with feedback.

    The network computes with m * w, exactly 0.0 where a weight is pruned, in training, validation and metrics. The
    gradient at m * w changes all of the dense weights w, pruned ones too. Every few steps the masks m are chosen anew:
    the largest absolute dense weights stay. After the last event the weights become m * w and the masks are attached,
    so that the rest of the training is fine-tuning at exactly zero. Works in `fit` of Keras 3 and of tf_keras.

    Until the last event the variables of the model are dense: weight files, `get_weights`, weight decay and
    regularizers see the dense weights, and a model loaded from a file computes with them until it is pruned again.

    To go on with a training in another process, save the weights and `pruning.masks`, and the optimizer's state if it
    has one. Load them, and `fit` with `initial_epoch=` and a new callback of the same options, with `until=` and
    `masks=`. Without `masks=` they are chosen from the dense weights, for the last event that was passed. A training
    that is stopped before the last event leaves the network as it is: `fit` with the same callback goes on, and
    `finish` ends the pruning there.

    What the paper leaves open has defaults: masks change until 75% of the steps, all layers compete, the classifier
    among them (`exclude=` leaves it out), and the sparsity begins at 0.

    Args:
        sparsity: Share to remove in the end, in [0, 1).
        every: Steps between events.
        delay: Steps before the first event can come: events are after steps delay + every, delay + 2 * every, ...
        until: The last event is the last one that is not after so many steps; 75% of the steps of the training by
            default.
        schedule: Density at each event, as in `find_masks`.
        masks: The masks to begin with; all weights by default.
        exclude: What not to prune.
        prune_bias: Whether biases are prunable too.
        **options: Options of `find_masks` for the method "magnitude": allocation, granularity, normalize, on_collapse.

    Attributes:
        masks: The masks that the network computes with now; None before training.
        history: For each event, its step (counted from 1) and the share of weights kept.

    Raises:
        OptionError: If an option is out of range or has no effect, or training ends before the last event.
        EnforcementError: If the model carries masks already, or a layer computes with something else than its variable.
        ScoreError: If a weight becomes NaN or infinite.
        NetworkCollapseError: If the last event would leave a network that passes no signal. The network is then as the
            event before left it.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
        >>> model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> x, y = np.random.default_rng(0).normal(size=(64, 8)), np.arange(64) % 3
        >>> pruning = tpi.DynamicPruning(sparsity=0.75, every=4)
        >>> history = model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[pruning])
        >>> [(step, round(density, 3)) for step, density in pruning.history]
        [(4, 0.472), (8, 0.273), (12, 0.25)]
        >>> int((model.layers[0].kernel.numpy() != 0).sum() + (model.layers[1].kernel.numpy() != 0).sum())
        44

    Reference:
        Lin, Stich, Barba, Dmitriev, Jaggi, Dynamic Model Pruning with Feedback, ICLR 2020, which has no public code:
        cubic sparsity and masks every 16 steps as in the paper.
    """

    def __init__(
        self,
        *,
        sparsity: float | Fraction,
        every: int = 16,
        delay: int = 0,
        until: int | None = None,
        schedule: Any = "cubic",
        masks: Masks | None = None,
        exclude: Exclusion | Iterable[Exclusion] | None = None,
        prune_bias: bool = False,
        **options: Any,
    ):
        super().__init__()
        useless = [name for name in ("steps", "shuffle") if name in options]
        if useless:
            raise OptionError(f"DynamicPruning does not use {', '.join(useless)}; leave it out.")
        self._resolved = resolve_method("magnitude", None, options)
        if self._resolved.granularity.of_units:
            raise OptionError(
                "Dynamic pruning reads kernels through masks, and whole units have biases and statistics too. "
                f"Received: granularity={self._resolved.granularity.name!r}; use one of single kernels, as 'weights'."
            )
        make_plan("steps", every, delay, until=until, events=1 if until is None else None)
        self._sparsity = sparsity
        self._times = (every, delay, until)
        self._schedule = schedule
        self._given = masks
        self._exclude = exclude
        self._prune_bias = prune_bias
        self._hold: StraightThrough | None = None
        self.masks: Masks | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Plan the events, and let the network read its weights through masks; or go on, in another `fit`."""
        every, delay, until = self._times
        if self._plan is None:
            plan = make_plan("steps", every, delay, until=self._find_usual_end() if until is None else until)
            self.follow(plan)
            self._begin(plan.events)
            self.model.make_train_function(force=True)  # fit goes on with it
        else:
            self.follow(self._plan)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Choose the masks of the events before this epoch, in a training that goes on without the masks it had."""
        super().on_epoch_begin(epoch)
        if self._plan is None or self._hold is None:
            return
        done = self._before or 0
        number = self._plan.count_passed(done)
        if number > self.passed:
            self.passed = number
            if self._given is None or number == self._plan.events:
                self.prune_at(number, done)

    def prune_at(self, number: int, place: int) -> None:
        """Choose the masks of an event; after the last one, attach them."""
        hold = self._held()
        last = number == len(self._densities)
        self.masks = self._search() if last else self._choose(hold, self._densities[number - 1])
        self.history.append((place, self.masks.density))
        if last:
            self.finish()
        else:
            hold.set_masks(self.masks)

    def finish(self) -> None:
        """Set pruned weights to zero and attach the masks of now: what the last event does by itself.

        Raises:
            OptionError: If nothing is being pruned.
        """
        hold, masks = self._held(), self.masks
        hold.release()
        self._hold = None
        attach(self.model, masks)
        self.model.make_train_function(force=True)

    def _held(self) -> StraightThrough:
        if self._hold is None:
            raise OptionError("Nothing is being pruned: training has not begun, or the masks are attached already.")
        return self._hold

    def _find_usual_end(self) -> int:
        epochs, steps = self.params.get("epochs"), self.params.get("steps")
        if not epochs or not steps:
            raise OptionError(
                "The last event comes after 75% of the steps, and how many there are is not known of these data. "
                "Received: until=None; give until=, or steps_per_epoch= in fit."
            )
        return int(epochs * steps) * 3 // 4

    def _begin(self, events: int) -> None:
        targets = find_prunable_variables(self.model, exclude=self._exclude, prune_bias=self._prune_bias)
        self._selector: MaskSelector = make_selector(self.model, targets, self._resolved, None, self._prune_bias)
        density = self._selector.resolve_density(self._sparsity)
        self._densities = compute_densities(self._schedule, density, events)
        paths = [target.path for target in targets.prunable]
        given = None if self._given is None else self._given.covering(paths, self.model)
        self._hold = StraightThrough(self.model, targets.prunable)
        if given is not None:
            self._hold.set_masks(given)
        self.masks = Masks(self._hold.masks)

    def _choose(self, hold: StraightThrough, density: Fraction) -> Masks:
        scores = {path: np.abs(weight, out=weight) for path, weight in hold.read_dense().items()}
        broken = [path for path, score in scores.items() if not np.isfinite(score).all()]
        if broken:
            raise ScoreError(
                f"Weights of {', '.join(broken)} are NaN or infinite, so the largest cannot be told. Try a lower "
                "learning rate, or clipnorm=1.0 in the optimizer."
            )
        return Masks(self._selector.choose(scores, density, None, self._densities[-1]))

    def _search(self) -> Masks:
        """Choose the final masks of the dense weights, and judge the network that they leave."""
        hold = self._held()
        hold.release()
        try:
            return search_at_event(
                self.model, self._selector, self._resolved, None, self._densities[-1], prune_bias=self._prune_bias
            ).masks
        except PruningError:
            hold.hold()
            self.model.make_train_function(force=True)
            raise
