"""Masks onto tf_keras models as TF-MOT wrappers, off again, and read back out of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.model_graph import is_saved_by_layers
from tfprune_init.errors import EnforcementError, ModelError
from tfprune_init.graph.variables import ModelVariable, SkippedVariable, find_prunable_variables, list_variables
from tfprune_init.masking.attachment import check_unfrozen, detach, get_attached_masks, install_hooks
from tfprune_init.masking.derived_weights import check_holdable
from tfprune_init.masks import Masks
from tfprune_init.tfmot.constraint import VariableMask, find_wrappers, hold_at_zero
from tfprune_init.tfmot.imports import sparsity, tf_keras
from tfprune_init.tfmot.wrapper import PruneAtInit


def wrap(model: Any, masks: Masks) -> Any:
    """Put masks on a tf_keras model as TF-MOT wrappers, ready for TF-MOT's tools.

    Every layer with masked variables is put inside a `PruneAtInit`: also layers that TF-MOT cannot prune (EinsumDense,
    DepthwiseConv, Bidirectional, subclasses of Dense, ...), within nested models too. The other layers are left as they
    are; `unmasked_variables` says why. As with TF-MOT, the result is made of the layers of the given model, not of
    copies: pruned weights become zero in both and are held there, and training one trains the other.

    Args:
        model: A built Sequential or functional tf_keras model, on which masks may be attached.
        masks: What to keep.

    Returns:
        An uncompiled model. Compile it before training; `UpdatePruningStep` is welcome but not needed.

    Raises:
        ModelError: If the model is subclassed, of Keras 3, wrapped already, its class replaces a method that the
            wrapped model would lack, or masked variables belong to no layer. Nothing is changed then.
        EnforcementError: If weights are frozen, or a layer does not compute with zeros where its variable has zeros.
        MaskMismatchError: If the masks were made for another model.

    Example:
        >>> import tf_keras, tfprune_init as tpi
        >>> from tfprune_init import tfmot
        >>> model = tf_keras.Sequential([tf_keras.Input((8,)), tf_keras.layers.Dense(4, name="head")])
        >>> wrapped = tfmot.wrap(model, tpi.find_masks(model, None, sparsity=0.75, method="random"))
        >>> wrapped.layers[0].name, int((model.layers[0].kernel.numpy() != 0).sum())
        ('prune_at_init_head', 8)
    """
    check_legacy(model, "tfmot.wrap", instead="tpi.wrap(model, masks)")
    check_wrappable(model)
    check_unfrozen(model)
    targets = masks.check(model)
    for path, target in targets.items():
        check_holdable(target, masks[path])
    check_reached(model, targets.values())
    if get_attached_masks(model) is not None:
        detach(model)
    masked = {id(target.variable): masks[path] for path, target in targets.items()}
    with model.distribute_strategy.scope():
        wrapped = _rebuilt(model, masked, {})
        if not wrapped.built:
            wrapped.build(model.input_shape)
    install_hooks(wrapped)
    return wrapped


def strip(model: Any) -> Any:
    """Take TF-MOT wrappers off a model, ours or TF-MOT's own; pruned weights stay exactly zero.

    TF-MOT's `strip_pruning` does too, but leaves weights of its own wrappers as the last step left them, and
    ours held at zero as long as the process runs.

    Args:
        model: A wrapped Sequential or functional model.

    Returns:
        A plain, uncompiled model of the same layers, whose weights train freely.

    Raises:
        EnforcementError: If the model has no wrappers, or pruned weights came back.

    Example:
        >>> import tf_keras, tfprune_init as tpi
        >>> from tfprune_init import tfmot
        >>> model = tf_keras.Sequential([tf_keras.Input((8,)), tf_keras.layers.Dense(4, name="head")])
        >>> wrapped = tfmot.wrap(model, tpi.find_masks(model, None, sparsity=0.75, method="random"))
        >>> plain = tfmot.strip(wrapped)
        >>> plain.layers[0].name, int((plain.layers[0].kernel.numpy() != 0).sum())
        ('head', 8)
    """
    check_legacy(model, "tfmot.strip", instead="tpi.strip(model)")
    wrappers = list(find_wrappers(model))
    if not wrappers:
        raise EnforcementError(
            f"Model {model.name!r} has no TF-MOT wrappers, so there is nothing to take off; tpi.strip(model) takes "
            "off what tpi.attach put on."
        )
    for wrapper in wrappers:
        if not isinstance(wrapper, PruneAtInit):
            for weight, mask, _ in wrapper.pruning_vars:
                hold_at_zero(weight, mask)
    detach(model)
    return sparsity.strip_pruning(model)


def get_masks(model: Any) -> Masks:
    """Read the masks out of a model wrapped by TF-MOT, with our wrappers or its own.

    Args:
        model: A built tf_keras model with `PruneAtInit` or `PruneLowMagnitude` wrappers.

    Returns:
        Masks under the paths that the variables have on the plain model.

    Raises:
        EnforcementError: If the model has no wrappers that mask anything.

    Example:
        >>> import tf_keras, tensorflow_model_optimization
        >>> from tfprune_init import tfmot
        >>> model = tf_keras.Sequential([tf_keras.Input((8,)), tf_keras.layers.Dense(4, name="head")])
        >>> wrapped = tensorflow_model_optimization.sparsity.keras.prune_low_magnitude(model)
        >>> list(tfmot.get_masks(wrapped))
        ['head/kernel']
    """
    check_legacy(model, "tfmot.masks_of", instead="tpi.Masks.from_zeros(model)")
    masks = {id(weight): mask for one in find_wrappers(model) for weight, mask, _ in one.pruning_vars}
    targets = [target for target in _plain_paths(model) if id(target.variable) in masks]
    found = {target.path: masks[id(target.variable)].numpy() != 0 for target in targets}
    if not found:
        raise EnforcementError(
            f"Model {model.name!r} has no TF-MOT wrappers with masks. tpi.Masks.from_zeros(model) reads masks from the "
            "zeros of a plain model."
        )
    return Masks(found)


def unmasked_variables(model: Any) -> tuple[SkippedVariable, ...]:
    """Return the variables that a wrapped model does not mask, each with its reason.

    Args:
        model: A tf_keras model with TF-MOT wrappers.

    Returns:
        Path, shape and reason of each.

    Example:
        >>> import tf_keras, tfprune_init as tpi
        >>> from tfprune_init import tfmot
        >>> model = tf_keras.Sequential([tf_keras.Input((8,)), tf_keras.layers.Dense(4, name="head")])
        >>> wrapped = tfmot.wrap(model, tpi.find_masks(model, None, sparsity=0.75, method="random"))
        >>> [(one.path, one.reason) for one in tfmot.unmasked_variables(wrapped)]
        [('head/bias', 'bias (prune_bias=True prunes it)')]
    """
    masked = get_masks(model)
    paths = {id(target.variable): target.path for target in _plain_paths(model)}
    own = {id(v) for one in find_wrappers(model) for v in compat.get_own_variables(one)}
    known = {target.path: target for target in list_variables(model)}
    targets = find_prunable_variables(model)
    left = [(known[one.path], one.reason) for one in targets.skipped]
    left += [(target, "no mask was given for it") for target in targets.prunable]
    return tuple(
        SkippedVariable(paths[id(target.variable)], target.shape, reason)
        for target, reason in left
        if id(target.variable) not in own and paths[id(target.variable)] not in masked
    )


def check_legacy(model: Any, call: str, *, instead: str) -> None:
    """Refuse what is not a built tf_keras model; one of Keras 3 with the call that takes it.

    Raises:
        ModelError: If `model` is no model, not built, or of Keras 3.
    """
    if compat.is_keras3(model):
        raise ModelError(f"{call} takes tf_keras models, as TF-MOT does. Received: a Keras 3 model; use {instead}.")
    compat.check_model(model)


def check_wrappable(model: Any) -> None:
    """Refuse a tf_keras model that cannot be rebuilt around wrappers.

    Raises:
        ModelError: If the model is subclassed, wrapped already, or its class replaces methods.
    """
    if not compat.is_symbolic(model):
        raise ModelError(
            f"tfmot.wrap takes Sequential and functional models. Received: {type(model).__name__}, a subclassed "
            "model; use tpi.attach(model, masks), which holds masks on any model."
        )
    if next(find_wrappers(model), None) is not None or _held_by_wrappers(model):
        raise ModelError(
            "tfmot.wrap takes a plain model. Received: one that is wrapped, or whose layers another wrapped model "
            "holds; tpi.attach(wrapped, masks) changes masks, tfmot.strip(wrapped) takes them off."
        )
    for one in [model, *filter(_is_container, compat.walk_layers(model))]:
        lost = _lost_methods(one)
        if lost:
            raise ModelError(
                f"A wrapped model would lack {', '.join(lost)} of class {type(one).__name__} of model {one.name!r}; "
                "use tpi.attach(model, masks), which holds masks on any model."
            )


def check_reached(model: Any, targets: Iterable[ModelVariable]) -> None:
    """Refuse variables to mask that belong to no layer of the model.

    Raises:
        ModelError: If there are any.
    """
    reached: set[int] = set()

    def visit(container: Any) -> None:
        for layer in compat.get_sublayers(container):
            if _is_container(layer):
                visit(layer)
            else:
                reached.update(id(variable) for variable in layer.variables)

    visit(model)
    beyond = [target.path for target in targets if id(target.variable) not in reached]
    if beyond:
        raise ModelError(
            f"No layer of model {model.name!r} holds {', '.join(beyond)}, so no wrapper can. Use tpi.attach(model, "
            "masks), or leave them alone with exclude=[...]."
        )


def _plain_paths(model: Any) -> list[ModelVariable]:
    """Every variable of a model under the path it has without wrappers."""
    wrappers = [one for one in find_wrappers(model) if not isinstance(one, PruneAtInit)]
    try:
        for one in wrappers:
            vars(one)["carries_masks"] = True
        return list_variables(model)
    finally:
        for one in wrappers:
            del vars(one)["carries_masks"]


def _held_by_wrappers(model: Any) -> bool:
    return any(isinstance(target.variable.constraint, VariableMask) for target in list_variables(model))


def _is_container(layer: Any) -> bool:
    """Whether a layer is a model whose own layers are wrapped one by one; other models are wrapped as one layer."""
    return compat.is_model(layer) and compat.is_symbolic(layer)


def _lost_methods(model: Any) -> list[str]:
    """Methods of the model's class, in place of those of tf_keras, that the model rebuilt by tf_keras would lack."""
    if not isinstance(model, tf_keras.Sequential) and is_saved_by_layers(type(model)):
        return []
    return compat.find_overridden_methods(model)


def _rebuilt(model: Any, masked: dict[int, np.ndarray], done: dict[int, Any]) -> Any:
    """Return the model on new inputs, of the same layers, those with masks inside a wrapper."""

    def placed(layer: Any) -> Any:
        if id(layer) not in done:
            inside = {t.path: masked[id(t.variable)] for t in list_variables(layer) if id(t.variable) in masked}
            if not inside:
                done[id(layer)] = layer
            elif _is_container(layer):
                done[id(layer)] = _rebuilt(layer, masked, done)
            else:
                done[id(layer)] = PruneAtInit(layer, inside)
        return done[id(layer)]

    return tf_keras.models.clone_model(model, clone_function=placed)
