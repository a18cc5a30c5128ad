"""Masks that stay true while a model trains: attach them to its variables, and take them off again."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.derived_weights import reset_inference_functions
from tfprune_init.backend.fit_support import unsupported_fit_reason
from tfprune_init.backend.instance_methods import get_replacement, replace_method, restore_method
from tfprune_init.backend.protocols import Layer, Model
from tfprune_init.errors import EnforcementError
from tfprune_init.graph.variables import ModelVariable, list_variables
from tfprune_init.masking.constraint import FrozenConstraint, MaskConstraint, get_constraint
from tfprune_init.masking.derived_weights import (
    allow_new_weights,
    check_holdable,
    count_leaks,
    hold_product,
    is_lora,
    merge_product,
    refuse_new_weights,
    release_product,
)
from tfprune_init.masking.finite_steps import check_divisions
from tfprune_init.masking.gradient_masking import intercept_optimizer, restore_optimizer
from tfprune_init.masking.saved_layers import find_serialized_layer, find_ways
from tfprune_init.masks import Masks

# Attribute through which a Keras 3 layer saves the constraint of its variable.
_CONFIG_ATTRIBUTES = {
    "kernel": ("kernel_constraint", "depthwise_constraint"),
    "bias": ("bias_constraint",),
    "depthwise_kernel": ("depthwise_constraint",),
    "pointwise_kernel": ("pointwise_constraint",),
    "recurrent_kernel": ("recurrent_constraint",),
    "embeddings": ("embeddings_constraint",),
}


def attach(model: Model, masks: Masks | None = None) -> None:
    """Set pruned weights to zero and hold them there, whatever trains the model from now on.

    Each masked variable gets a constraint that every Keras optimizer applies after every step, and its
    `assign` is guarded, so averaged (EMA), restored and loaded weights come back with zeros too. Optimizers
    that share statistics between weights (clipnorm, global_clipnorm, LAMB, Muon) get masked gradients. The
    constraints are saved with the layers in a .keras file; where a layer cannot save them (inside attention,
    in subclassed models, tf_keras), saving the whole model is refused: save weights, or use `wrap`.

    What counts is the weight that a layer computes with. Under LoRA the product is masked before Keras adds it to the
    kernel, in calls and when Keras saves the sum; `strip` merges it. Other weights that a layer derives from its
    variables are held if they are zero where the variable is. Masked layers refuse `quantize` and `enable_lora`: call
    `strip` first.

    Training functions of your own that were traced before this call do not know the masks: trace them anew.
    `strip` refuses a model whose pruned weights came back. Adafactor would divide 0 by 0 where a row and a column of a
    kernel get no gradient, as beside units that pruning disconnected; its step is 0 there instead.

    Args:
        model: A built model, Keras 3 or tf_keras, compiled or not.
        masks: What to keep. Variables they do not name keep the masks they carry already. None takes the masks
            the model carries, as after loading a .keras file, where it renews what a file cannot hold: the
            hold on the optimizer's shared statistics.

    Raises:
        MaskMismatchError: If the masks were made for another model; nothing is changed then.
        EnforcementError: If `masks` is None and the model carries none, if weights are frozen, if a layer does not
            compute with zeros where its variable has zeros, or if the optimizer divides 0 by 0 for weights without a
            gradient (epsilon=0).

    Example:
        >>> import keras, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> tpi.attach(model, tpi.find_masks(model, None, sparsity=0.75, method="random"))
        >>> int((model.layers[0].kernel.numpy() != 0).sum())
        8
    """
    compat.check_model(model)
    if masks is None:
        masks = get_attached_masks(model)
        if masks is None:
            raise EnforcementError(f"Model {model.name!r} carries no masks; pass them. Received: masks=None.")
    variables = masks.check(model)
    check_divisions(getattr(model, "optimizer", None))
    ways = find_ways(model)
    check_unfrozen(model)
    for path, target in variables.items():
        _check_held(ways[id(target.layer)], target, masks[path])
    for path, target in variables.items():
        held = get_constraint(target.variable)
        if held is not None and (np.array_equal(held.mask, masks[path]) or held.set_mask(masks[path])):
            held.guard(target.variable)
        else:
            _release(target)
            held = MaskConstraint(masks[path], then=target.variable.constraint)
            _hold(ways[id(target.layer)], target, held)
        if is_lora(target):
            _hold_lora(model, ways[id(target.layer)], target, held)
        refuse_new_weights(target.layer)
        target.tensor.assign(target.tensor)
    refuse_new_weights(model)
    install_hooks(model)


def get_attached_masks(model: Model) -> Masks | None:
    """Return the masks a model carries, or None."""
    held = {t.path: get_constraint(t.variable) for t in list_variables(model)}
    masks = {path: constraint.mask for path, constraint in held.items() if constraint is not None}
    return Masks(masks) if masks else None


def check_zeros(model: Model) -> None:
    """Refuse a model whose pruned weights came back.

    Raises:
        EnforcementError: If a pruned weight is not exactly 0.0; names the variables and counts.
    """
    leaks = []
    for target in list_variables(model):
        count = count_leaks(target)
        leaks += [f"{count} of {target.path}"] if count else []
    if leaks:
        raise EnforcementError(
            f"Pruned weights came back: {', '.join(leaks)}. Something wrote to them past the optimizer and past "
            "assign: clone_model, which copies masks and draws weights anew, a training function traced before attach, "
            "assign_add or the like on the tf.Variable, a TensorFlow checkpoint of a tf_keras model with mixed "
            "precision, or LoRA enabled after attach. Call tpi.attach(model, masks) again, trace the training function "
            "anew, and train."
        )


def check_unfrozen(model: Model) -> None:
    """Refuse a model with weights that `freeze` holds at values of their own, for what would not keep them.

    Raises:
        EnforcementError: If there are any; names the variables.
    """
    frozen = [t.path for t in list_variables(model) if isinstance(t.variable.constraint, FrozenConstraint)]
    if frozen:
        raise EnforcementError(
            f"Weights of {', '.join(frozen)} are frozen at values of their own, which masks and copies would not keep. "
            "Call tpi.unfreeze(model) first."
        )


def detach(model: Model) -> None:
    """Take the masks off a model after checking its zeros; the zeros stay, with LoRA's masked product merged.

    Raises:
        EnforcementError: If the model carries no masks, or pruned weights came back.
    """
    if get_attached_masks(model) is None:
        raise EnforcementError(f"Model {model.name!r} carries no masks, so there is nothing to take off.")
    check_zeros(model)
    for target in list_variables(model):
        if get_constraint(target.variable) is not None:
            if is_lora(target):
                merge_product(target)
                reset_inference_functions(model)
            _release(target)
    for layer in [model, *compat.walk_layers(model)]:
        allow_new_weights(layer)
        if get_replacement(layer, "get_config") in (_refuse_config, _refuse_lora_config):
            restore_method(layer, "get_config")
    remove_hooks(model)


def install_hooks(model: Model) -> None:
    """Hold the model's optimizer, this one and those compiled later, and rebuild its training function."""
    if getattr(model, "optimizer", None) is not None:
        intercept_optimizer(model.optimizer)
    replace_method(model, "compile", _compile)
    if model.distribute_strategy.num_replicas_in_sync > 1:
        replace_method(model, "fit", _fit)
    compat.reset_train_function(model)


