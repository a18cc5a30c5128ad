"""Weights frozen at values that need not be zero: what pruning does to weights that it does not remove.

Nothing is pruned here: frozen weights cost what others cost, and nothing counts them as zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.derived_weights import find_derived_weight
from tfprune_init.backend.instance_methods import get_replacement, replace_method, restore_method
from tfprune_init.backend.protocols import Model
from tfprune_init.checks import check_integer
from tfprune_init.errors import EnforcementError, OptionError
from tfprune_init.graph.variables import ModelVariable, list_variables
from tfprune_init.graph.weight_copies import check_weights
from tfprune_init.masking.attachment import get_attached_masks, install_hooks, remove_hooks
from tfprune_init.masking.constraint import FrozenConstraint, get_holding_constraint
from tfprune_init.masking.derived_weights import allow_new_weights, refuse_new_weights
from tfprune_init.masking.finite_steps import check_divisions
from tfprune_init.masking.saved_layers import find_serialized_layer, find_ways
from tfprune_init.masks import Masks


def freeze(
    model: Model,
    masks: Masks,
    initial: Mapping[str, Any],
    final: Mapping[str, Any] | None = None,
    *,
    zero_shrunken: str | None = None,
    control: str | None = None,
    seed: int | None = None,
) -> None:
    """Set weights to their initial values, and hold those there that masks do not keep, whatever trains the others.

    What pruning sets to zero stays where it began, to the bit: after every step of every Keras optimizer, and whatever
    is assigned, restored or loaded. So it shows whether zero is a good value, or only a value that does not move. A
    weight w has shrunken if abs(w0) > abs(w), where w0 is the initial and w the final weight: it moved toward zero.

    Nothing is pruned: the model carries no masks, and reports, exports and `Masks.from_zeros` count as zeros only what
    is 0.0. The model cannot be saved whole: save its weights.

    Args:
        model: A built model, Keras 3 or tf_keras, without attached masks.
        masks: True where a weight trains; variables that they do not name train whole.
        initial: Weights to start from, by variable path, as `tpi.copy_weights(model)` gave them before training.
        final: Weights after training, which say what has shrunken; those of the model by default.
        zero_shrunken: None holds every weight that the masks do not keep at its initial value. "frozen" holds
            the shrunken ones among them at 0.0. "all" does so too, and weights that train start from 0.0 if they have
            shrunken.
        control: Which are held at 0.0 in place of those that "frozen" holds there: "shuffled" takes as many of each
            variable at random places, "reversed" those that have grown. Both are among what the masks do not keep.
        seed: Seed of "shuffled"; 0 by default.

    Raises:
        OptionError: If `zero_shrunken` or `control` is unknown, an option has no effect, or weights do not fit the
            model.
        MaskMismatchError: If the masks were made for another model.
        EnforcementError: If masks are attached to the model, it is frozen already, a layer computes with other weights
            than its variables (LoRA), or the optimizer divides 0 by 0 for weights without a gradient.

    References:
        Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask, NeurIPS 2019: None is its
        freeze_init, "frozen" its variant 1 (freeze_init_zero_mask), "all" its variant 2 (freeze_init_zero_all), the
        controls are its endings zero_reshuffle and zero_rev.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="head")])
        >>> initial = {"head/kernel": np.array([[4.0], [3.0], [2.0], [1.0]])}
        >>> final = {"head/kernel": np.array([[5.0], [2.0], [1.0], [9.0]])}
        >>> masks = tpi.Masks({"head/kernel": [[True], [True], [False], [False]]})
        >>> tpi.freeze(model, masks, initial, final, zero_shrunken="frozen")
        >>> model.layers[0].kernel.numpy().ravel().tolist()
        [4.0, 3.0, 0.0, 1.0]
    """
    compat.check_model(model)
    variables = masks.check(model)
    _check_free(model, variables.values())
    _check_options(masks, final, zero_shrunken, control, seed)
    start = check_weights("initial", initial, model, variables.values())
    if zero_shrunken is not None:
        now = {path: target.tensor for path, target in variables.items()} if final is None else final
        after = check_weights("final", now, model, variables.values())
        for position, (path, mask) in enumerate(masks.items()):
            rng = np.random.default_rng(np.random.SeedSequence([seed or 0, position]))
            zero = _choose_zeros(mask, start[path], after[path], zero_shrunken, control, rng)
            start[path] = np.where(zero, 0.0, start[path])
    start = {path: _cast(start[path], target) for path, target in variables.items()}
    check_divisions(getattr(model, "optimizer", None))
    ways = find_ways(model)
    for path, target in variables.items():
        constraint = FrozenConstraint(masks[path], start[path], then=target.variable.constraint)
        compat.set_constraint(target.variable, constraint)
        constraint.guard(target.variable)
        replace_method(find_serialized_layer(ways[id(target.layer)]), "get_config", _refuse_config)
        refuse_new_weights(target.layer, _refuse_new_weights)
        target.tensor.assign(start[path])
    refuse_new_weights(model, _refuse_new_weights)
    install_hooks(model)


def unfreeze(model: Model) -> None:
    """Let all weights train again, from the values that they have, after checking those that were frozen.

    Raises:
        EnforcementError: If nothing is frozen, or a frozen weight has another value than it was frozen at.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> masks = tpi.find_masks(model, None, sparsity=0.75, method="random")
        >>> tpi.freeze(model, masks, tpi.copy_weights(model))
        >>> tpi.unfreeze(model)
    """
    compat.check_model(model)
    frozen = _find_frozen(model)
    if not frozen:
        raise EnforcementError(f"No weight of model {model.name!r} is frozen, so there is nothing to let go.")
    moved = {path: one.count_moved(np.array(target.tensor)) for path, (target, one) in frozen.items()}
    if any(moved.values()):
        counts = ", ".join(f"{count} of {path}" for path, count in moved.items() if count)
        raise EnforcementError(
            f"Frozen weights moved: {counts}. Something wrote to them past the optimizer and past assign, such as a "
            "training function traced before freeze, or assign_add on the tf.Variable. Assign the variable to itself, "
            "which puts the frozen values back, and trace the training function anew."
        )
    for target, constraint in frozen.values():
        FrozenConstraint.unguard(target.variable)
        compat.set_constraint(target.variable, constraint.then)
    for layer in [model, *compat.walk_layers(model)]:
        allow_new_weights(layer)
        if get_replacement(layer, "get_config") is _refuse_config:
            restore_method(layer, "get_config")
    remove_hooks(model)


def _find_frozen(model: Model) -> dict[str, tuple[ModelVariable, FrozenConstraint]]:
    """Return the variables with frozen weights and their constraints, by path."""
    held = {target.path: (target, get_holding_constraint(target.variable)) for target in list_variables(model)}
    return {path: (target, one) for path, (target, one) in held.items() if isinstance(one, FrozenConstraint)}


def _check_free(model: Model, targets: Any) -> None:
    """Refuse a model whose weights are held already, or that computes with others."""
    if get_attached_masks(model) is not None:
        raise EnforcementError(
            f"Model {model.name!r} carries masks, which hold zeros. Received: freeze on such a model. Call "
            "tpi.strip(model) first."
        )
    if _find_frozen(model):
        raise EnforcementError(f"Weights of model {model.name!r} are frozen already. Call tpi.unfreeze(model) first.")
    for target in targets:
        if find_derived_weight(target.layer, target.variable) is not None:
            raise EnforcementError(
                f"Frozen weights of {target.path} would not hold: {type(target.layer).__name__} computes with others "
                "that it derives from this variable. Leave it out of the masks, or freeze before LoRA or quantization."
            )


def _check_options(masks: Masks, final: Any, zero_shrunken: Any, control: Any, seed: Any) -> None:
    """Refuse what is unknown or has no effect."""
    if zero_shrunken not in (None, "frozen", "all"):
        raise OptionError(
            f"zero_shrunken must be 'frozen' or 'all', or None. Received: zero_shrunken={zero_shrunken!r}."
        )
    if control not in (None, "shuffled", "reversed"):
        raise OptionError(f"control must be 'shuffled' or 'reversed', or None. Received: control={control!r}.")
    if zero_shrunken is None and final is not None:
        raise OptionError("final= says which weights have shrunken, so it has no effect without zero_shrunken=.")
    if control is not None and zero_shrunken != "frozen":
        raise OptionError(
            "control= takes other weights than zero_shrunken='frozen' does, so it needs that. "
            f"Received: control={control!r}, zero_shrunken={zero_shrunken!r}."
        )
    if seed is not None:
        check_integer("seed", seed, 0)
        if control != "shuffled":
            raise OptionError(f"seed= has no effect without control='shuffled'. Received: seed={seed!r}.")
    if all(mask.all() for mask in masks.values()):
        raise OptionError("The masks keep every weight, so freeze has no effect. Received: masks of density 1.")


def _choose_zeros(
    mask: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    zero_shrunken: str,
    control: str | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return which weights of a variable start from 0.0, and are held there where the mask does not keep them."""
    shrunken: np.ndarray = np.abs(before) > np.abs(after)
    if zero_shrunken == "all":
        return shrunken
    if control == "reversed":
        return np.asarray((np.abs(before) < np.abs(after)) & ~mask)
    chosen: np.ndarray = shrunken & ~mask
    if control == "shuffled":
        chosen[~mask] = rng.permutation(chosen[~mask])
    return chosen


def _cast(values: np.ndarray, target: ModelVariable) -> np.ndarray:
    dtype = target.tensor.dtype
    if (np.abs(values) > float(dtype.max)).any():
        raise OptionError(
            f"initial= has values too large for {target.path}. Received: {np.abs(values).max():g} for {dtype.name}."
        )
    return np.asarray(values.astype(dtype.as_numpy_dtype))


def _refuse_config(self: Any) -> dict[str, Any]:
    raise EnforcementError(
        f"Layer {self.name!r} ({type(self).__name__}) has frozen weights, which its config cannot save, and a copy "
        "without them would train them. Save weights only (model.save_weights), and call tpi.freeze after loading, or "
        "call tpi.unfreeze(model) first."
    )


def _refuse_new_weights(self: Any, *args: Any, **kwargs: Any) -> None:
    raise EnforcementError(
        f"{self.name!r} has frozen weights, and quantize and enable_lora would let it compute with others. Call "
        "tpi.unfreeze(model) first."
    )
