"""A model under masks: its weights, its batches, and how measurements run on it. The model is left unchanged."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.batches import Batch, Batches
from tfprune_init.backend.losses import BatchLoss, DataLoss, make_loss
from tfprune_init.backend.model_inputs import find_string_inputs, make_example_input
from tfprune_init.backend.model_state import StateSnapshot, find_state_variables
from tfprune_init.backend.protocols import Model
from tfprune_init.backend.replicas import find_replicas
from tfprune_init.errors import DataError, ModelError, OptionError, PruningError
from tfprune_init.graph.variables import ModelVariable, list_variables
from tfprune_init.options import OPTIONS
from tfprune_init.scoring.traces import Same, Traces, state_of

Arrays = dict[str, np.ndarray]
Self = TypeVar("Self", bound="MaskedModel")


class MaskedModel:
    """A masked network, for measurements.

    Use it as a context manager. On exit, also after an exception, every variable of the model is restored bit for bit.
    Inside, `mask` selects the network that is measured.

    Args:
        model: A built model, Keras 3 or tf_keras.
        targets: The prunable variables, in their fixed order.
        data: Source of the batches, as `Batches` takes it, or None.
        loss: As `backend.losses.make_loss` takes it.
        batches: Number of batches that one measurement is averaged over, weighted by examples.
        training: True looks at the network as in training (BatchNorm on batch statistics, Dropout active), False as
            in prediction.
        seed: Seed of everything random, Dropout included.
        jit_compile: Whether to compile measurements with XLA.

    Attributes:
        model: The model.
        targets: The prunable variables.
        weights: Unmasked weights, by path; read-only arrays, float32 or float64.
        masks: The masks looked through, by path; None for the dense network.
        rng: A NumPy random generator made from `seed`.
        replicas: The replicas of the model, which share the batches.
        scale: Factor on losses, by which derivatives are divided again.
        training: Whether the network computes as in training.
        seed: Seed of everything random.
        jit_compile: Whether measurements are compiled with XLA.
        show_progress: Whether long measurements show a progress bar.
        traces: Number of measurements that were traced anew for this network.
    """

    def __init__(
        self,
        model: Model,
        targets: tuple[ModelVariable, ...],
        *,
        data: Any = None,
        loss: Any = None,
        batches: int = 1,
        training: bool = True,
        seed: int = 0,
        jit_compile: bool = False,
    ):
        for name, value in {"batches": batches, "training": training, "seed": seed, "jit_compile": jit_compile}.items():
            OPTIONS[name].check(value)
        self.replicas = find_replicas(model)
        if jit_compile and self.replicas.are_several:
            raise OptionError(
                f"jit_compile=True works on one device; {self.replicas.count} replicas exchange results within a step, "
                "which XLA compiles on TPUs by itself and nowhere else. Leave it out."
            )
        strings = find_string_inputs(model) if jit_compile else []
        if strings:
            raise OptionError(
                f"jit_compile=True compiles with XLA, which takes no strings, and input {', '.join(map(repr, strings))}"
                f" of model {model.name!r} does. Leave it out, or prune tpi.cut_string_inputs(model)."
            )
        self.model = model
        self.targets = targets
        self.training = training
        self.masks: Mapping[str, np.ndarray] | None = None
        self.rng = np.random.default_rng(seed)
        self.show_progress = False
        self.traces = 0
        self._batches = None if data is None else Batches.of(data, self.replicas)
        self._per_measurement = batches
        self._loss_argument = loss
        self._loss: DataLoss | BatchLoss | None = None
        self.jit_compile = jit_compile
        self.seed = seed
        self._taken = 0
        self._last: list[Batch] = []
        # float16 gradients underflow without one.
        self.scale = 2.0**15 if compat.uses_float16(model) else 1.0
        self._stale = False
        self._absolute: list[tf.Tensor] | None = None
        self._compiled: dict[Hashable, Callable[..., Any]] = {}

    def __enter__(self: Self) -> Self:
        self._check_weights()
        held = find_state_variables(self.model)
        self._before = StateSnapshot(held)
        # Each batch draws its own random numbers, from the seeds that `take` gives.
        seeds = {id(state) for state in compat.find_seed_states(self.model)}
        self._steady = [variable for variable in held if id(variable) not in seeds]
        self._measured = StateSnapshot(self._steady)
        # No copies: assigning to a variable gives it a new buffer, and the old one stays as it is.
        self._dense = {t.path: t.tensor.read_value() for t in self.targets}
        self.weights = {path: to_score_dtype(np.asarray(value)) for path, value in self._dense.items()}
        for value in self.weights.values():
            value.flags.writeable = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._before.put_back()

    @property
    def has_data(self) -> bool:
        """Whether there are batches to look at."""
        return self._batches is not None

    def make_input(self) -> Any:
        """Return the inputs of the last batch; random without data; None if their shapes are unknown too."""
        if self.has_data:
            return self.take(fresh=False)[0].x
        return make_example_input(self.model, self.rng) if compat.is_symbolic(self.model) else None

    @property
    def loss(self) -> DataLoss | BatchLoss:
        """The loss that judges the network."""
        if self._loss is None:
            self._loss = make_loss(self.model, self._loss_argument)
        return self._loss

    @property
    def judged_by(self) -> str | None:
        """The loss that judged the network, in words; None if none did."""
        return None if self._loss is None else self._loss.description

    def mask(self, masks: Mapping[str, np.ndarray]) -> None:
        """Measure the network with `masks` on its initial weights from now on."""
        self.masks = masks
        self._stale = True

    def absolute(self) -> list[tf.Tensor]:
        """Compute the absolute values of the unmasked weights as float64 tensors, once."""
        if self._absolute is None:
            self._absolute = [tf.abs(tf.cast(self._dense[t.path], tf.float64)) for t in self.targets]
        return self._absolute

    def write_masked_weights(self) -> None:
        """Write the masked weights into the model's variables, for measurements that read these."""
        if self._stale and self.masks is not None:
            for target in self.targets:
                dense = self._dense[target.path]
                target.tensor.assign(tf.where(self.masks[target.path], dense, tf.zeros((), dense.dtype)))
            self._measured = StateSnapshot(self._steady)
        self._stale = False

    def take(self, fresh: bool) -> list[Batch]:
        """Get the next batches of the data, or those of the last call again, with the same Dropout.

        Raises:
            OptionError: If there is no data.
        """
        if self._batches is None:
            raise OptionError("This method judges connections by data. Received: data=None.")
        if fresh or not self._last:
            self._last = self._batches.take(self._per_measurement)
            self._taken += 1
        for i, state in enumerate(compat.find_seed_states(self.model)):
            state.assign([self.seed % 2**32, self._taken * 2**16 + i])
        return self._last

    def compute_loss(self, x: Any, y: Any, sample_weight: Any, temperature: float = 1.0) -> tf.Tensor:
        """Compute the loss of the masked network on one batch, while a measurement is traced."""
        return self.loss.judge(x, y, sample_weight, self.training, temperature)

    def trace(self, measurement: Callable[..., Any], *settings: Hashable) -> Any:
        """Get a measurement as a graph, traced once per state of the model and kind of batch.

        Whatever layers write while it runs is undone after it, so that all measurements look at the same network.
        """
        if (measurement, settings) not in self._compiled:
            function = Traces.of(self.model).function(self, measurement, settings, self._state)
            self._compiled[measurement, settings] = partial(self._run, function)
        return self._compiled[measurement, settings]

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        finally:
            self._measured.put_back()

    @cached_property
    def _state(self) -> Hashable:
        """What decides, beside measurement and batch, what a trace computes; fixed while the network is entered."""
        return (
            tuple(target.path for target in self.targets),
            (self.training, self.seed, self.jit_compile, Same(self.replicas.strategy)),
            state_of(self.model, self._loss_argument),
        )

    def _check_weights(self) -> None:
        for target in list_variables(self.model):
            value = target.tensor
            if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
                raise ModelError(
                    f"Variable {target.path!r} of model {self.model.name!r} holds NaN or Inf. "
                    "Initialize the model anew, or load sound weights."
                )


@contextmanager
def label_errors(batch: Batch, advice: str) -> Iterator[None]:
    """Name the batch when TensorFlow cannot compute a loss, and say what else may be wrong with the loss."""
    try:
        yield
    except PruningError:
        raise
    except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
        raise DataError(
            f"The loss could not be computed on batch {batch.number}: the labels do not suit the loss, or "
            f"the inputs do not suit the model.{advice} Received: {_shapes(batch)}. Cause: {error}"
        ) from error


def to_score_dtype(value: Any) -> Any:
    """Cast scores to float64 for float64 variables, to float32 for all others."""
    if value.dtype in (tf.float64, np.float64, tf.float32, np.float32):
        return value
    return tf.cast(value, tf.float32) if isinstance(value, tf.Tensor) else value.astype(np.float32)


def _shapes(batch: Batch) -> str:
    def one(leaf: Any) -> str:
        return "None" if leaf is None else f"{leaf.dtype.name}{tuple(leaf.shape)}"

    return f"x {tf.nest.map_structure(one, batch.x)}, y {tf.nest.map_structure(one, batch.y)}"