def remove_hooks(model: Model) -> None:
    """Undo `install_hooks`."""
    for name in ("compile", "fit"):
        restore_method(model, name)
    if getattr(model, "optimizer", None) is not None:
        restore_optimizer(model.optimizer)
    compat.reset_train_function(model)


def _compile(self: Any, optimizer: Any = "rmsprop", *args: Any, **kwargs: Any) -> None:
    check_divisions(optimizer)
    type(self).compile(self, optimizer, *args, **kwargs)
    intercept_optimizer(self.optimizer)


def _fit(self: Any, *args: Any, **kwargs: Any) -> Any:
    refusal = unsupported_fit_reason(self)
    if refusal is not None:
        raise EnforcementError(refusal)
    return type(self).fit(self, *args, **kwargs)


def _hold(way: list[Any], target: ModelVariable, constraint: MaskConstraint) -> None:
    holder = find_serialized_layer(way)
    # Keras loads no layer that has both LoRA and a constraint.
    attribute = None if is_lora(target) else _config_attribute(target)
    compat.set_constraint(target.variable, constraint)
    constraint.guard(target.variable)
    if attribute:
        setattr(target.layer, attribute, constraint)
    if not (attribute and _saves_constraint(holder, target.layer, attribute)):
        replace_method(holder, "get_config", _refuse_config)


