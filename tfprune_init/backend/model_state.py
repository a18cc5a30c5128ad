"""What a model keeps in variables of any kind, held for a while and put back bit for bit."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.contracts import get_private


class StateSnapshot:
    """The values of variables at one time.

    It takes no memory: what is written into a variable whose value is held elsewhere goes into a new buffer.

    Args:
        variables: The variables; those with copies on replicas with each of them.
    """

    def __init__(self, variables: Iterable[tf.Variable]):
        copies = [copy for variable in variables for copy in compat.get_local_copies(variable)]
        self._held = [(copy, copy.read_value()) for copy in copies]

    def put_back(self) -> None:
        """Give every variable the value that it had."""
        for copy, value in self._held:
            copy.assign(value)


@contextmanager
def restore_state(model: Any) -> Iterator[None]:
    """Put back whatever calls of a model move: weights, statistics, seeds, metrics, recurrent states."""
    before = StateSnapshot(find_state_variables(model))
    try:
        yield
    finally:
        before.put_back()


def find_state_variables(model: Any) -> list[tf.Variable]:
    """Find every variable that a call of the model may write to, with its metrics."""
    metrics = [compat.get_tf_variable(variable) for variable in compat.get_metric_variables(model)]
    return _unique([*find_layer_variables(model), *metrics])


def find_layer_variables(layer: Any) -> list[tf.Variable]:
    """Find every variable that a layer holds, whether Keras counts it or not.

    Layers may write to their own weights (SpectralNormalization), to states that are no weights, and to variables of
    TensorFlow that Keras does not know.

    Args:
        layer: A built layer or model.

    Returns:
        The variables, each once, in an order that is the same for a copy of the layer.
    """
    found = list(compat.get_variables(layer))
    for part in [layer, *compat.walk_layers(layer)]:
        # A model does not count the states of its stateful layers among its variables.
        states = getattr(part, "states", []) if getattr(part, "stateful", False) is True else []
        found += [state for state in tf.nest.flatten(states) if hasattr(state, "assign")]
        own = vars(part).keys() - find_bookkeeping(compat.get_keras(part))
        found += _find_uncounted([vars(part)[name] for name in sorted(own)])
    return _unique(map(compat.get_tf_variable, found))


@functools.cache
def find_bookkeeping(package: Any) -> frozenset[str]:
    """Return the names of the attributes in which layers and compiled models hold what Keras needs to know of them.

    Args:
        package: keras or tf_keras.
    """
    name = "bookkeeping"
    model = package.Model(name=name)
    model.compile(package.optimizers.SGD(name=name))
    return frozenset([*vars(model), *vars(package.layers.Layer(name=name))])


def _unique(variables: Iterable[tf.Variable]) -> list[tf.Variable]:
    return list({id(variable): variable for variable in variables}.values())


def _find_uncounted(values: list[Any]) -> Iterator[tf.Variable]:
    """Find variables of TensorFlow in attributes, in containers in them, and in modules and generators among them."""
    trackable = get_private("tensorflow autotrackable.AutoTrackable")
    for value in values:
        if isinstance(value, tf.Variable):
            yield value
        elif isinstance(value, Mapping):
            yield from _find_uncounted(list(value.values()))
        elif isinstance(value, (list, tuple)):
            yield from _find_uncounted(list(value))
        elif isinstance(value, trackable) and not compat.is_layer(value):
            inside = tf.train.TrackableView(value).descendants()
            yield from (one for one in inside if isinstance(one, tf.Variable))
