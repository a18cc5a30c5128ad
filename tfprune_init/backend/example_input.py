"""Made-up inputs for models whose inputs are declared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.model_graph import list_node_calls

# Sizes that are tried where a model leaves one open.
_OPEN_SIZES = (8, 32, 128)
_UNKNOWN_WORDS = ("", "unknown")


def make_varied_inputs(model: Any, rng: np.random.Generator) -> Iterator[Any]:
    """Make up examples that tell networks apart, and simpler ones for models that do not take those.

    Floats go from -1000 to 1000, most of them near 0; integers and texts are those that layers with a vocabulary know,
    and others.

    Args:
        model: A Sequential or functional model of either Keras.
        rng: Source of the numbers.

    Yields:
        Batches of four examples, or of as many as the model takes.
    """
    for size in _OPEN_SIZES:
        for varied in (True, False):
            yield _make(model, rng, 4, size, varied)


def _make(model: Any, rng: np.random.Generator, examples: int, open_size: int, varied: bool) -> Any:
    def one(symbol: Any) -> tf.Tensor:
        dtype = tf.as_dtype(symbol.dtype)
        sizes = [open_size if size is None else size for size in symbol.shape[1:]]
        shape = (symbol.shape[0] or examples, *sizes)
        if dtype == tf.string:
            words = [*_find_vocabulary(compat.walk_layers(model), str), *_UNKNOWN_WORDS]
            return tf.constant(rng.choice(np.array(words, object), shape), dtype)
        if dtype.is_floating:
            values = rng.uniform(size=shape)
            if varied:
                values[::2] = (10 ** rng.uniform(-2, 3, shape) * rng.choice([-1, 1], shape))[::2]
            return tf.constant(values, dtype)
        known = _find_vocabulary(_find_takers(model, symbol), int) if varied else []
        integers = rng.choice([0, 1, *known], shape) if known else rng.integers(0, 2, shape)
        return tf.cast(tf.constant(integers), dtype)

    return tf.nest.map_structure(one, model.inputs[0] if len(model.inputs) == 1 else model.input)


def _find_takers(model: Any, symbol: Any) -> Iterator[Any]:
    """Find the layers that are called on an input of a model, with those inside them."""
    nodes, _ = list_node_calls(model)
    for node in nodes:
        if any(leaf is symbol for leaf in tf.nest.flatten((node.args, node.kwargs))):
            yield node.layer
            yield from compat.walk_layers(node.layer) if compat.is_layer(node.layer) else ()


def _find_vocabulary(layers: Any, kind: type) -> list[Any]:
    """Return what the vocabularies of layers hold that is of a kind, without doubles."""
    lists = [layer.get_vocabulary() for layer in layers if hasattr(layer, "get_vocabulary")]
    words = [word.item() if isinstance(word, np.generic) else word for words in lists for word in words]
    return list(dict.fromkeys(word for word in words if type(word) is kind))
