"""Masks that travel inside a saved Keras 3 model: a wrapper layer that holds them as its weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.layer_copy import builds_in_call, copy_layer, copy_state
from tfprune_init.backend.protocols import Layer, Model
from tfprune_init.errors import EnforcementError, ModelError, OptionError
from tfprune_init.graph.copies import check_copy
from tfprune_init.graph.variables import list_variables
from tfprune_init.masking.attachment import (
    attach,
    check_unfrozen,
    check_zeros,
    detach,
    get_attached_masks,
    install_hooks,
)
from tfprune_init.masking.constraint import MaskConstraint
from tfprune_init.masking.derived_weights import check_holdable, is_lora, refuse_new_weights
from tfprune_init.masks import Masks


@keras.saving.register_keras_serializable(package="tfprune_init")
class PrunableLayer(keras.layers.Wrapper):  # type: ignore[misc]  # Keras has no types
    """A layer whose pruned weights stay at zero, wherever it is saved, loaded and trained.

    Its masks are boolean weights of its own, so they are saved in .keras and .weights.h5 files and come
    back on loading, with no custom_objects, wherever `tfprune_init` is imported. It computes exactly what the
    layer inside computes.

    Args:
        layer: The layer to wrap.
        masked: Paths of the masked variables within it, e.g. "kernel" or "query/kernel".
        **kwargs: Usual layer arguments.
    """

    # Variables keep the paths they have without the wrapper.
    carries_masks = True

    def __init__(self, layer: keras.layers.Layer, masked: tuple[str, ...] | list[str] = ("kernel",), **kwargs: Any):
        super().__init__(layer, **{"dtype": layer.dtype_policy, **kwargs})
        self.masked = tuple(masked)
        self.supports_masking = layer.supports_masking
        self._masks: dict[str, keras.Variable] = {}

    def build(self, input_shape: Any = None) -> None:
        """Build the layer inside and a mask, all True, for each masked variable."""
        if not self.layer.built and not builds_in_call(self.layer):
            self.layer.build(input_shape)
        if builds_in_call(self.layer) and input_shape is not None and self._unknown():
            self.layer(keras.tree.map_shape_structure(keras.KerasTensor, input_shape))
        for path, variable in self.masked_variables().items():
            mask = self.add_weight(
                name=f"mask_{path.replace('/', '_')}",
                shape=variable.shape,
                dtype="bool",
                initializer="ones",
                trainable=False,
                autocast=False,
            )
            self._masks[path] = mask
            constraint = MaskConstraint(mask, then=variable.constraint)
            compat.set_constraint(variable, constraint)
            constraint.guard(variable)
        for target in list_variables(self.layer):
            if target.path in self._masks:
                refuse_new_weights(target.layer)
        self.built = True

    def call(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return what the layer inside computes, which may be called with keywords only."""
        return self.layer(*([] if inputs is None else [inputs]), *args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Time-step mask of the layer inside."""
        return self.layer.compute_mask(inputs, previous_mask)

    def get_prunable_weights(self) -> list[keras.Variable]:
        """Return the masked variables: TF-MOT's contract for layers that say what may be pruned."""
        return list(self.masked_variables().values())

    def set_masks(self, masks: dict[str, np.ndarray]) -> None:
        """Set the masks, by path within the layer, and zero what they prune."""
        variables = self.masked_variables()
        for path, mask in masks.items():
            variables[path].constraint.set_mask(mask)
            variables[path].assign(variables[path])

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the wrapper and of the layer inside."""
        return {**super().get_config(), "masked": list(self.masked)}

    def masked_variables(self) -> dict[str, keras.Variable]:
        """Return the masked variables, by path within the layer."""
        variables = {target.path: target.variable for target in list_variables(self.layer)}
        unknown = self._unknown()
        if unknown:
            raise ModelError(
                f"Layer {self.layer.name!r} has no variable {', '.join(unknown)}. It has: "
                f"{', '.join(variables) or 'none'}. "
                "Layers that a layer creates need names that stay: give them name=..., so that copies find them."
            )
        return {path: variables[path] for path in self.masked}

    def _unknown(self) -> list[str]:
        known = {target.path for target in list_variables(self.layer)}
        return [path for path in self.masked if path not in known]


def wrap(model: Model, masks: Masks, *, example: Any = None) -> Any:
    """Copy a Sequential or functional Keras 3 model into one whose masks are saved with it.

    The copy is compared with the masked model before it is returned.

    Args:
        model: A built model, on which the masks may be attached; it stays as it is.
        masks: What to keep.
        example: A batch of inputs to compare them on; made up by default.

    Returns:
        A new uncompiled model with the same weights, pruned ones at zero, whose masked layers are each inside
        a `PrunableLayer`. Compile it before training. Loaded from a file, it holds its zeros at once; if its
        optimizer shares statistics (clipnorm, LAMB, Muon), call `tpi.attach(model)` to keep pruned
        connections out of those as well.

    Raises:
        ModelError: If the model is subclassed, of tf_keras, wrapped already, its class replaces a method that the
            copy would lack, masked layers have LoRA, or a layer cannot be copied with all that it keeps.
        EnforcementError: If weights are frozen, or a layer does not compute with zeros where its variable has zeros.
        DataError: If the model cannot run on the example.
        MaskMismatchError: If the masks were made for another model.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> wrapped = tpi.wrap(model, tpi.find_masks(model, None, sparsity=0.75, method="random"))
        >>> type(wrapped.layers[0]).__name__
        'PrunableLayer'
    """
    compat.check_model(model)
    if not compat.is_keras3(model):
        raise ModelError(
            "tpi.wrap takes Keras 3 models. Received: a tf_keras model; use tfprune_init.tfmot.wrap(model, masks)."
        )
    if not compat.is_symbolic(model):
        raise ModelError(
            f"tpi.wrap copies Sequential and functional models. Received: {type(model).__name__}, a subclassed "
            "model; use tpi.attach(model, masks)."
        )
    if _is_wrapped(model):
        raise ModelError(
            "tpi.wrap takes a plain model. Received: a wrapped one; tpi.attach(model, masks) changes its masks."
        )
    check_unfrozen(model)
    for target in masks.check(model).values():
        check_holdable(target, masks[target.path])
        if is_lora(target):
            raise ModelError(
                f"tpi.wrap cannot save the masks of a sum. Received: layer {target.layer.name!r} with LoRA; use "
                "tpi.attach(model, masks)."
            )
    held = get_attached_masks(model)
    if held is not None:
        detach(model)
    try:
        wrapped, copies = _copied_with(model, masks)
        check_copy(model, wrapped, copies, masks=masks, example=example)
    finally:
        if held is not None:
            attach(model, held)
    install_hooks(wrapped)
    return wrapped


def strip(model: Model, *, example: Any = None) -> Any:
    """Take masks off a model; pruned weights stay exactly zero.

    With LoRA, the masked product is added to the kernel, as Keras does when it saves, and the second factor becomes
    zero. A wrapped model is copied, and the copy is compared with it before it is returned.

    Args:
        model: A model with masks attached, or wrapped.
        example: A batch of inputs to compare them on; made up by default. Only for a wrapped model.

    Returns:
        The same model where masks were attached; for a wrapped model a new, uncompiled one without the wrappers.

    Raises:
        EnforcementError: If the model carries no masks, or pruned weights came back.
        ModelError: If a layer of a wrapped model cannot be copied with all that it keeps.
        OptionError: If an example is given for a model that is not wrapped.
        DataError: If the model cannot run on the example.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> report = tpi.prune_at_init(model, None, sparsity=0.75, method="magnitude")
        >>> int((tpi.strip(model).layers[0].kernel.numpy() == 0).sum())
        24
    """
    compat.check_model(model)
    if any(_carries_masks(layer) for layer in compat.walk_layers(model)):
        raise EnforcementError(
            f"Model {model.name!r} is wrapped by TF-MOT wrappers. Call tfprune_init.tfmot.strip(model) instead."
        )
    if not _is_wrapped(model):
        if example is not None:
            raise OptionError("example= is for wrapped models, which are copied. Received: one with attached masks.")
        detach(model)
        return model
    check_zeros(model)
    plain_model, copies = _copied_without_wrappers(model)
    check_copy(model, plain_model, copies, example=example)
    return plain_model


def _carries_masks(layer: Layer) -> bool:
    """Whether a layer is a wrapper of another kind than ours for Keras 3."""
    return getattr(layer, "carries_masks", False) and not isinstance(layer, PrunableLayer)


def to_plain_model(model: Model) -> Any:
    """Return the model without wrappers, its zeros checked: itself where it has none.

    Whoever hands out what is made of it compares that with the model.

    Raises:
        EnforcementError: If pruned weights came back.
        ModelError: If a layer cannot be copied with all that it keeps.
    """
    compat.check_model(model)
    check_zeros(model)
    return _copied_without_wrappers(model)[0] if _is_wrapped(model) else model


def _is_wrapped(model: Model) -> bool:
    return any(isinstance(layer, PrunableLayer) for layer in compat.walk_layers(model))


def _copied_with(model: Model, masks: Masks) -> tuple[Any, list[tuple[Any, Any]]]:
    """Return a copy inside wrappers, and each layer with its copy."""
    masked = {id(t.variable): masks[t.path] for t in list_variables(model) if t.path in masks}
    copies: list[tuple[Any, Any]] = []
    wrappers: list[tuple[PrunableLayer, dict[str, np.ndarray]]] = []

    def wrapping(layer: Layer) -> Any:
        copy = copy_layer(layer)
        if not isinstance(layer, keras.layers.Layer):
            return copy
        copies.append((layer, copy))
        inside = {t.path: masked[id(t.variable)] for t in list_variables(layer) if id(t.variable) in masked}
        if not inside:
            return copy
        wrappers.append((PrunableLayer(copy, tuple(inside), name=f"prunable_{layer.name}"), inside))
        return wrappers[-1][0]

    wrapped = _clone_model(model, wrapping)
    for layer, copy in copies:
        copy_state(layer, copy)
    for wrapper, inside in wrappers:
        wrapper.set_masks(inside)
    return wrapped, copies


def _copied_without_wrappers(model: Model) -> tuple[Any, list[tuple[Any, Any]]]:
    """Return a copy without wrappers, and each layer with its copy."""
    copies: list[tuple[Any, Any]] = []

    def unwrapped(layer: Layer) -> Any:
        inner = layer.layer if isinstance(layer, PrunableLayer) else layer
        copy = copy_layer(inner)
        if isinstance(inner, keras.layers.Layer):
            copies.append((inner, copy))
        return copy

    plain_model = _clone_model(model, unwrapped)
    for layer, copy in copies:
        copy_state(layer, copy)
    return plain_model, copies


def _clone_model(model: Model, clone_layer: Any) -> Any:
    models = [m for m in [model, *compat.walk_layers(model)] if compat.is_symbolic(m)]
    compiled = [m for m in models if m.compiled]
    try:
        # Keras would copy loss, metrics and optimizer too, and fail on what it cannot serialize.
        for one in compiled:
            one.compiled = False
        copy = keras.models.clone_model(model, clone_function=clone_layer, recursive=len(models) > 1)
    finally:
        for one in compiled:
            one.compiled = True
    lost = compat.find_overridden_methods(model) if type(copy) is not type(model) else []
    if lost:
        raise ModelError(
            f"A copy of model {model.name!r} would lack {', '.join(lost)} of its class {type(model).__name__}; use "
            "tpi.attach(model, masks), or wrap the Sequential or functional models inside it."
        )
    return copy
