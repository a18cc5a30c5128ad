"""The variables of a model that share one weight, and what the others are meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.derived_weights import find_derived_weight
from tfprune_init.backend.instance_methods import get_replacement
from tfprune_init.backend.protocols import Model
from tfprune_init.errors import EnforcementError, MaskMismatchError, OptionError
from tfprune_init.graph.variables import ModelVariable, list_variables
from tfprune_init.masking.attachment import check_unfrozen, get_attached_masks
from tfprune_init.masks import Masks

_BIAS = {"zero": "bias, 0", "shared": "bias, shares the weight", "present": "bias, as it is"}
# What makes BatchNormalization, as it computes in inference, the identity.
_IDENTITY = {"gamma": 1.0, "beta": 0.0, "moving_mean": 0.0, "moving_variance": 1.0}


class SharedKernels:
    """Writes one value into every weight that masks keep.

    Args:
        model: A built model.
        masks: True where a weight shares the value; None for those that the model carries.
        signs: "equal" or "present", as in `tpi.shared_weight`.
        bias: "zero", "shared" or "present", as there.
        values: The values that will be swept.

    Attributes:
        values: As given.
        tensors: The variables that share the value.
        kept: Number of weights that share it.
        others: What the other variables are meanwhile, by path.

    Raises:
        OptionError: If there are no masks, they keep nothing, or an option is unknown or has no effect.
        MaskMismatchError: If the masks do not fit the model, or keep what attached masks prune.
        EnforcementError: If a weight could not take the value.
    """

    def __init__(self, model: Model, masks: Masks | None, signs: str, bias: str, values: tuple[float, ...]):
        for name, given, known in (("signs", signs, ("equal", "present")), ("bias", bias, tuple(_BIAS))):
            if given not in known:
                raise OptionError(f"{name} must be {' or '.join(map(repr, known))}. Received: {name}={given!r}.")
        check_unfrozen(model)
        masks = _choose_masks(model, masks)
        self.values = values
        self._shares: list[tuple[ModelVariable, np.ndarray]] = []
        self._constants: list[tuple[tf.Variable, Any]] = []
        self.others: dict[str, str] = {}
        biases = []
        for target in list_variables(model):
            floating = tf.as_dtype(target.tensor.dtype).is_floating
            if target.path in masks:
                _check_writable(target, values)
                self._shares.append((target, _make_pattern(target, masks[target.path], signs)))
            elif target.name == "bias" and floating:
                biases.append(target)
                self.others[target.path] = _BIAS[bias]
            elif _is_batch_normalization(target.layer) and target.name in _IDENTITY:
                self._constants.append((target.tensor, _make_identity(target)))
                self.others[target.path] = "batch normalization, the identity"
            elif floating:
                self.others[target.path] = "as it is"
        self.kept = sum(int(np.count_nonzero(pattern)) for _, pattern in self._shares)
        if self.kept == 0:
            raise OptionError(
                "No weight would share the value. Received: masks that keep nothing, or signs='present' where all that "
                "is kept is 0."
            )
        self._add_biases(model, biases, signs, bias)

    @property
    def tensors(self) -> list[tf.Variable]:
        """The variables that share the value."""
        return [target.tensor for target, _ in self._shares]

    def prepare(self) -> None:
        """Write what does not depend on the value."""
        for tensor, value in self._constants:
            tensor.assign(tf.cast(tf.broadcast_to(value, tensor.shape), tensor.dtype))

    def write(self, value: float) -> None:
        """Write one value into every weight that shares it, and 0.0 into the others of their variables."""
        for target, pattern in self._shares:
            target.tensor.assign((value * pattern).astype(target.tensor.dtype.as_numpy_dtype))

    def add_up(self, gradients: list[Any]) -> tf.Tensor:
        """Return the derivative by the shared weight, float64, from those by the variables; None counts as 0."""
        terms = [
            tf.reduce_sum(tf.cast(gradient, tf.float64) * pattern)
            for gradient, (_, pattern) in zip(map(_to_dense, gradients), self._shares, strict=True)
            if gradient is not None
        ]
        return tf.add_n(terms) if terms else tf.zeros((), tf.float64)

    def _add_biases(self, model: Model, biases: list[ModelVariable], signs: str, bias: str) -> None:
        if bias != "zero" and not biases:
            raise OptionError(
                f"bias={bias!r} has no effect on model {model.name!r}: it has no bias that the masks do not name."
            )
        if bias == "zero":
            self._constants += [(target.tensor, 0.0) for target in biases]
        if bias != "shared":
            return
        for target in biases:
            _check_writable(target, self.values)
            self._shares.append((target, _make_pattern(target, np.ones(target.shape, bool), signs)))
        if not any(pattern.any() for _, pattern in self._shares[-len(biases) :]):
            raise OptionError(
                "bias='shared' has no effect with signs='present' where all biases are 0. Take signs='equal', or "
                "bias='zero'."
            )


def _choose_masks(model: Model, masks: Masks | None) -> Masks:
    carried = get_attached_masks(model)
    if masks is None and carried is None:
        raise OptionError(
            f"There are no masks: model {model.name!r} carries none. Received: masks=None. Find some with "
            "tpi.find_masks and pass them, or tpi.attach them."
        )
    if masks is None:
        assert carried is not None
        return carried
    if not isinstance(masks, Masks):
        raise OptionError(f"masks must be tpi.Masks. Received: {type(masks).__module__}.{type(masks).__qualname__}.")
    masks.check(model)
    clashes = [path for path, held in (carried or {}).items() if path in masks and (masks[path] & ~held).any()]
    if clashes:
        raise MaskMismatchError(
            f"masks= keeps weights of {', '.join(clashes)} that the masks attached to model {model.name!r} hold at 0. "
            "Call tpi.strip(model) first, or leave masks= out."
        )
    return masks


def _check_writable(target: ModelVariable, values: tuple[float, ...]) -> None:
    """Refuse a variable that could not take the values, or whose layer would compute with others."""
    layer = target.layer
    if find_derived_weight(layer, target.variable) is not None or get_replacement(layer, "call") is not None:
        raise EnforcementError(
            f"Weights of {target.path} would not be the shared one: layer {layer.name!r} ({type(layer).__name__}) "
            "computes with others than this variable, as under LoRA or dynamic pruning. Merge them or finish first, or "
            "leave the variable out of the masks."
        )
    dtype = target.tensor.dtype
    for value in values:
        with np.errstate(over="ignore"):
            stored = float(np.asarray(value).astype(dtype.as_numpy_dtype))
        if not np.isfinite(stored) or stored == 0.0:
            raise OptionError(
                f"{dtype.name}, the dtype of {target.path}, holds no {value:g}. Received: values={values}."
            )


def _make_pattern(target: ModelVariable, mask: np.ndarray, signs: str) -> np.ndarray:
    """Return what the shared weight is multiplied with, float64: 1 and 0, and -1 where signs stay."""
    if signs == "equal":
        return mask.astype(np.float64)
    return np.where(mask, np.sign(np.asarray(target.tensor).astype(np.float64)), 0.0)


def _is_batch_normalization(layer: Any) -> bool:
    return any("BatchNormalization" in name for name in compat.get_class_names(layer))


def _make_identity(target: ModelVariable) -> float:
    """Return what a variable of BatchNormalization is in the identity: it divides by sqrt(variance + epsilon)."""
    return _IDENTITY[target.name] - (target.layer.epsilon if target.name == "moving_variance" else 0.0)


def _to_dense(gradient: Any) -> Any:
    return gradient if gradient is None else tf.convert_to_tensor(gradient)
