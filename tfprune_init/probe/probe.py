"""The engine: everything a criterion can ask of a masked network."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import track

from tfprune_init import kerases
from tfprune_init.errors import OptionError
from tfprune_init.probe import gates, gradients
from tfprune_init.probe.ablation import ablation
from tfprune_init.probe.averaging import average
from tfprune_init.probe.flow import flow
from tfprune_init.probe.network import Arrays, Network

# Up to so many weights the diagonal of a Hessian is affordable, one product a weight.
_AFFORDABLE = 5_000


class Probe(Network):
    """A masked network and its measures; criteria see it and nothing else.

    Its weights, unmasked, are `weights`, its random generator is `rng`, and `mask` chooses the network that is
    looked at. Arrays come by variable path, in the shape of the variable, float32 or, where the variable is
    float64 or the docstring says so, float64. Pruned positions have their value too.
    """

    def gradients(self, *, fresh: bool = True, temperature: float = 1.0) -> Arrays:
        """Gradient of the loss with respect to every prunable weight, at the masked weights.

        Args:
            fresh: Whether to take the next batches of the data, or those of the last call again.
            temperature: What outputs are divided by before the loss; they must be logits.

        Raises:
            DataError: If the loss is NaN or Inf, or the labels do not suit the loss.
            ScoreError: If a gradient is NaN or Inf, or the loss does not depend on a variable at all.
            OptionError: If the temperature is not positive, or not 1 for a loss that does not take logits.
        """
        self._check_temperature(temperature)
        return average(self, gradients.gradients, self._paths, fresh=fresh, temperature=temperature)

    def hessian_product(
        self, vectors: Mapping[str, np.ndarray], *, fresh: bool = False, temperature: float = 1.0
    ) -> Arrays:
        """Product of the loss's Hessian, over all prunable weights together, with a vector.

        BatchNorm's batch statistics are differentiated too, twice, which Keras by itself gets wrong.

        Args:
            vectors: The vector, by path.
            fresh: Whether to take the next batches of the data; those of the last call again by default.
            temperature: As in `gradients`.

        Raises:
            PruningError: As `gradients`.
        """
        self._check_temperature(temperature)
        given = [tf.convert_to_tensor(vectors[path]) for path in self._paths]
        return average(
            self,
            gradients.hessian_product,
            self._paths,
            fresh=fresh,
            arguments=given,
            temperature=temperature,
            within=gradients.twice_differentiable,
        )

    def hessian_diagonal(self, estimator: str = "auto", samples: int = 1) -> Arrays:
        """Second derivative of the loss with respect to each weight alone.

        Args:
            estimator: "exact" takes one Hessian product a weight; "hutchinson" is an unbiased estimate, the mean
                of v * Hv over random signs v; "auto" is exact up to 5,000 weights.
            samples: Number of random sign vectors, for the estimate.

        Raises:
            OptionError: If the estimator is unknown, or `samples` is no positive integer or has no effect.
            PruningError: As `gradients`.
        """
        if estimator not in ("auto", "exact", "hutchinson"):
            raise OptionError(f'estimator must be "auto", "exact" or "hutchinson". Received: {estimator!r}.')
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise OptionError(f"samples must be a positive integer. Received: samples={samples!r}.")
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
        """|w| dR/d|w|, R the summed outputs of the absolute network for an input of ones; float64.

        Raises:
            OptionError: If the shape of an input is unknown.
            ScoreError: If the model cannot be computed in float64.
        """
        return flow(self)

    def loss_changes(self, chosen: Mapping[str, np.ndarray]) -> Arrays:
        """What the loss gains when single weights are set to zero, in float64.

        Args:
            chosen: Flat positions of the weights to try, by path.

        Raises:
            DataError: If the loss is NaN or Inf, or the labels do not suit the loss.
            ModelError: If Dropout in tf_keras would draw anew for each weight.
        """
        return ablation(self, chosen)

    def gates(self) -> Arrays:
        """dL/dc at c = 1 for a factor c on each output unit of each Dense and convolution layer.

        Returns:
            By path of the layer's kernel, an array with one entry for each unit.

        Raises:
            PruningError: As `gradients`.
        """
        paths = [target.path for target in gates.gated_targets(self)]
        return average(self, gates.gate_derivatives, paths, fresh=True, within=gates.gated)

    def spread(self, units: Mapping[str, np.ndarray]) -> Arrays:
        """Each unit's number in equal parts over the weights of its kernel; 0 for all other weights."""
        spread = {path: np.zeros_like(weight) for path, weight in self.weights.items()}
        for target in gates.gated_targets(self):
            whole = units[target.path] / (target.size / units[target.path].size)
            others = [axis for axis in range(len(target.shape)) if axis not in target.units.outputs]
            spread[target.path] += np.expand_dims(whole, others)
        return spread

    def signal(self) -> dict[str, float] | None:
        """How strongly each output of the masked network answers to its inputs.

        Returns:
            For each output the largest absolute derivative of a fixed random projection of it with respect
            to the inputs (to the embedding tables where inputs are integers): exactly 0.0 where the network
            passes no signal. None if there is no data and the model has no symbolic inputs.
        """
        self.settle()
        x = self.some_input()
        if x is None:
            return None
        strengths = self.compiled(gradients.signal)(x)
        names = kerases.output_names(self.model, len(strengths))
        return {name: float(strength) for name, strength in zip(names, strengths, strict=True)}

    @property
    def _paths(self) -> list[str]:
        return [target.path for target in self.targets]

    def _exact_diagonal(self) -> Arrays:
        diagonal = {path: np.zeros_like(weight) for path, weight in self.weights.items()}
        unit = {path: np.zeros_like(weight) for path, weight in self.weights.items()}
        places = [(path, i) for path, weight in self.weights.items() for i in range(weight.size)]
        console = Console(stderr=True)
        for path, i in track(places, "Hessian", console=console, disable=not self.show_progress, transient=True):
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