def _check_held(way: list[Any], target: ModelVariable, mask: np.ndarray) -> None:
    check_holdable(target, mask)
    if is_lora(target) and any(getattr(layer, "carries_masks", False) for layer in way):
        raise EnforcementError(
            f"Layer {target.layer.name!r} got LoRA inside a wrapper that saves its masks, which cannot save those of a "
            "sum. Received: a wrapped layer with LoRA. Call tpi.strip before enable_lora, and tpi.attach after it."
        )


def _hold_lora(model: Model, way: list[Any], target: ModelVariable, constraint: MaskConstraint) -> None:
    hold_product(target, constraint)
    reset_inference_functions(model)
    replace_method(find_serialized_layer(way), "get_config", _refuse_lora_config)


def _release(target: ModelVariable) -> None:
    constraint = get_constraint(target.variable)
    if constraint is not None:
        release_product(target)
        attribute = _config_attribute(target)
        if attribute:
            setattr(target.layer, attribute, constraint.then)
        MaskConstraint.unguard(target.variable)
        compat.set_constraint(target.variable, constraint.then)


def _config_attribute(target: ModelVariable) -> str | None:
    """Return the attribute through which the layer saves the constraint of the variable, if it has one."""
    if not compat.is_keras3(target.layer):
        return None
    missing = object()
    names = _CONFIG_ATTRIBUTES.get(target.name, ())
    return next((n for n in names if getattr(target.layer, n, missing) is target.variable.constraint), None)


def _saves_constraint(holder: Any, layer: Layer, attribute: str) -> bool:
    """Whether the config of `holder` carries the constraint that `layer` has in `attribute`."""
    passes_on = compat.get_class_names(holder) & {
        "LSTM",
        "GRU",
        "SimpleRNN",
        "ConvLSTM1D",
        "ConvLSTM2D",
        "ConvLSTM3D",
    }
    if holder is not layer and not passes_on:
        return False
    if type(holder).__module__.split(".")[0] == "keras":
        return True
    try:
        saved = holder.get_config().get(attribute)
    except NotImplementedError:
        return False
    return isinstance(saved, dict) and saved.get("class_name") == MaskConstraint.__name__


def _refuse_config(self: Any) -> dict[str, Any]:
    raise EnforcementError(
        f"Layer {self.name!r} ({type(self).__name__}) cannot save the masks attached to it, and a copy without "
        "them would train its pruned weights back. Save weights only (model.save_weights), or use "
        "tpi.wrap(model, masks), whose masks are saved with the model, or call tpi.strip(model) first and "
        "tpi.attach(model, tpi.Masks.from_zeros(model)) after loading."
    )


def _refuse_lora_config(self: Any) -> dict[str, Any]:
    raise EnforcementError(
        f"Layer {self.name!r} ({type(self).__name__}) cannot save the masks attached to it, as Keras loads no layer "
        "that has both LoRA and a constraint. Save weights only (model.save_weights, which stores the masked sum), or "
        "call tpi.strip(model) first, which merges it, and tpi.attach(model, masks) after loading."
    )
