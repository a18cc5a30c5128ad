"""Traced measurements of a model, kept with it, so that the next search does not trace them again."""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.determinism import deterministic_reductions
from tfprune_init.backend.protocols import Model

if TYPE_CHECKING:
    from tfprune_init.scoring.masked_model import MaskedModel

# Where a model holds its traces. Held by the model itself, since a trace holds the model's layers: both go together.
_ATTRIBUTE = "_tfprune_traces"

# So many traced functions of one model are kept; the one used longest ago goes first.
_MOST = 32


class Traces:
    """The traced measurements of one model.

    A measurement is traced again if anything differs that a trace may depend on: the prunable variables, the loss, an
    attribute of a layer (dtype policy, activation, rate, trainable ...), the strategy, the seed, the batch shape.
    Changes inside objects that are neither numbers, containers nor arrays are not noticed. A graph that draws from a
    generator of its own (Dropout in tf_keras) continues where it stopped, so such a measurement is traced anew for each
    network.

    Attributes:
        counts: Number of traces of each measurement, by its name.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> from tfprune_init.scoring.traces import Traces
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> traces = []
        >>> for sparsity in (0.5, 0.75):
        ...     masks = tpi.find_masks(model, None, sparsity=sparsity, method="synflow", verbose=0)
        ...     traces.append(Traces.of(model).counts.total())
        >>> traces[0] == traces[1]
        True
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._traces: OrderedDict[Hashable, _Trace] = OrderedDict()

    @classmethod
    def of(cls, model: Model) -> Traces:
        """Get the traces of a model; they live as long as it does."""
        held: Traces = vars(model).setdefault(_ATTRIBUTE, cls())
        return held

    def function(
        self, network: MaskedModel, measurement: Callable[..., Any], settings: tuple[Hashable, ...], state: Hashable
    ) -> Callable[..., Any]:
        """Get a measurement as a graph, for one network.

        Args:
            network: The entered network, whose `traces` counts what is traced for it.
            measurement: Function to trace: (network, *tensors, *settings) -> nested tensors.
            settings: Arguments of the measurement after its tensors.
            state: All else that decides what a trace computes.
        """
        key = (measurement, settings, state)
        trace = self._traces.pop(key, None)
        if trace is None or trace.draws:
            trace = _Trace(network, measurement, settings, self.counts)
        self._traces[key] = trace
        if len(self._traces) > _MOST:
            self._traces.popitem(last=False)
        return partial(trace, network)


class _Trace:
    """One measurement as a graph, for whichever network calls it."""

    def __init__(
        self,
        network: MaskedModel,
        measurement: Callable[..., Any],
        settings: tuple[Hashable, ...],
        counts: Counter[str],
    ):
        self.draws = False
        # No network is bound to the graph: its copy of the weights would live as long as the trace.
        self._network: MaskedModel | None = None

        def traced(*arguments: Any) -> Any:
            network = self._network
            assert network is not None
            counts[_name(measurement, settings)] += 1
            network.traces += 1
            compat.seed_graph(network.seed)
            result = measurement(network, *arguments, *settings)
            self.draws = self.draws or _draws_numbers(tf.compat.v1.get_default_graph())
            return result

        # TensorFlow counts traces by code object and warns when many networks trace the same one, each once;
        # a partial has no code object.
        # AutoGraph takes longer than the trace itself. In `fit`, tf_keras lets it convert layers, Keras 3 does not.
        compiled = tf.function(
            partial(traced),
            jit_compile=network.jit_compile or None,
            autograph=not compat.is_keras3(network.model),
        )
        self._function = deterministic_reductions()(compiled)

    def __call__(self, network: MaskedModel, *arguments: Any) -> Any:
        self._network = network
        try:
            return self._function(*arguments)
        finally:
            self._network = None


def _draws_numbers(graph: tf.Graph) -> bool:
    """Return whether a graph holds an operation that draws random numbers from a state of its own."""
    if tf.executing_eagerly():  # under tf.config.run_functions_eagerly there is no graph
        return False
    definition = graph.as_graph_def()
    nodes = [definition.node, *(function.node_def for function in definition.library.function)]
    return any("seed2" in node.attr for part in nodes for node in part)


def _name(measurement: Callable[..., Any], settings: tuple[Hashable, ...]) -> str:
    """Get the name of a measurement, or of the one it averages."""
    inner: Any = settings[0] if settings and callable(settings[0]) else measurement
    return str(inner.__name__)


class Same:
    """An object that equals only itself; holding it keeps its id from being reused."""

    def __init__(self, held: Any):
        self._held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self._held is other._held

    def __hash__(self) -> int:
        return id(self._held)


def snapshot(value: Any) -> Hashable:
    """Copy the value of an object, for a later comparison.

    Numbers, containers, arrays, Keras's own losses and dtype policies are compared by content, all else by identity.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return type(value), value
    if isinstance(value, dict):
        return tuple((snapshot(key), snapshot(held)) for key, held in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(snapshot, value))
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).digest()
    settings = compat.get_loss_settings(value)
    if settings is not None:
        return type(value), snapshot(settings)
    if compat.is_named_policy(value):
        return type(value), value.name
    return Same(value)


def state_of(model: Model, loss: Any) -> Hashable:
    """Snapshot all of a model and its loss that a trace may depend on.

    Args:
        model: A built model.
        loss: The `loss=` option; None for the compiled loss, an attribute of the model.
    """
    layers = tuple((Same(layer), snapshot(own)) for layer, own in compat.walk_layer_attributes(model))
    variables = tuple(Same(compat.get_tf_variable(variable)) for variable in compat.get_variables(model))
    return layers, variables, snapshot(loss), compat.get_keras(model).backend.floatx()
