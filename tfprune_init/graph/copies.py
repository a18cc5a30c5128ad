"""Copies of models compared with the model that they are of, before anyone gets them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.example_input import make_varied_inputs
from tfprune_init.backend.model_state import restore_state
from tfprune_init.backend.overrides import compute_in_full_precision, intercept_calls
from tfprune_init.backend.protocols import Layer, Model
from tfprune_init.backend.thread_overrides import run_functions_eagerly
from tfprune_init.errors import DataError, ModelError
from tfprune_init.graph.variables import list_variables

_TOLERANCES = {"float64": 1e-8, "float32": 1e-3, "bfloat16": 0.1, "float16": 0.05}
"""Largest difference, over the largest absolute output of the same example: a layer computed in another order stays
far below, a layer without its state is far above."""


def check_copy(
    model: Model,
    copy: Any,
    layers: Iterable[tuple[Any, Any]],
    *,
    masks: Mapping[str, np.ndarray] | None = None,
    example: Any = None,
) -> None:
    """Compare what a copy of a model computes with what the model computes, in inference; no trace is left on them.

    Args:
        model: A built Sequential or functional model.
        copy: What must compute the same.
        layers: The layers of the model, each with its copy, by which a difference is told.
        masks: Masks by variable path; what they prune counts as zero in the model.
        example: A batch of inputs; made up by default. A model that draws random numbers from elsewhere than its own
            generators is not compared, as it differs from itself.

    Raises:
        ModelError: If they differ, or the model cannot run on any input that could be made up.
        DataError: If the model cannot run on the example.
    """
    with ExitStack() as undo:
        for one in (model, copy):
            undo.enter_context(restore_state(one))
        for target in list_variables(model) if masks else ():
            mask = None if masks is None else masks.get(target.path)
            if mask is not None:
                target.tensor.assign(tf.where(mask, target.tensor, tf.zeros((), target.tensor.dtype)))
        inputs, expected = _run_on_some(model, example)
        found = _try(copy, inputs)
        if _are_close(expected, found):
            return
        # Convolutions with channels first may be wrong on CPUs when they run eagerly.
        if _are_close(_try(model, inputs, traced=True), _try(copy, inputs, traced=True)):
            return
        if not _are_close(expected, _run(model, inputs)):
            return
        culprit = _find_first_difference(model, copy, list(layers), inputs)
    where = "its outputs differ" if culprit is None else f"layer {culprit.name!r} ({type(culprit).__name__}) differs"
    cause = f" It fails: {found}" if isinstance(found, Exception) else ""
    raise ModelError(
        f"The copy of model {model.name!r} does not compute what the model computes: {where}, by more than rounding. A "
        "layer of your own must save all it needs: in variables, in get_config, or by save_own_variables and "
        f"save_assets with what loads them.{cause}"
    )


def _run_on_some(model: Model, example: Any) -> tuple[Any, list[np.ndarray]]:
    """Run a model on the example, or on the first made-up input that it takes and makes numbers of."""
    failure: Exception | None = None
    ran: tuple[Any, list[np.ndarray]] | None = None
    for inputs in make_varied_inputs(model, np.random.default_rng(0)) if example is None else [example]:
        outputs = _try(model, inputs)
        if isinstance(outputs, Exception):
            failure = failure or outputs
            continue
        ran = ran or (inputs, outputs)
        if all(_has_numbers(output) for output in outputs):
            return inputs, outputs
    if ran is not None:
        return ran
    if example is not None:
        raise DataError(
            f"Model {model.name!r} cannot run on the example: {failure} Received: an example of shapes "
            f"{[tuple(np.shape(leaf)) for leaf in tf.nest.flatten(example)]}."
        ) from failure
    raise ModelError(
        f"A copy of model {model.name!r} could not be compared with it, as it runs on no made-up input: {failure} Pass "
        "example=..., one small batch of its inputs."
    ) from failure


def _try(model: Model, inputs: Any, traced: bool = False) -> list[np.ndarray] | Exception:
    """Return the outputs of a model, or why it has none."""
    try:
        return _run(model, inputs, traced)
    except (ValueError, TypeError, RuntimeError, tf.errors.OpError) as error:
        return error


def _run(model: Model, inputs: Any, traced: bool = False) -> list[np.ndarray]:
    """Return the outputs of a model from the state that it is in, in the precision of its variables."""

    def call(batch: Any) -> Any:
        return compat.call_model(model, batch, False)

    with restore_state(model), compute_in_full_precision(model):
        return _to_arrays((tf.function(call, autograph=False) if traced else call)(inputs))


def _to_arrays(outputs: Any) -> list[np.ndarray]:
    leaves = tf.nest.flatten(outputs)
    return [np.asarray(tf.sparse.to_dense(leaf) if isinstance(leaf, tf.SparseTensor) else leaf) for leaf in leaves]


def _has_numbers(output: np.ndarray) -> bool:
    return output.dtype.name not in _TOLERANCES or bool(np.isfinite(output.astype(np.float64)).all())


def _are_close(expected: list[np.ndarray] | Exception, found: list[np.ndarray] | Exception) -> bool:
    if isinstance(expected, Exception) or isinstance(found, Exception):
        return False
    return len(expected) == len(found) and all(map(_is_close, expected, found))


def _is_close(expected: np.ndarray, found: np.ndarray) -> bool:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    tolerance = _TOLERANCES.get(expected.dtype.name)
    if tolerance is None or not expected.size:
        return np.array_equal(expected, found)
    rows = len(expected) if expected.ndim else 1
    one, other = (np.reshape(array, (rows, -1)).astype(np.float64) for array in (expected, found))
    # Where the model gives no number there is nothing to keep: 0 times infinity may be left out.
    one, other = (np.where(np.isfinite(one), array, 0) for array in (one, other))
    return bool((np.abs(one - other) <= tolerance * np.abs(one).max(axis=1, keepdims=True)).all())


def _find_first_difference(model: Model, copy: Any, layers: list[tuple[Any, Any]], inputs: Any) -> Any:
    """Return the first layer, in the order of calls, that gives something else than its copy, in the same shape."""
    given = [_record(one, [pair[side] for pair in layers], inputs) for side, one in enumerate((model, copy))]
    twins = {id(layer): twin for layer, twin in layers}
    for layer, outputs in given[0]:
        others = [found for twin, found in given[1] if twin is twins[id(layer)]]
        if not others:  # the copy failed in it
            return layer
        alike = [found for found in others if [one.shape for one in found] == [one.shape for one in outputs]]
        if alike and not any(_are_close(outputs, found) for found in alike):
            return layer
    return None


def _record(model: Model, layers: list[Any], inputs: Any) -> list[tuple[Any, list[np.ndarray]]]:
    """Run a model and return what each call of some layers gave."""
    calls: list[tuple[Any, list[np.ndarray]]] = []

    def around(layer: Layer, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = call(*args, **kwargs)
        calls.append((layer, _to_arrays(output)))
        return output

    with run_functions_eagerly(), intercept_calls([layer for layer in layers if compat.is_layer(layer)], around):
        _try(model, inputs)
    return calls
