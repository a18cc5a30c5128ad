"""`insert_saliency`: the call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from tfprune_init.adaptive.adaptive_copy import AdaptiveCopy
from tfprune_init.adaptive.budget_schedule import find_decision_cost
from tfprune_init.backend import compat
from tfprune_init.backend.model_state import restore_state
from tfprune_init.backend.protocols import Model
from tfprune_init.backend.trainer import compile_like
from tfprune_init.checks import suggest
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.copies import check_copy
from tfprune_init.masking.attachment import attach, check_unfrozen, get_attached_masks
from tfprune_init.masking.wrapper import to_plain_model

_SURELY_OPEN = 40.0
"""A logit whose sigmoid is 1 to the last bit of a float32."""


def insert_saliency(
    model: Model,
    *,
    exclude: str | Iterable[str] = (),
    strength: float = 1.0,
    budget: float = 1.0,
    example: Any = None,
    **options: Any,
) -> Any:
    """Copy a model with a module at each convolution that decides, for each example, which channels are computed.

    A module takes the input of its convolution and gives 0 or 1 for each channel, which the output is multiplied with.
    What would make something else of a closed channel than 0 (batch normalization, a bias of a depthwise convolution)
    is multiplied again. Decisions go on through pooling, activations, sums (open where one of the terms is),
    products and concatenation to the layers that take the channels, which cost less then, too.

    The copy has all weights of the model. That it computes what the model computes while all channels are open is
    checked. The modules are drawn at random, and open most channels at first; all of them with
    kernel_initializer="zeros". The loss has one more term, of the layer `decision_cost`, in `model.losses`:
    strength * (C - budget)^2, where C is the mean share of multiply-adds that the batch costs; see
    `tpi.layers.DecisionCost`.

    Layers of the model that are frozen are frozen in the copy; its modules train.

    Convolutions that make the outputs of the model, depthwise ones, and those that are called several times get no
    module; `measure_adaptive_cost(...).left_alone` says why.

    Args:
        model: A built Sequential or functional model of Keras 3, with images of fixed size. Masks that are attached to
            it are attached to the copy, and stay where the copy trains. Multiply-adds are counted without masks.
        exclude: Convolutions that get no module: names, paths or patterns.
        strength: The factor of the cost in the loss. The paper's is not known.
        budget: What C is to be, in (0, 1]; it can be changed later, by `tpi.BudgetSchedule` during training.
        example: A batch of inputs to compare the copy with the model on; made up by default.
        **options: Options of the modules, as of `tpi.layers.ChannelDecisions`: hidden, pooling, noise, forward,
            temperature, scale, kernel_initializer, seed.

    Returns:
        A functional model, compiled as the model is, with a fresh optimizer. Its first output is called
        "decision_cost".

    Raises:
        ModelError: If the model is subclassed or of tf_keras, holds models, has decisions already, open sizes or no
            convolution to decide on, or a layer cannot be copied.
        OptionError: If an option is out of range, unknown, or has no effect.
        EnforcementError: If weights of the model are frozen at other values, or pruned ones came back.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> L = keras.layers
        >>> layers = [L.Conv2D(8, 3, name="one"), L.ReLU(), L.Conv2D(8, 3, name="two"), L.Flatten(), L.Dense(2)]
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
        >>> adaptive = tpi.insert_saliency(model, strength=2.0)
        >>> [layer.name for layer in adaptive.layers if isinstance(layer, tpi.layers.ChannelDecisions)]
        ['one_decisions', 'two_decisions']

    Reference:
        Chen, Zhu, Li and Zhao, "Self-Adaptive Network Pruning", ICONIP 2019, https://arxiv.org/abs/1910.08906, by its
        abstract. What it leaves open is an option, with its source at `tpi.layers.ChannelDecisions`.
    """
    _check_kind(model)
    check_unfrozen(model)
    _check_options(options)
    carried = get_attached_masks(model)
    source = to_plain_model(model)
    insertion = AdaptiveCopy(source, [exclude] if isinstance(exclude, str) else list(exclude), options)
    adaptive = insertion.build(strength, budget)
    with restore_state(adaptive):
        for module in insertion.modules:
            module.decision_kernel.assign(tf.zeros(module.decision_kernel.shape))
            module.decision_bias.assign(tf.fill(module.decision_bias.shape, _SURELY_OPEN))
        check_copy(source, adaptive, insertion.copies.values(), example=example)
    compile_like(adaptive, model)
    if carried is not None:
        attach(adaptive, carried)
    return adaptive


def _check_kind(model: Any) -> None:
    compat.check_model(model)
    if not compat.is_keras3(model):
        raise ModelError("tpi.insert_saliency takes models of Keras 3. Received: a model of tf_keras.")
    if not compat.is_symbolic(model):
        raise ModelError(
            f"tpi.insert_saliency takes Sequential and functional models. Received: {type(model).__name__}, a "
            "subclassed model; take the Sequential or functional models inside it."
        )
    if find_decision_cost(model) is not None:
        raise ModelError(f"Model {model.name!r} has decisions already. Received: a model of tpi.insert_saliency.")
    own = compat.find_overridden_methods(model)
    if own:
        raise ModelError(
            f"A copy of model {model.name!r} would lack {', '.join(own)} of its class. Received: "
            f"{type(model).__name__}; build a plain keras.Model of its inputs and outputs."
        )


def _check_options(options: dict[str, Any]) -> None:
    known = ("hidden", "pooling", "noise", "forward", "temperature", "scale", "kernel_initializer", "seed")
    for name in options:
        if name not in known:
            raise OptionError(f"insert_saliency has no option {name!r}. {suggest(name, known, list_all=True)}")
