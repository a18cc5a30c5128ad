"""What decisions cost: multiply-adds of each example, and a loss that holds their mean to a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.checks import check_number
from tfprune_init.errors import OptionError


@dataclass(frozen=True)
class CostTerm:
    """The multiply-adds of one kernel.

    Attributes:
        kernel: Its path.
        multiply_adds: For one example, with all channels open.
        taken: Number of the decisions on the channels that it takes; None where all are open.
        made: Number of the decisions on the channels that it makes; None where all are open.
        groups: Groups of a convolution: a channel that is made takes those of its group.
    """

    kernel: str
    multiply_adds: int
    taken: int | None = None
    made: int | None = None
    groups: int = 1

    def compute_share(self, decisions: Sequence[tf.Tensor]) -> tf.Tensor | None:
        """Compute the share of its multiply-adds that is left, for each example; None for all.

        Args:
            decisions: Tensors of shape (examples, channels).
        """
        sides = [self._average(decisions[one]) for one in (self.taken, self.made) if one is not None]
        if not sides:
            return None
        return tf.reduce_mean(sides[0] if len(sides) == 1 else sides[0] * sides[1], axis=1)

    def count(self, decisions: Sequence[np.ndarray]) -> np.ndarray | int:
        """Count the multiply-adds that are left, for each example: int64, exact.

        Args:
            decisions: Arrays of 0 and 1 of shape (examples, channels).
        """
        product: Any = 1
        size = self.groups
        for array in (decisions[one] for one in (self.taken, self.made) if one is not None):
            grouped = array.reshape(len(array), self.groups, -1)
            product = product * grouped.astype(np.int64).sum(axis=2)
            size *= grouped.shape[2]
        if isinstance(product, int):
            return self.multiply_adds
        return np.asarray(self.multiply_adds * product.sum(axis=1) // size, np.int64)

    def _average(self, decisions: tf.Tensor) -> tf.Tensor:
        shape = [tf.shape(decisions)[0], self.groups, decisions.shape[1] // self.groups]
        return tf.reduce_mean(tf.reshape(decisions, shape), axis=2)


@keras.saving.register_keras_serializable(package="tfprune_init")
class DecisionCost(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Add a loss for what decisions cost: strength * (C - budget)^2, where C is the mean share of multiply-adds.

    A layer costs, for an example, its multiply-adds * open share of the channels it takes * open share of those it
    makes. C is the sum of that over layers, divided by the sum with all channels open, and averaged over the batch.

    Called on a list: the output of the network, which it returns, then the decisions. `tpi.insert_saliency` puts it
    behind a network.

    Args:
        terms: What is counted: `CostTerm`s, or dicts of what they hold.
        strength: The factor of the loss, from 0.
        budget: What C is to be, in (0, 1]. A variable: `layer.budget.assign(0.5)`, or `tpi.BudgetSchedule`.
        left_alone: Why convolutions that have no decisions have none, by name.
        **kwargs: Usual layer arguments.

    Attributes:
        budget: Variable: what C is to be.

    Raises:
        OptionError: If there is nothing to count, or an option is out of range.

    Example:
        >>> import numpy as np, tfprune_init as tpi
        >>> from tfprune_init.layers import CostTerm
        >>> terms = [CostTerm("one/kernel", 100, made=0), CostTerm("two/kernel", 200, taken=0, made=1)]
        >>> layer = tpi.layers.DecisionCost(terms, strength=2.0, budget=0.3)
        >>> opened = [np.array([[1.0, 1, 0, 0]]), np.array([[1.0, 1, 1, 0]])]
        >>> outputs = layer([np.zeros((1, 10)), *opened])
        >>> layer.compute_shares(opened).numpy().round(6).tolist(), [round(float(loss), 6) for loss in layer.losses]
        ([0.416667], [0.027222])
    """

    def __init__(
        self,
        terms: Sequence[CostTerm | Mapping[str, Any]],
        strength: float = 1.0,
        budget: float = 1.0,
        left_alone: Mapping[str, str] | None = None,
        **kwargs: Any,
    ):
        # What it returns keeps its dtype.
        super().__init__(**{"autocast": False, **kwargs})
        self.terms = tuple(one if isinstance(one, CostTerm) else CostTerm(**one) for one in terms)
        if sum(term.multiply_adds for term in self.terms) <= 0:
            raise OptionError(f"terms must count multiply-adds. Received: terms={self.terms!r}.")
        self.strength = check_number("strength", strength, "a number of at least 0", lambda given: given >= 0)
        self.initial_budget = check_budget(budget)
        self.left_alone = dict(left_alone or {})

    @property
    def dense_multiply_adds(self) -> int:
        """Multiply-adds of one example with all channels open."""
        return sum(term.multiply_adds for term in self.terms)

    def build(self, input_shape: Any) -> None:
        """Make the variable."""
        self.budget = compat.add_state(self, "budget", (), "float32", self.initial_budget)
        self.built = True

    def compute_shares(self, decisions: Sequence[Any]) -> Any:
        """Compute the share of the multiply-adds that each example costs, of shape (examples,).

        Args:
            decisions: Tensors of shape (examples, channels), in the order of the layer's inputs.
        """
        tensors = [tf.convert_to_tensor(one) for one in decisions]
        dense = self.dense_multiply_adds
        total = tf.zeros(tf.shape(tensors[0])[:1], tensors[0].dtype)
        for term in self.terms:
            share = term.compute_share(tensors)
            total += term.multiply_adds / dense * (1.0 if share is None else share)
        return total

    def call(self, inputs: Any) -> Any:
        """Return the first input, and add the loss of the others."""
        outputs, *decisions = inputs
        shares = self.compute_shares([tf.cast(one, self.variable_dtype) for one in decisions])
        excess = tf.reduce_mean(shares) - tf.cast(self.budget, shares.dtype)
        self.add_loss(self.strength * excess**2)
        return outputs

    def compute_output_spec(self, inputs: Any) -> Any:
        """Return shape and dtype of the first input."""
        return keras.KerasTensor(inputs[0].shape, inputs[0].dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration of the layer."""
        own = {"strength": self.strength, "budget": self.initial_budget, "left_alone": dict(self.left_alone)}
        return {**super().get_config(), "terms": [asdict(term) for term in self.terms], **own}


def check_budget(budget: Any) -> float:
    """Return a budget, the mean share of multiply-adds that an example may cost.

    Raises:
        OptionError: If it is not in (0, 1].
    """
    return check_number("budget", budget, "a number in (0, 1]", lambda given: 0 < given <= 1)
