"""One run of a model on an example, as the calls of its layers in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfprune_init import kerases
from tfprune_init.errors import DataError
from tfprune_init.surgery import in_full_precision, intercepted, unmoved


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer.

    Attributes:
        layer: The layer.
        inputs: The tensors it took, kept alive so that each is told from the others by its id.
        output: The tensor it gave; None where nothing is known of what the layer does.
    """

    layer: Any
    inputs: tuple[tf.Tensor, ...] = ()
    output: tf.Tensor | None = None


def record(model: Any, example: Any, follows: Callable[[Any], bool]) -> tuple[list[Call], list[tf.Tensor]]:
    """Run a model once as in inference, and leave no trace on it.

    Args:
        model: A built model.
        example: A batch of inputs.
        follows: Whether it is known what a layer does. Calls inside such a layer are its own affair.

    Returns:
        The calls in the order in which they ended, those of unknown layers as they began, and the model's outputs.

    Raises:
        DataError: If the model cannot run on the example.
    """
    calls: list[Call] = []
    within: list[Any] = []

    def around(layer: Any, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if within:
            return call(*args, **kwargs)
        if not follows(layer):
            calls.append(Call(layer))
            return call(*args, **kwargs)
        inputs = tuple(tf.nest.flatten(args[0] if args else next(iter(kwargs.values()))))
        within.append(layer)
        try:
            output = call(*args, **kwargs)
        finally:
            within.pop()
        clear = all(isinstance(one, tf.Tensor) and one.shape.is_fully_defined() for one in (*inputs, output))
        calls.append(Call(layer, inputs, output) if clear else Call(layer))
        return output

    layers = [layer for layer in kerases.layers_below(model) if not kerases.is_model(layer)]
    try:
        with unmoved(model), _eager(), in_full_precision(model), intercepted(layers, around):
            outputs = kerases.call(model, example, False)
    except Exception as error:
        shapes = [tuple(getattr(leaf, "shape", ())) for leaf in tf.nest.flatten(example)]
        raise DataError(
            f"Model {model.name!r} cannot run on the example: {error} Received: an example of shapes {shapes}. "
            "Pass example=..., one small batch of what the model is called with."
        ) from error
    return calls, [output for output in tf.nest.flatten(outputs) if isinstance(output, tf.Tensor)]


@contextmanager
def _eager() -> Iterator[None]:
    """Let functions that were compiled run line by line, so that the layers they call are seen."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
