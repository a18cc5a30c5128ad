"""A model under masks: its weights, its batches, and how a measurement runs on them. Leaves no trace on the model."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from tfprune_init import kerases
from tfprune_init.batches import Batch, Batches
from tfprune_init.errors import DataError, ModelError, OptionError, PruningError
from tfprune_init.losses import DataLoss
from tfprune_init.strategies import replicas_of
from tfprune_init.summation import in_order
from tfprune_init.surgery import unmoved
from tfprune_init.targets import Target, all_variables

Arrays = dict[str, np.ndarray]
Self = TypeVar("Self", bound="Network")


class Network:
    """A masked network seen from outside.

    Use as a context manager: on leaving, whatever happened, every variable of the model has the bits it
    had on entering. Inside, `mask` chooses the network that is looked at.

    Args:
        model: A built model, Keras 3 or tf_keras.
        targets: The prunable variables, in their fixed order.
        data: Where batches come from, as `Batches` takes it, or None.
        loss: What `compile(loss=...)` takes, or None for the compiled loss.
        batches: Number of batches that one measurement is averaged over, weighted by examples.
        batchnorm: "batch" looks at the network as in training (BatchNorm on batch statistics, Dropout
            active), "inference" as in prediction.
        seed: Seed of everything random, Dropout included.
        jit_compile: Whether to compile measurements with XLA.

    Attributes:
        model: The model.
        targets: The prunable variables.
        weights: Unmasked weights, by path; read-only arrays, float32 or float64.
        masks: The masks looked through, by path; None for the dense network.
        rng: A NumPy random generator made from `seed`.
        replicas: The replicas of the model, which share the batches.
        scale: What losses are multiplied by, and derivatives divided by.
        training: Whether the network computes as in training.
        show_progress: Whether long measurements show a progress bar.
        traces: How often a measurement was traced.
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
        self.replicas = replicas_of(model)
        if jit_compile and self.replicas.several:
            raise OptionError(
                f"jit_compile=True works on one device; {self.replicas.count} replicas exchange results within a step, "
                "which XLA compiles on TPUs by itself and nowhere else. Leave it out."
            )
        self.model = model
        self.targets = targets
        self.training = batchnorm == "batch"
        self.masks: Mapping[str, np.ndarray] | None = None
        self.rng = np.random.default_rng(seed)
        self.show_progress = False
        self.traces = 0
        self._batches = None if data is None else Batches.of(data, self.replicas)
        self._per_measurement = batches
        self._loss_argument = loss
        self._loss: DataLoss | None = None
        self._jit_compile = jit_compile
        self._seed = seed
        self._taken = 0
        self._last: list[Batch] = []
        # float16 gradients underflow without one.
        self.scale = 2.0**15 if kerases.computes_in_float16(model) else 1.0
        self._stale = False
        self._moved = False
        self._undo = ExitStack()
        self._absolute: list[tf.Tensor] | None = None
        self._compiled: dict[Hashable, Any] = {}

    def __enter__(self: Self) -> Self:
        self._check_weights()
        self._undo.enter_context(unmoved(self.model))
        # No copies: what a variable holds stays in its place, and what is assigned to it brings its own.
        self._dense = {t.path: t.tensor.read_value() for t in self.targets}
        self.weights = {path: scores_dtype(np.asarray(value)) for path, value in self._dense.items()}
        for value in self.weights.values():
            value.flags.writeable = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._moved:
            for target in self.targets:
                target.tensor.assign(self._dense[target.path])
        self._undo.close()

    @property
    def has_data(self) -> bool:
        """Whether there are batches to look at."""
        return self._batches is not None

    def some_input(self) -> Any:
        """The inputs of the last batch; made up without data; None if their shapes are unknown too."""
        if self.has_data:
            return self.take(fresh=False)[0].x
        return kerases.example_input(self.model, self.rng) if kerases.is_symbolic(self.model) else None

    @property
    def loss(self) -> DataLoss:
        """The loss that judges the outputs."""
        if self._loss is None:
            self._loss = DataLoss(self.model, self._loss_argument)
        return self._loss

    def mask(self, masks: Mapping[str, np.ndarray]) -> None:
        """Look at the network with `masks` on its initial weights from now on."""
        self.masks = masks
        self._stale = True

    def absolute(self) -> list[tf.Tensor]:
        """Absolute values of the unmasked weights as float64 tensors, made once."""
        if self._absolute is None:
            self._absolute = [tf.abs(tf.cast(self._dense[t.path], tf.float64)) for t in self.targets]
        return self._absolute

    def settle(self) -> None:
        """Put the masked weights into the model's variables, for a measurement that computes with these."""
        if self._stale and self.masks is not None:
            self._moved = True
            for target in self.targets:
                dense = self._dense[target.path]
                target.tensor.assign(tf.where(self.masks[target.path], dense, tf.zeros((), dense.dtype)))
        self._stale = False

    def take(self, fresh: bool) -> list[Batch]:
        """The next batches of the data, or those of the last call again, with the same Dropout.

        Raises:
            OptionError: If there is no data.
        """
        if self._batches is None:
            raise OptionError("This method judges connections by data. Received: data=None.")
        if fresh or not self._last:
            self._last = self._batches.take(self._per_measurement)
            self._taken += 1
        for i, state in enumerate(kerases.seed_states(self.model)):
            state.assign([self._seed % 2**32, self._taken * 2**16 + i])
        return self._last

    def judged(self, x: Any, y: Any, sample_weight: Any, temperature: float = 1.0) -> tf.Tensor:
        """The loss of the masked network on one batch, while a measurement is traced."""
        outputs = kerases.call(self.model, x, self.training)
        if temperature != 1.0:
            outputs = tf.nest.map_structure(lambda logits: logits / temperature, outputs)
        return self.loss(x, y, outputs, sample_weight)

    def compiled(self, measurement: Callable[..., Any], *settings: Hashable) -> Any:
        """A measurement as a graph, traced once for each kind of batch."""
        key = (measurement, *settings)
        if key not in self._compiled:

            def traced(*arguments: Any) -> Any:
                self.traces += 1
                kerases.seed_graph(self._seed)
                return measurement(self, *arguments, *settings)

            # TensorFlow counts traces by code object and warns when many networks trace the same one, each once;
            # a partial has no code object.
            function = tf.function(partial(traced), jit_compile=self._jit_compile or None)
            self._compiled[key] = in_order()(function)
        return self._compiled[key]

    def _check_weights(self) -> None:
        for target in all_variables(self.model):
            value = target.tensor
            if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
                raise ModelError(
                    f"Variable {target.path!r} of model {self.model.name!r} holds NaN or Inf. "
                    "Initialize the model anew, or load sound weights."
                )


@contextmanager
def label_errors(batch: Batch) -> Iterator[None]:
    """Say which batch it was when TensorFlow refuses to compute a loss."""
    try:
        yield
    except PruningError:
        raise
    except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
        raise DataError(
            f"The loss could not be computed on batch {batch.number}: the labels do not suit the loss, or "
            f"the inputs do not suit the model. Received: {_shapes(batch)}. Cause: {error}"
        ) from error


def scores_dtype(value: Any) -> Any:
    """Scores are float64 for float64 variables, float32 for all others."""
    if value.dtype in (tf.float64, np.float64, tf.float32, np.float32):
        return value
    return tf.cast(value, tf.float32) if isinstance(value, tf.Tensor) else value.astype(np.float32)


def _shapes(batch: Batch) -> str:
    def one(leaf: Any) -> str:
        return f"{leaf.dtype.name}{tuple(leaf.shape)}"

    return f"x {tf.nest.map_structure(one, batch.x)}, y {tf.nest.map_structure(one, batch.y)}"
