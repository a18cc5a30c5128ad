"""New weights under the same masks: the literature's ablations of what a mask is worth without its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tfprune_init.backend.protocols import Model
from tfprune_init.checks import check_integer, suggest
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.variables import Exclusion, ModelVariable, find_prunable_variables
from tfprune_init.graph.weight_copies import check_weights
from tfprune_init.masking.constraint import get_holding_constraint
from tfprune_init.masking.initializers import draw_initial_values, find_initializer

# The standard deviation of an initializer is measured on at least so many values, however small the variable.
_ENOUGH = 1000


def reinitialize(
    model: Model,
    kind: str = "random",
    *,
    seed: int = 0,
    exclude: Exclusion | Iterable[Exclusion] | None = None,
    weights: Mapping[str, Any] | None = None,
    deviation_of: str | None = None,
    rescale: bool = False,
) -> None:
    """Give the kernels of a model new weights, in place; what masks attached to it prune stays exactly 0.0.

    If a mask helps as much with other weights as with those it was found for, only the mask matters, not how it
    fits the weights. The kinds, where w are the present weights of a kernel (or those of `weights=`):

    - "random": every weight anew, from its own layer's initializer.
    - "constant": random signs, each as likely, times one constant a for each variable (`deviation_of=`).
    - "shuffled": w at other places of their variable, among those that are kept.
    - "shuffled_all": w at other places of their variable, those of pruned places among them. It is what Zhou's code
      calls random_reinit. Without masks it is "shuffled".
    - "random_same_sign", "constant_same_sign", "shuffled_same_sign", "shuffled_all_same_sign": abs(v) * sign(w), where
      v is what the kind without "_same_sign" gives; a * sign(w) for the constant.
    - "unchanged": w itself, to rescale it or to go back to `weights=`.

    Where the sign stays, a weight that is 0 stays 0. Without attached masks the other kinds give every weight a
    value, zeros included, so attach the masks first: `tpi.attach(model, tpi.Masks.from_zeros(model))`. Biases,
    normalizations and the state of the optimizer stay as they are: call this before training, or compile anew.

    An initializer that takes no seed, as that of constants, gives the values it always gives. In half precision,
    initializers now and then draw a weight that is exactly 0.0, as they do when Keras builds the model.

    Args:
        model: A built model, Keras 3 or tf_keras, plain, wrapped, or with masks attached.
        kind: One of the kinds above.
        seed: Seed of everything random: the same seed gives the same bits. A kind and its "_same_sign" share their
            magnitudes then.
        exclude: What to leave alone, as in `find_masks`. The weights of the others do not depend on it.
        weights: What counts as the present weights, by variable path: `tpi.copy_weights(model)` from before the masks
            were attached knows the weights at pruned places, and from before training the initial ones. For all kinds
            but "random" and the "constant" of an initializer, which do not look at them.
        deviation_of: Whose standard deviation the constant is: "initializer", measured on draws of it, or "weights",
            sqrt(mean(w ** 2) - mean(w) ** 2) over the whole variable, pruned places included. "initializer" by
            default. For kinds of constants.
        rescale: Whether to multiply what is kept by n / k, once for each variable, where masks keep k > 0 of its n
            weights, so that its units keep their mean inputs. A second call multiplies again.

    Raises:
        OptionError: If there is no such kind, the seed is no non-negative integer, an option has no effect, or
            `weights` does not fit the model. "shuffled_all" under attached masks needs `weights`, since the present
            weights at pruned places are 0.
        ModelError: If a layer has no initializer for a variable, or one that is random and takes no seed, a constant
            is 0 because all values are equal, or a rescaled weight is too large for its dtype. Nothing is changed then.

    References:
        Frankle et al., Pruning Neural Networks at Initialization: Why Are We Missing the Mark?, ICLR 2021
        ("random"); Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask, NeurIPS 2019
        (signs, constants of weights, "shuffled", "shuffled_all", rescale; its constants have the signs of w in a
        random order); Ramanujan et al., What's Hidden in a Randomly Weighted Neural Network?, CVPR 2020 ("constant").

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> from tfprune_init.masking.reinitialization import reinitialize
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> initial = tpi.copy_weights(model)
        >>> tpi.attach(model, tpi.find_masks(model, None, sparsity=0.75, method="random"))
        >>> reinitialize(model, "constant_same_sign", weights=initial, deviation_of="weights")
        >>> weights = model.layers[0].kernel.numpy()
        >>> int((weights != 0).sum()), len(np.unique(np.abs(weights)))
        (8, 2)
    """
    if kind not in _KINDS:
        raise OptionError(f"There is no kind {kind!r}. {suggest(kind, _KINDS)}")
    seed = check_integer("seed", seed, 0)
    _check_effect(kind, weights, deviation_of, rescale)
    every = find_prunable_variables(model).prunable
    chosen = {target.path for target in find_prunable_variables(model, exclude=exclude).prunable}
    targets = [target for target in every if target.path in chosen]
    given = {} if weights is None else check_weights("weights", weights, model, targets)
    kernels = [
        _Weights(target, np.random.SeedSequence([seed, position]), given.get(target.path), deviation_of == "weights")
        for position, target in enumerate(every)
        if target.path in chosen
    ]
    if rescale and all(one.kept.all() for one in kernels):
        raise OptionError("rescale=True has no effect: the masks on the model prune none of these weights.")
    values = [one.rescaled(_KINDS[kind](one)) if rescale else _KINDS[kind](one) for one in kernels]
    for one, value in zip(kernels, values, strict=True):
        one.target.tensor.assign(np.where(one.kept, value, 0).astype(one.target.tensor.dtype.as_numpy_dtype))


def _check_effect(kind: str, weights: Any, deviation_of: Any, rescale: Any) -> None:
    """Refuse options that the kind does not look at."""
    if deviation_of not in (None, "initializer", "weights"):
        raise OptionError(
            f"deviation_of must be 'initializer' or 'weights', or None. Received: deviation_of={deviation_of!r}."
        )
    if not isinstance(rescale, bool):
        raise OptionError(f"rescale must be True or False. Received: rescale={rescale!r}.")
    if deviation_of is not None and not kind.startswith("constant"):
        raise OptionError(
            f"deviation_of= says what a constant is, so it has no effect on kind {kind!r}. "
            f"Received: deviation_of={deviation_of!r}."
        )
    if weights is not None and (kind == "random" or (kind == "constant" and deviation_of != "weights")):
        raise OptionError(
            f"weights= has no effect on kind {kind!r}, which looks at the initializer alone; leave it out."
        )
    if kind == "unchanged" and weights is None and not rescale:
        raise OptionError("kind 'unchanged' has no effect without rescale=True or weights=. Received: neither.")


@dataclass(frozen=True, eq=False)
class _Weights:
    """The weights of one variable, and what they can be replaced with."""

    target: ModelVariable
    sequence: np.random.SeedSequence
    given: np.ndarray | None
    measures_weights: bool

    @cached_property
    def present(self) -> np.ndarray:
        """The values it has now, or those that were given."""
        return self.target.tensor.numpy() if self.given is None else self.given

    @cached_property
    def kept(self) -> np.ndarray:
        """True where a weight is neither pruned by an attached mask nor frozen."""
        held = get_holding_constraint(self.target.variable)
        return np.ones(self.target.shape, bool) if held is None else held.mask

    def random_signs(self) -> np.ndarray:
        """-1 or 1 for each weight."""
        return np.random.default_rng(self.sequence).choice(np.array([-1.0, 1.0]), self.target.shape)

    def shuffled(self) -> np.ndarray:
        """Return the present values, those that are kept at each other's places."""
        values = self.present.copy()
        values[self.kept] = np.random.default_rng(self.sequence).permutation(values[self.kept])
        return values

    def shuffled_all(self) -> np.ndarray:
        """Return the present values at each other's places, whether kept or not."""
        if self.given is None and not self.kept.all():
            raise OptionError(
                f"The weights of {self.target.path} at pruned places are 0 by now, so they cannot be shuffled with the "
                "others. Pass those from before as weights=..., or take the kind 'shuffled'. Received: weights=None."
            )
        return np.random.default_rng(self.sequence).permutation(self.present.ravel()).reshape(self.target.shape)

    def signed(self, values: np.ndarray | float) -> np.ndarray:
        """Return the magnitudes of the values with the present signs."""
        return np.asarray(np.sign(self.present) * np.abs(values))

    def rescaled(self, values: np.ndarray) -> np.ndarray:
        """Return the values times the number of weights for each that is kept."""
        kept, dtype = int(np.count_nonzero(self.kept)), self.target.tensor.dtype
        scaled = np.asarray(values, np.float64) * (self.target.size / kept if kept else 1.0)
        if (np.abs(scaled) > float(dtype.max)).any():
            raise ModelError(
                f"rescale=True would make a weight of {self.target.path} too large for {dtype.name}, as {kept:,} of "
                f"its {self.target.size:,} weights are kept. Leave it alone with exclude=[{self.target.path!r}]."
            )
        return scaled

    def drawn(self) -> np.ndarray:
        """Values from the initializer."""
        return self._draws(1)[0]

    def constant(self) -> float:
        """Return the standard deviation of the initializer's values, or of the weights."""
        if self.measures_weights:
            values, received = [self.present], f"{self.present.flat[0]} everywhere"
            cause = f"The weights of {self.target.path} are equal"
        else:
            values, received = self._draws(-(-_ENOUGH // self.target.size)), repr(find_initializer(self.target))
            cause = f"The initializer of {self.target.path} gives equal values"
        spread = float(np.std(np.asarray(values, np.float64)))
        if spread == 0.0:
            raise ModelError(
                f"{cause}, so their standard deviation, the constant "
                f"that would replace the weights, is 0. Leave it alone with exclude=[{self.target.path!r}], or take "
                f"another kind. Received: {received}."
            )
        return spread

    def _draws(self, count: int) -> list[np.ndarray]:
        """Return the initializer's values for as many seeds; the first seeds are the same for every count."""
        return draw_initial_values(self.target, self.sequence, count, _otherwise(self.target))


def _otherwise(target: ModelVariable) -> str:
    return f"leave the variable alone with exclude=[{target.path!r}], or take the kind 'shuffled', which needs none"


_KINDS: dict[str, Callable[[_Weights], np.ndarray]] = {
    "random": lambda w: w.drawn(),
    "random_same_sign": lambda w: w.signed(w.drawn()),
    "constant": lambda w: w.random_signs() * w.constant(),
    "constant_same_sign": lambda w: w.signed(w.constant()),
    "shuffled": lambda w: w.shuffled(),
    "shuffled_same_sign": lambda w: w.signed(w.shuffled()),
    "shuffled_all": lambda w: w.shuffled_all(),
    "shuffled_all_same_sign": lambda w: w.signed(w.shuffled_all()),
    "unchanged": lambda w: w.present,
}
