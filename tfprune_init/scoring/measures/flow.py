"""SynFlow's measure: how much of the flow through the absolute network passes through each weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.model_graph import get_logits
from tfprune_init.backend.model_inputs import find_string_inputs
from tfprune_init.backend.overrides import compute_in_float64, disable_activations, override_variables
from tfprune_init.backend.protocols import Model
from tfprune_init.errors import OptionError, PruningError, ScoreError
from tfprune_init.graph.variables import list_variables
from tfprune_init.scoring.masked_model import Arrays, MaskedModel


def measure_flow(network: MaskedModel) -> Arrays:
    """Compute |w| dR/d|w| for every prunable variable of the masked network, in float64.

    R is the sum of the outputs of the network for one example of ones, in inference mode, with every variable replaced
    by its absolute value and without the activation functions of its layers. R multiplies through the layers: in deep
    networks it would leave the range of float32.
    """
    ones = _ones(network)
    paths = [target.path for target in network.targets]
    masks = None if network.masks is None else [tf.convert_to_tensor(network.masks[path]) for path in paths]
    try:
        shares, reached = network.trace(_shares)(ones, network.absolute(), masks)
    except PruningError:
        raise
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        raise ScoreError(
            f"Model {network.model.name!r} could not be computed in float64 on an input of ones, as SynFlow needs: it "
            f"probably makes tensors of a fixed dtype by itself. Cause: {error}"
        ) from error
    if network.masks is None and not bool(reached):
        raise ScoreError(
            f"No flow of the dense model {network.model.name!r} comes from its inputs. An activation function called "
            "outside of layers may saturate: put it into a layer. Or weights are all 0."
        )
    return {path: np.asarray(share) for path, share in zip(paths, shares, strict=True)}


def _shares(
    network: MaskedModel, ones: Any, weights: list[tf.Tensor], masks: list[tf.Tensor] | None
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Compute each variable's shares of the flow, and whether any flow comes from the inputs."""
    masked = [tf.identity(w) for w in weights]
    if masks is not None:
        masked = [tf.where(mask, w, tf.zeros((), w.dtype)) for mask, w in zip(masks, masked, strict=True)]
    values = {t.path: tf.abs(tf.cast(t.tensor, tf.float64)) for t in _floats(network.model)}
    values |= {t.path: w for t, w in zip(network.targets, masked, strict=True)}
    with (
        compute_in_float64(network.model),
        override_variables(network.model, list_variables(network.model), values),
        disable_activations(network.model),
    ):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            ones = tf.nest.map_structure(lambda x: tf.cast(x, tf.float64) if x.dtype.is_floating else x, ones)
            floats = [leaf for leaf in tf.nest.flatten(ones) if leaf.dtype.is_floating]
            tape.watch([masked, floats])
            outputs = tf.nest.flatten(compat.call_model(network.model, ones, False))
            # The outputs of a softmax always sum to one: use its inputs.
            logits = [get_logits(network.model, out) for out in outputs]
            total = tf.add_n([tf.reduce_sum(out) for out in logits])
        none = tf.UnconnectedGradients.ZERO
        slopes, from_inputs = tape.gradient(total, [masked, floats], unconnected_gradients=none)
    reached = tf.reduce_any([tf.reduce_any(slope != 0) for slope in from_inputs] or [True])
    return [w * slope for w, slope in zip(masked, slopes, strict=True)], reached


def _floats(model: Model) -> list[Any]:
    return [target for target in list_variables(model) if target.tensor.dtype.is_floating]


def _ones(network: MaskedModel) -> Any:
    strings = find_string_inputs(network.model)
    if strings:
        raise OptionError(
            f"SynFlow looks at an input of ones, and input {', '.join(map(repr, strings))} of model "
            f"{network.model.name!r} takes strings. Prune the model behind the layers that turn them into numbers, "
            "which shares its weights: tpi.cut_string_inputs(model)."
        )
    x = network.make_input()
    if x is None:
        raise OptionError(
            f"SynFlow needs the shape of an input, which subclassed model {network.model.name!r} does not tell: pass "
            "data, of which only the shape will be used. Received: data=None."
        )
    return tf.nest.map_structure(_one_of_ones, x)


def _one_of_ones(leaf: Any) -> Any:
    if isinstance(leaf, tf.RaggedTensor):
        return tf.ones_like(leaf[:1])
    return tf.ones([1, *leaf.shape[1:]], leaf.dtype)
