"""The engine: everything that a criterion can ask of a masked network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.model_inputs import find_string_inputs, make_example_input, take_examples
from tfprune_init.checks import check_integer
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.string_inputs import StringCut, split_at_strings
from tfprune_init.progress import track
from tfprune_init.scoring.accumulation import average_over_batches
from tfprune_init.scoring.masked_model import Arrays, MaskedModel
from tfprune_init.scoring.measures import channel_gates, gradients
from tfprune_init.scoring.measures.ablation import measure_loss_changes
from tfprune_init.scoring.measures.flow import measure_flow

# Up to so many weights the diagonal of a Hessian is affordable, one product a weight.
_AFFORDABLE = 5_000

# Whether a signal passes shows on a few examples; only where it does not, all of a batch are looked at.
_EXAMPLES_FOR_SIGNAL = 8


class ScoringEngine(MaskedModel):
    """A masked network and its measures; criteria see nothing else.

    `weights` holds the unmasked weights, `rng` is the random generator, and `mask` selects the network that is
    measured. Arrays come by variable path, in the shape of the variable. They are float32, or float64 where the
    variable is float64 or the docstring says so. Pruned positions have values too.
    """

    def gradients(self, *, fresh: bool = True, temperature: float = 1.0) -> Arrays:
        """Compute the gradient of the loss with respect to every prunable weight, at the masked weights.

        Args:
            fresh: Whether to take the next batches of the data, or those of the last call again.
            temperature: Divisor of the outputs before the loss; they must be logits.

        Raises:
            DataError: If the loss is NaN or Inf, or the labels do not suit the loss.
            ScoreError: If a gradient is NaN or Inf, or the loss does not depend on a variable at all.
            OptionError: If the temperature is not positive, or not 1 for a loss that does not take logits.
        """
        self._check_temperature(temperature)
        return average_over_batches(
            self, gradients.measure_gradients, self._paths, fresh=fresh, temperature=temperature
        )

    def hessian_product(
        self, vectors: Mapping[str, np.ndarray], *, fresh: bool = False, temperature: float = 1.0
    ) -> Arrays:
        """Multiply the Hessian of the loss, over all prunable weights together, by a vector.

        BatchNorm's batch statistics are differentiated twice too, which Keras by itself gets wrong.

        Args:
            vectors: The vector, by path.
            fresh: Whether to take the next batches of the data; those of the last call again by default.
            temperature: As in `measure_gradients`.

        Raises:
            PruningError: As `measure_gradients`.
        """
        self._check_temperature(temperature)
        given = [tf.convert_to_tensor(vectors[path]) for path in self._paths]
        return average_over_batches(
            self,
            gradients.measure_hessian_product,
            self._paths,
            fresh=fresh,
            arguments=given,
            temperature=temperature,
            within=gradients.use_second_derivatives,
        )

    def hessian_diagonal(self, estimator: str = "auto", samples: int = 1) -> Arrays:
        """Compute the second derivative of the loss with respect to each weight alone.

        Args:
            estimator: "exact" takes one Hessian product a weight; "hutchinson" is an unbiased estimate, the mean
                of v * Hv over random signs v; "auto" is exact up to 5,000 weights.
            samples: Number of random sign vectors, for the estimate.

        Raises:
            OptionError: If the estimator is unknown, or `samples` is no positive integer or has no effect.
            PruningError: As `measure_gradients`.
        """
        if estimator not in ("auto", "exact", "hutchinson"):
            raise OptionError(f'estimator must be "auto", "exact" or "hutchinson". Received: {estimator!r}.')
        samples = check_integer("samples", samples, 1)
        size = sum(weight.size for weight in self.weights.values())
        if estimator == "exact" or (estimator == "auto" and size <= _AFFORDABLE):
            if samples != 1:
                raise OptionError(f"samples has no effect on the exact diagonal. Received: samples={samples}.")
            return self._exact_diagonal()
        total = {path: np.zeros_like(weight) for path, weight in self.weights.items()}
        for i in range(samples):
            signs = {p: self.rng.choice(np.array([-1, 1], w.dtype), w.shape) for p, w in self.weights.items()}
            for path, product in self.hessian_product(signs, fresh=i == 0).items():
                total[path] += signs[path] * product / samples
        return total

    def flow(self) -> Arrays:
        """Compute |w| dR/d|w| in float64.

        R is the sum of the outputs of the network with absolute weights, for an input of ones.

        Raises:
            OptionError: If the shape of an input is unknown.
            ScoreError: If the model cannot be computed in float64.
        """
        return measure_flow(self)

    def loss_changes(self, chosen: Mapping[str, np.ndarray]) -> Arrays:
        """Measure how much the loss grows when single weights are set to zero, in float64.

        Args:
            chosen: Flat positions of the weights to try, by path.

        Raises:
            DataError: If the loss is NaN or Inf, or the labels do not suit the loss.
            ModelError: If Dropout in tf_keras would draw anew for each weight.
        """
        return measure_loss_changes(self, chosen)

    def gates(self) -> Arrays:
        """Compute dL/dc at c = 1 for a factor c on each output unit of each Dense and convolution layer.

        Returns:
            By path of the layer's kernel, an array with one entry for each unit.

        Raises:
            PruningError: As `measure_gradients`.
        """
        paths = [target.path for target in channel_gates.find_gated_variables(self)]
        return average_over_batches(
            self, channel_gates.measure_gate_derivatives, paths, fresh=True, within=channel_gates.gate_outputs
        )

    def spread(self, units: Mapping[str, np.ndarray]) -> Arrays:
        """Divide each unit's number equally among the weights of its kernel; all other weights get 0."""
        spread = {path: np.zeros_like(weight) for path, weight in self.weights.items()}
        for target in channel_gates.find_gated_variables(self):
            whole = units[target.path] / (target.size / units[target.path].size)
            others = [axis for axis in range(len(target.shape)) if axis not in target.units.outputs]
            spread[target.path] += np.expand_dims(whole, others)
        return spread

    def signal(self) -> dict[str, float] | None:
        """Measure how strongly each output of the masked network depends on its inputs.

        Returns:
            For each output the largest absolute derivative of a fixed random projection of it with respect
            to the inputs (to the embedding tables where inputs are integers): exactly 0.0 where the network
            passes no signal. None if there is no data and none can be made up, or if nothing about the inputs can
            be differentiated.
        """
        self.write_masked_weights()
        behind, x = self._behind_strings() if find_string_inputs(self.model) else ((), self.make_input())
        if x is None:
            return None
        strengths = self._measure_signal(take_examples(self.model, x, _EXAMPLES_FOR_SIGNAL), behind)
        if not all(strengths):  # a few examples may miss the only units that still answer
            strengths = self._measure_signal(x, behind)
        if not strengths:
            return None
        return dict(zip(compat.get_output_names(self.model, len(strengths)), strengths, strict=True))

    def _measure_signal(self, x: Any, behind: tuple[Any, ...]) -> list[float]:
        # Looked at once, so a graph would cost more than it saves; but replicas exchange statistics within a graph, and
        # only there can the Dropout of tf_keras be given a seed.
        if compat.is_keras3(self.model) and not self.replicas.are_several:
            return [float(strength) for strength in gradients.measure_signal(self, x, behind)]
        return [float(strength) for strength in self.trace(gradients.measure_signal, behind)(x)]

    def _behind_strings(self) -> tuple[tuple[Any, ...], Any]:
        """Cut a model that takes strings: what is behind the layers that take them, and what it gets from these."""
        x = self.make_input()
        if self._cut is None:
            return (), x
        return (self._cut.rest,), (
            make_example_input(self._cut.rest, self.rng) if x is None else self._cut.run_front(x)
        )

    @cached_property
    def _cut(self) -> StringCut | None:
        try:
            return split_at_strings(self.model)
        except ModelError:  # layers that take strings have weights
            return None

    @property
    def _paths(self) -> list[str]:
        return [target.path for target in self.targets]

    def _exact_diagonal(self) -> Arrays:
        diagonal = {path: np.zeros_like(weight) for path, weight in self.weights.items()}
        unit = {path: np.zeros_like(weight) for path, weight in self.weights.items()}
        places = [(path, i) for path, weight in self.weights.items() for i in range(weight.size)]
        for path, i in track(places, "Hessian", shown=self.show_progress):
            unit[path].flat[i] = 1
            diagonal[path].flat[i] = self.hessian_product(unit, fresh=(path, i) == places[0])[path].flat[i]
            unit[path].flat[i] = 0
        return diagonal

    def _check_temperature(self, temperature: float) -> None:
        if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not temperature > 0:
            raise OptionError(f"temperature must be a positive number. Received: temperature={temperature!r}.")
        if temperature != 1 and not self.loss.takes_logits:
            raise OptionError(
                f"temperature={temperature} divides the logits, but the loss does not take logits. Use a loss with "
                "from_logits=True on outputs without softmax, or temperature=1."
            )
