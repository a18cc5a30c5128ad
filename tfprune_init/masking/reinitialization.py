"""New weights under the same masks: the literature's ablations of what a mask is worth without its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Model
from tfprune_init.checks import check_integer, suggest
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.variables import Exclusion, ModelVariable, find_prunable_variables
from tfprune_init.masking.constraint import get_constraint

# The standard deviation of an initializer is measured on at least so many values, however small the variable.
_ENOUGH = 1000


def reinitialize(
    model: Model, kind: str = "random", *, seed: int = 0, exclude: Exclusion | Iterable[Exclusion] | None = None
) -> None:
    """Give the kernels of a model new weights, in place; what masks attached to it prune stays exactly 0.0.

    If a mask helps as much with other weights as with those it was found for, only the mask matters, not how it
    fits the weights. The kinds:

    - "random": every weight anew, from its own layer's initializer.
    - "random_same_sign": anew, with the signs the weights have now.
    - "constant": random signs times one constant for each variable, the standard deviation of its initializer.
    - "constant_same_sign": the present signs times that constant.
    - "shuffled": the present weights at other places of their variable, among those that are kept.

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

    Raises:
        OptionError: If there is no such kind, the seed is no non-negative integer, or a filter has no effect.
        ModelError: If a layer has no initializer for a variable, or one that is random and takes no seed, or a
            constant kind meets one whose values are all equal. Nothing is changed then.

    References:
        Frankle et al., Pruning Neural Networks at Initialization: Why Are We Missing the Mark?, ICLR 2021
        ("random"); Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask, NeurIPS 2019
        (signs, constants, "shuffled"); Ramanujan et al., What's Hidden in a Randomly Weighted Neural Network?,
        CVPR 2020 ("constant").

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> from tfprune_init.masking.reinitialization import reinitialize
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> tpi.attach(model, tpi.find_masks(model, None, sparsity=0.75, method="random"))
        >>> reinitialize(model, "constant_same_sign")
        >>> weights = model.layers[0].kernel.numpy()
        >>> int((weights != 0).sum()), len(np.unique(np.abs(weights)))
        (8, 2)
    """
    if kind not in _KINDS:
        raise OptionError(f"There is no kind {kind!r}. {suggest(kind, _KINDS)}")
    seed = check_integer("seed", seed, 0)
    chosen = {target.path for target in find_prunable_variables(model, exclude=exclude).prunable}
    weights = [
        _Weights(target, np.random.SeedSequence([seed, position]))
        for position, target in enumerate(find_prunable_variables(model).prunable)
        if target.path in chosen
    ]
    values = [np.where(one.kept, _KINDS[kind](one), 0).astype(one.present.dtype) for one in weights]
    for one, value in zip(weights, values, strict=True):
        one.target.tensor.assign(value)


@dataclass(frozen=True, eq=False)
class _Weights:
    """The weights of one variable, and what they can be replaced with."""

    target: ModelVariable
    sequence: np.random.SeedSequence

    @cached_property
    def present(self) -> np.ndarray:
        """The values it has now."""
        return np.array(self.target.tensor)

    @cached_property
    def kept(self) -> np.ndarray:
        """True where an attached mask keeps the weight, everywhere if there is none."""
        held = get_constraint(self.target.variable)
        return np.ones(self.target.shape, bool) if held is None else held.mask

    def random_signs(self) -> np.ndarray:
        """-1 or 1 for each weight."""
        return np.random.default_rng(self.sequence).choice(np.array([-1.0, 1.0]), self.target.shape)

    def shuffled(self) -> np.ndarray:
        """Return the present values, those that are kept at each other's places."""
        values = self.present.copy()
        values[self.kept] = np.random.default_rng(self.sequence).permutation(values[self.kept])
        return values

    def drawn(self) -> np.ndarray:
        """Values from the initializer."""
        return self._draws(1)[0]

    def constant(self) -> float:
        """Return the standard deviation of the initializer's values."""
        draws = self._draws(-(-_ENOUGH // self.target.size))
        spread = float(np.std(np.asarray(draws, np.float64)))
        if spread == 0.0:
            raise ModelError(
                f"The initializer of {self.target.path} gives equal values, so their standard deviation, the constant "
                f"that would replace the weights, is 0. Leave it alone with exclude=[{self.target.path!r}], or take "
                f"another kind. Received: {_initializer(self.target)!r}."
            )
        return spread

    def _draws(self, count: int) -> list[np.ndarray]:
        """Return the initializer's values for as many seeds; the first seeds are the same for every count."""
        initializer, path = _initializer(self.target), self.target.path
        config = initializer.get_config() if hasattr(initializer, "get_config") else {}
        # A copy with a seed of its own: with the seed it has, it would give the present values again.
        if "seed" in config:
            if self.target.equation and None in (config.get("input_axes", ()), config.get("output_axes", ())):
                # As Keras 3's EinsumDense does when it is built: its equation says which axes are the inputs.
                config["input_axes"], config["output_axes"] = self.target.units
            # 31 bits, which is what both Keras versions take.
            seeds = [int(word) >> 1 for word in self.sequence.generate_state(count)]
            return [self._call(type(initializer).from_config({**config, "seed": seed})) for seed in seeds]
        values = self._call(initializer)
        if not np.array_equal(values, self._call(initializer)):
            raise ModelError(
                f"The initializer of {path} is random, but its get_config() has no 'seed', so its values could not be "
                f"drawn again. Give it one, or leave the variable alone with exclude=[{path!r}]. "
                f"Received: {initializer!r}."
            )
        return [values]

    def _call(self, initializer: Any) -> np.ndarray:
        return np.asarray(initializer(self.target.shape, dtype=self.target.tensor.dtype.name))


def _initializer(target: ModelVariable) -> Any:
    """Return what its layer filled the variable with."""
    classes = compat.get_class_names(target.layer)
    # A depthwise convolution of tf_keras has both attributes, and this is the one it uses.
    depthwise = target.name == "kernel" and any(name.startswith("DepthwiseConv") for name in classes)
    names = ["depthwise"] if depthwise else [target.name, target.name.removesuffix("_kernel")]
    for name in names:
        initializer = getattr(target.layer, f"{name}_initializer", None)
        if initializer is not None:
            return initializer
    raise ModelError(
        f"Layer {target.layer.name!r} ({type(target.layer).__name__}) does not say what {target.path} is initialized "
        f"with. Keep the initializer as its attribute {names[0]}_initializer, leave the variable alone with "
        f"exclude=[{target.path!r}], or take the kind 'shuffled', which needs none."
    )


_KINDS: dict[str, Callable[[_Weights], np.ndarray]] = {
    "random": lambda w: w.drawn(),
    "random_same_sign": lambda w: np.sign(w.present) * np.abs(w.drawn()),
    "constant": lambda w: w.random_signs() * w.constant(),
    "constant_same_sign": lambda w: np.sign(w.present) * w.constant(),
    "shuffled": lambda w: w.shuffled(),
}
