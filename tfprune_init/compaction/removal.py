"""`compact`: the call."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.backend.protocols import Model
from tfprune_init.backend.trainer import compile_like
from tfprune_init.compaction.folding import decide
from tfprune_init.compaction.network import Propagation
from tfprune_init.compaction.rebuilding import Rebuilding
from tfprune_init.compaction.result import Compaction, build_compaction
from tfprune_init.errors import ModelError
from tfprune_init.graph.copies import check_copy
from tfprune_init.graph.variables import list_variables
from tfprune_init.masking.attachment import attach, check_unfrozen, get_attached_masks
from tfprune_init.masking.derived_weights import is_lora
from tfprune_init.masking.wrapper import to_plain_model
from tfprune_init.masks import Masks


def compact(model: Model, masks: Masks | None = None, *, example: Any = None) -> Compaction:
    """Remove dead units and channels for real: a smaller plain model with the same outputs.

    A channel is dead where it is constant, whatever the inputs are, or where nothing that it feeds has a weight on
    it. What constant channels add is folded into the biases behind them (a layer may get a bias it did not have).
    Channels stay if their constant cannot be folded exactly, as beside the padding of a convolution, if they are
    outputs of the model, if they are tied to channels that live (both sides of an Add), and if they enter a layer that
    is not understood; each with its reason. A layer keeps at least one channel.

    With masks a weight counts as gone if it is pruned; a kept one that happens to be zero may still train. Without
    masks a weight counts as gone if it is exactly zero. So the first is for before training, or between two
    trainings, the second for a network that is done.

    The smaller model is compared with the given one before it is returned.

    Args:
        model: A built Sequential or functional model, Keras 3 or tf_keras, with others nested in it or not. Masks may
            be attached to it. It stays as it is.
        masks: What is kept; weights that are pruned count as zero. Variables they do not name keep the masks the model
            carries. None: the masks the model carries, if any.
        example: A batch of inputs to compare the models on; made up by default.

    Returns:
        Compaction, with the smaller model: layers and paths keep their names, mixed precision and other dtypes are
        kept, and it is compiled as the model was, with a fresh optimizer, if that can be copied from its config. If
        masks were attached to the model, the smaller ones are attached to the smaller model; else they are only
        returned.

    Raises:
        ModelError: If the model is not built, subclassed, wrapped by TF-MOT, or cannot be copied with all that its
            layers keep, as with masks attached to layers with LoRA.
        DataError: If the model cannot run on the example.
        MaskMismatchError: If the masks were made for another model.
        EnforcementError: If masks are attached to the model and pruned weights came back, or weights are frozen.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> from tfprune_init.compaction import compact
        >>> Dense = keras.layers.Dense
        >>> model = keras.Sequential([keras.Input((4,)), Dense(3, "relu", name="hidden"), Dense(2, name="head")])
        >>> kept = np.array([[True, False, True]] * 4)
        >>> smaller = compact(model, tpi.Masks({"hidden/kernel": kept}))
        >>> smaller.channels["hidden"], smaller.model.count_params()
        (array([0, 2]), 16)
    """
    compat.check_model(model)
    _check_kind(model)
    check_unfrozen(model)
    carried = get_attached_masks(model)
    _check_merged(model, carried or {})
    given = None if masks is None else Masks(masks)
    if given is not None:
        given.check(model)
    together = Masks({**(carried or {}), **(given or {})}) if carried or given else None
    source = to_plain_model(model)
    network = Propagation(source, together)
    decision = decide(network)
    rebuilding = Rebuilding(source, network, decision)
    check_copy(source, rebuilding.model, rebuilding.layers, masks=together, example=example)
    compiled = compile_like(rebuilding.model, model)
    smaller = None if together is None else _sliced(together, source, rebuilding)
    if carried is not None:
        attach(rebuilding.model, smaller)
    return build_compaction(source, network, decision, rebuilding.model, smaller, compiled)


def _check_merged(model: Model, carried: Container[str]) -> None:
    added = [target.path for target in list_variables(model) if target.path in carried and is_lora(target)]
    if added:
        raise ModelError(
            f"compact cannot copy masks that hold LoRA's product. Received: LoRA on {', '.join(added)}. Call "
            "tpi.strip(model) first: it merges the product into the kernel."
        )


def _check_kind(model: Model) -> None:
    if not compat.is_symbolic(model):
        raise ModelError(
            f"compact takes Sequential and functional models. Received: {type(model).__name__}, a subclassed model; "
            "compact the Sequential or functional models inside it."
        )
    if "call" in compat.find_overridden_methods(model):
        raise ModelError(
            f"Model {model.name!r} computes in its own way, not by its graph of layers. Received: class "
            f"{type(model).__name__}, which replaces call."
        )
    # TF-MOT's wrappers, ours for TF-MOT among them.
    for layer in compat.walk_layers(model):
        if not compat.is_keras3(layer) and hasattr(layer, "pruning_vars"):
            raise ModelError(
                f"Model {model.name!r} is wrapped by TF-MOT wrappers. Call tfprune_init.tfmot.strip(model) first."
            )


def _sliced(masks: Masks, model: Model, rebuilding: Rebuilding) -> Masks:
    paths = {id(target.variable): target.path for target in list_variables(rebuilding.model)}
    variables = {target.path: target.variable for target in list_variables(model)}
    return Masks(
        {
            paths[id(rebuilding.twins[id(variables[path])])]: rebuilding.sliced(variables[path], np.asarray(mask))
            for path, mask in masks.items()
        }
    )
