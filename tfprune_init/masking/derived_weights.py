"""Masks on weights that a layer derives from its variables: held on LoRA's product, refused where zeros would not stay.

A mask holds a variable. What counts is the weight that the layer computes with. With LoRA that is the kernel plus a
product of two trained factors, so the product is masked too, where Keras adds it: in calls, and when it saves the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend.derived_weights import find_derived_weight
from tfprune_init.backend.instance_methods import replace_method, restore_method
from tfprune_init.backend.overrides import override_attributes, override_variables
from tfprune_init.backend.protocols import Layer
from tfprune_init.errors import EnforcementError
from tfprune_init.graph.variables import ModelVariable, list_variables
from tfprune_init.masking.constraint import MaskConstraint, get_constraint


class MaskedScale:
    """A layer's `lora_alpha` that makes the scaled product exactly 0.0 where weights are pruned, NaN included.

    Keras adds `(lora_alpha / lora_rank) * (a @ b)` to the weight.

    Args:
        alpha: The layer's own `lora_alpha`.
        constraint: The constraint on the weight.
    """

    def __init__(self, alpha: float, constraint: MaskConstraint):
        self.alpha = alpha
        self.constraint = constraint

    def __truediv__(self, rank: float) -> MaskedScale:
        """Return the scale that Keras multiplies the product with."""
        return MaskedScale(self.alpha / rank, self.constraint)

    def __mul__(self, product: Any) -> tf.Tensor:
        """Return the masked product."""
        return self.constraint.masked(self.alpha * tf.convert_to_tensor(product))


def is_lora(target: ModelVariable) -> bool:
    """Return whether the layer adds the product of LoRA's factors to this variable, in floating point."""
    enabled = getattr(target.layer, "lora_enabled", False) is True
    quantized = getattr(target.layer, "quantization_mode", None) is not None
    return enabled and not quantized and hasattr(target.layer, f"lora_{target.name}_b")


def check_holdable(target: ModelVariable, mask: np.ndarray) -> None:
    """Refuse a mask on a variable whose zeros are no zeros of the weight that the layer computes with.

    It is tried with random values in all floating-point variables of the layer, which are not touched.

    Raises:
        EnforcementError: If the layer derives its weight in such a way. LoRA passes, as `hold_product` masks it.
    """
    if find_derived_weight(target.layer, target.variable) is None:
        return
    constraint = MaskConstraint(mask)
    scale = {"lora_alpha": MaskedScale(_get_alpha(target.layer), constraint)} if is_lora(target) else {}
    with override_attributes(target.layer, **scale):
        kept = _keeps_zeros(target, constraint)
    if not kept:
        kind, mode = type(target.layer).__name__, getattr(target.layer, "quantization_mode", None)
        raise EnforcementError(
            f"A mask on {target.path} would not hold: the layer computes with {kind}.{target.name}, which is not zero "
            f"where this variable is. Received: {kind} with quantization mode {mode!r}, LoRA "
            f"{getattr(target.layer, 'lora_enabled', False)}. Leave it out with exclude=[...]. Weights that are "
            "scaled, or that LoRA adds to in floating point, can be masked; quantize after tpi.strip."
        )


def hold_product(target: ModelVariable, constraint: MaskConstraint) -> None:
    """Let the layer mask the product of LoRA's factors before it adds it to the weight."""
    target.layer.lora_alpha = MaskedScale(_get_alpha(target.layer), constraint)


def release_product(target: ModelVariable) -> None:
    """Undo `hold_product`."""
    if isinstance(getattr(target.layer, "lora_alpha", None), MaskedScale):
        target.layer.lora_alpha = target.layer.lora_alpha.alpha


def merge_product(target: ModelVariable) -> None:
    """Add the product of LoRA's factors to the variable, as Keras does when it saves, and zero the second factor.

    The layer computes what it did, and LoRA starts anew: its first factor stays, so it can be trained.
    """
    target.variable.assign(tf.cast(target.effective, target.tensor.dtype))
    factor = getattr(target.layer, f"lora_{target.name}_b")
    factor.assign(tf.zeros(factor.shape, factor.dtype))


def refuse_new_weights(owner: Any, refuse: Callable[..., None] | None = None) -> None:
    """Refuse `quantize` and `enable_lora` of a layer or model with weights that are held.

    Both would let it compute with other weights than those.

    Args:
        owner: The layer or model.
        refuse: Called in place of both; by default what speaks of masks.
    """
    for name, speak_of_masks in _REFUSALS.items():
        if hasattr(owner, name):
            replace_method(owner, name, speak_of_masks if refuse is None else refuse)


def allow_new_weights(owner: Any) -> None:
    """Undo `refuse_new_weights`."""
    for name in _REFUSALS:
        restore_method(owner, name)


def count_leaks(target: ModelVariable) -> int:
    """Count the pruned weights that are not 0.0 in what the layer computes with."""
    constraint = get_constraint(target.variable)
    return 0 if constraint is None else int(np.count_nonzero(np.asarray(target.effective)[~constraint.mask]))


def _get_alpha(layer: Layer) -> float:
    alpha: float | MaskedScale = layer.lora_alpha
    return alpha.alpha if isinstance(alpha, MaskedScale) else alpha


def _keeps_zeros(target: ModelVariable, constraint: MaskConstraint) -> bool:
    rng = np.random.default_rng(0)
    variables = list_variables(target.layer)
    floats = [one for one in variables if one.tensor.dtype.is_floating]
    values = {one.path: tf.constant(rng.normal(size=one.shape), one.tensor.dtype) for one in floats}
    own = next(one.path for one in variables if one.variable is target.variable)
    values[own] = constraint.masked(values.get(own, tf.convert_to_tensor(target.tensor)))
    with override_variables(target.layer, variables, values):
        derived = np.asarray(tf.convert_to_tensor(find_derived_weight(target.layer, target.variable)))
    return derived.shape == target.shape and not np.count_nonzero(derived[~constraint.mask])


def _refuse_quantization(self: Any, mode: Any, *args: Any, **kwargs: Any) -> None:
    raise EnforcementError(
        f"{self.name!r} has masks attached, and quantize would replace the variables that they hold. Received: "
        f"quantize({mode!r}). Call tpi.strip(model) first: zeros stay zeros when they are quantized."
    )


def _refuse_lora(self: Any, *args: Any, **kwargs: Any) -> None:
    raise EnforcementError(
        f"{self.name!r} has masks attached, and LoRA would add to the weights that they hold. Received: enable_lora. "
        "Call tpi.strip(model), then enable_lora, then tpi.attach(model, masks), which masks the sum."
    )


# Layers check the arguments of `quantize` before they change anything.
_REFUSALS = {"_check_quantize_args": _refuse_quantization, "enable_lora": _refuse_lora}
