"""The engine: what a masked network does to data. Leaves no trace on the model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init import kerases
from tfprune_init.batches import Batch, Batches
from tfprune_init.errors import DataError, ModelError, OptionError, ScoreError
from tfprune_init.targets import Target, all_variables

Arrays = dict[str, np.ndarray]


class Probe:
    """A masked network seen from outside: its weights, and gradients of its loss.

    Use as a context manager: on leaving, whatever happened, every variable of the model has the bits it
    had on entering. Inside, `mask` chooses the network that is looked at.

    Args:
        model: A built model, Keras 3 or tf_keras.
        targets: The prunable variables, in their fixed order.
        data: Where batches come from, as `Batches` takes it, or None.
        loss: What `compile(loss=...)` takes, or None for the compiled loss.
        batches: Number of batches that one gradient is averaged over, weighted by examples.
        batchnorm: "batch" looks at the network as in training (BatchNorm on batch statistics, Dropout
            active), "inference" as in prediction.
        seed: Seed of everything random, Dropout included.
        jit_compile: Whether to compile the gradient step with XLA.

    Attributes:
        weights: Unmasked weights, by path; read-only arrays, float32 or float64.
        rng: A NumPy random generator made from `seed`.
        traces: How often the gradient step was traced.
    """

    def __init__(
        self,
        model: Any,
        targets: tuple[Target, ...],
        *,
        data: Any = None,
        loss: Any = None,
        batches: int = 1,
        batchnorm: str = "batch",
        seed: int = 0,
        jit_compile: bool = False,
    ):
        if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
            raise OptionError(f"batches must be a positive integer. Received: batches={batches!r}.")
        if batchnorm not in ("batch", "inference"):
            raise OptionError(f'batchnorm must be "batch" or "inference". Received: {batchnorm!r}.')
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise OptionError(f"seed must be a non-negative integer. Received: seed={seed!r}.")
        self._model = model
        self._targets = targets
        self._batches = None if data is None else Batches(data)
        self._per_gradient = batches
        self._training = batchnorm == "batch"
        self._loss_argument = loss
        self._jit_compile = jit_compile
        self._seed = seed
        self._last: list[Batch] = []
        self._scale = 1.0
        self._compiled: Any = None
        self.rng = np.random.default_rng(seed)
        self.traces = 0

    def __enter__(self) -> Probe:
        self._check_weights()
        prunable = {id(t.tensor) for t in self._targets}
        self._untouched = [(v, v.numpy()) for v in kerases.changeable_variables(self._model) if id(v) not in prunable]
        self._dense = {t.path: t.tensor.numpy() for t in self._targets}
        self.weights = {path: _scores_dtype(value) for path, value in self._dense.items()}
        for value in self.weights.values():
            value.flags.writeable = False
        for i, state in enumerate(kerases.seed_states(self._model)):
            state.assign([self._seed % 2**32, i])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for target in self._targets:
            target.tensor.assign(self._dense[target.path])
        for variable, value in self._untouched:
            variable.assign(value)

    @property
    def has_data(self) -> bool:
        """Whether there are batches to look at."""
        return self._batches is not None

    def mask(self, masks: Mapping[str, np.ndarray]) -> None:
        """Look at the network with `masks` on its initial weights from now on."""
        for target in self._targets:
            dense = self._dense[target.path]
            target.tensor.assign(np.where(masks[target.path], dense, dense.dtype.type(0)))

    def gradients(self, *, fresh: bool = True) -> Arrays:
        """Gradient of the loss with respect to every prunable weight, at the masked weights.

        Args:
            fresh: Whether to take the next batches of the data, or those of the last call again.

        Returns:
            Mapping from path to a finite array of the variable's shape (float32, or float64 where the
            variable is), averaged over the batches, weighted by their examples. Pruned positions have
            their gradient too.

        Raises:
            DataError: If the loss is NaN or Inf, or the labels do not suit the loss.
            ScoreError: If a gradient is NaN or Inf, or the loss does not depend on a variable at all.
        """
        batches = self._take(fresh)
        by_examples = not kerases.sums_examples(self._model, self._loss_argument)
        total: Arrays = {}
        for batch in batches:
            gradients = self._finite_gradients(batch)
            weight = batch.examples if by_examples else 1
            for target, gradient in zip(self._targets, gradients, strict=True):
                if len(batches) == 1 and by_examples:
                    total[target.path] = gradient
                elif target.path in total:
                    total[target.path] += gradient * weight
                else:
                    total[target.path] = gradient * weight
        if len(batches) > 1 or not by_examples:
            for gradient in total.values():
                gradient /= sum(batch.examples for batch in batches)
        return total

    def signal(self) -> dict[str, float] | None:
        """How strongly each output of the masked network answers to its inputs.

        Returns:
            For each output the largest absolute derivative of a fixed random projection of it with respect
            to the inputs (to the embedding tables where inputs are integers): exactly 0.0 where the network
            passes no signal. None if there is no data and the model has no symbolic inputs.
        """
        if self.has_data:
            x = self._take(fresh=False)[0].x
        elif kerases.is_symbolic(self._model):
            x = kerases.example_input(self._model, self.rng)
        else:
            return None
        strengths = _traced(self._signal)(x)
        names = kerases.output_names(self._model, len(strengths))
        return {name: float(strength) for name, strength in zip(names, strengths, strict=True)}

    def _take(self, fresh: bool) -> list[Batch]:
        if self._batches is None:
            raise OptionError("This method judges connections by data. Received: data=None.")
        if fresh or not self._last:
            self._last = self._batches.take(self._per_gradient)
        return self._last

    def _finite_gradients(self, batch: Batch) -> list[np.ndarray]:
        loss, gradients = self._step(batch)
        # float16 gradients overflow under the scale that saves them from underflow: lower it and try again.
        while self._scale > 1.0 and not all(np.isfinite(g).all() for g in gradients):
            self._scale /= 16.0
            loss, gradients = self._step(batch)
        if not np.isfinite(loss):
            raise DataError(
                f"The loss of batch {batch.number} is {loss}. Check that the labels suit the loss (range, "
                "shape, from_logits) and that the inputs are scaled."
            )
        for target, gradient in zip(self._targets, gradients, strict=True):
            if not np.isfinite(gradient).all():
                raise ScoreError(
                    f"The gradient of {target.path} on batch {batch.number} holds NaN or Inf. Try smaller "
                    "inputs, a smaller initialization, or float32 instead of float16."
                )
        return gradients

    def _step(self, batch: Batch) -> tuple[float, list[np.ndarray]]:
        if self._compiled is None:
            self._loss = kerases.loss_function(self._model, self._loss_argument)
            self._scale = 2.0**15 if kerases.computes_in_float16(self._model) else 1.0
            self._compiled = _traced(self._gradient_step, self._jit_compile)
        scale = tf.constant(self._scale)
        try:
            loss, gradients = self._compiled(batch.x, batch.y, batch.sample_weight, scale)
        except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
            raise DataError(
                f"The loss could not be computed on batch {batch.number}: the labels do not suit the loss, or "
                f"the inputs do not suit the model. Received: {_shapes(batch)}. Cause: {error}"
            ) from error
        lost = [t.path for t, g in zip(self._targets, gradients, strict=True) if g is None]
        if lost:
            raise ScoreError(
                f"The loss gives no gradient to {', '.join(lost[:8])}: it does not depend on them, or the path "
                "is not differentiable. Use another loss, or leave these alone with filters=[...]."
            )
        arrays = [np.asarray(gradient) for gradient in gradients]
        return float(loss), arrays if self._scale == 1.0 else [array / self._scale for array in arrays]

    def _gradient_step(self, x: Any, y: Any, sample_weight: Any, scale: tf.Tensor) -> tuple[Any, list[Any]]:
        self.traces += 1
        kerases.seed_graph(self._seed)
        tensors = [target.tensor for target in self._targets]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tensors)
            loss = self._loss(x, y, kerases.call(self._model, x, self._training), sample_weight)
            scaled = loss * tf.cast(scale, loss.dtype)
        gradients = tape.gradient(scaled, tensors)
        return loss, [None if g is None else _scores_dtype(tf.convert_to_tensor(g)) for g in gradients]

    def _signal(self, x: Any) -> list[tf.Tensor]:
        kerases.seed_graph(self._seed)
        x = kerases.differentiable_input(self._model, x)
        sources = [leaf for leaf in tf.nest.flatten(x) if leaf.dtype.is_floating]
        sources += kerases.embedding_tables(self._model)
        with tf.GradientTape(watch_accessed_variables=False, persistent=True) as tape:
            tape.watch(sources)
            outputs = tf.nest.flatten(kerases.call(self._model, x, self._training))
            projections = [
                tf.reduce_sum(out * tf.random.stateless_normal(tf.shape(out), seed=[i, 1], dtype=out.dtype))
                for i, out in enumerate(outputs)
            ]
        strengths = []
        for projection in projections:
            derivatives = [tf.convert_to_tensor(g) for g in tape.gradient(projection, sources) if g is not None]
            peaks = [tf.reduce_max(tf.abs(tf.cast(g, tf.float32))) for g in derivatives]
            strengths.append(tf.reduce_max(tf.stack(peaks)) if peaks else tf.zeros(()))
        return strengths

    def _check_weights(self) -> None:
        for target in all_variables(self._model):
            value = target.tensor
            if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
                raise ModelError(
                    f"Variable {target.path!r} of model {self._model.name!r} holds NaN or Inf. "
                    "Initialize the model anew, or load sound weights."
                )


def _traced(function: Any, jit_compile: bool = False) -> Any:
    # TensorFlow counts traces by code object and warns when many probes trace the same method, each once;
    # a partial has no code object.
    return tf.function(partial(function), jit_compile=jit_compile or None)


def _scores_dtype(value: Any) -> Any:
    """Scores are float64 for float64 variables, float32 for all others."""
    if value.dtype in (tf.float64, np.float64, tf.float32, np.float32):
        return value
    return tf.cast(value, tf.float32) if isinstance(value, tf.Tensor) else value.astype(np.float32)


def _shapes(batch: Batch) -> str:
    def one(leaf: Any) -> str:
        return f"{leaf.dtype.name}{tuple(leaf.shape)}"

    return f"x {tf.nest.map_structure(one, batch.x)}, y {tf.nest.map_structure(one, batch.y)}"
