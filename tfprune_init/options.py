"""One table of the options that `prune_at_init`, `find_masks`, `score`, the command line and TOML files share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: What it is called, in Python, on the command line (with dashes) and in TOML.
        help: What it says, in one line.
        default: Its default; None leaves the choice to the method.
        applies_to: "search" (how masks are selected), "engine" (how the network is looked at), or "call" (all else).
        parse: Function of name and value that returns the value or raises OptionError; None for no check here.
        choices: The values, where they are few.
        flag: Whether it has a flag on the command line.
    """

    name: str
    help: str
    default: Any
    applies_to: str
    parse: Callable[[str, Any], Any] | None = None
    choices: tuple[str, ...] = ()
    flag: bool = True

    def check(self, value: Any) -> Any:
        """Return the value, if the option takes it.

        Raises:
            OptionError: If it does not.

        Example:
            >>> from tfprune_init.options import OPTIONS
            >>> OPTIONS["batches"].check(0)
            Traceback (most recent call last):
            tfprune_init.errors.OptionError: batches must be a positive integer. Received: batches=0.
        """
        if self.choices and value not in self.choices:
            raise OptionError(f"{self.name} must be one of {self.choices}, or None. Received: {self.name}={value!r}.")
        return value if self.parse is None else self.parse(self.name, value)


def _check_positive(name: str, value: Any) -> int:
    return check_integer(name, value, 1)


def _check_seed(name: str, value: Any) -> int:
    return check_integer(name, value, 0)


def _check_truth(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise OptionError(f"{name} must be True or False. Received: {name}={value!r}.")
    return bool(value)


OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        Option(
            "loss",
            "the loss that judges the outputs; the compiled one by default",
            None,
            "engine",
        ),
        Option(
            "batches",
            "batches that each gradient is averaged over",
            None,
            "engine",
            _check_positive,
        ),
        Option("training", "score as in training, or as in prediction", None, "engine", _check_truth),
        Option("seed", "seed of everything random", 0, "engine", _check_seed),
        Option(
            "jit_compile",
            "compile the gradient step with XLA",
            False,
            "engine",
            _check_truth,
            flag=False,
        ),
        Option("steps", "steps, for iterative methods", None, "search", _check_positive),
        Option(
            "schedule",
            "density at each step: exponential, linear, halving, one_shot",
            None,
            "search",
        ),
        Option(
            "granularity",
            "what is kept or pruned as one: weights, block, n_m, channel, units, tflite",
            None,
            "search",
        ),
        Option(
            "allocation",
            "how the budget is shared out among layers: global, uniform, er, erk, balanced",
            None,
            "search",
        ),
        Option(
            "normalize",
            "divide each variable's scores by this before they compete",
            None,
            "search",
            choices=("l2", "sum"),
        ),
        Option(
            "shuffle",
            "keep each layer's density and move what is kept to random places",
            False,
            "search",
            _check_truth,
        ),
        Option(
            "avoid_layer_collapse",
            "spare layers that a step would cut off, or prune as the scores say; for synflow",
            None,
            "search",
            _check_truth,
        ),
        Option(
            "on_collapse",
            "what a collapsed network is: an error (raise), or a warning (warn)",
            "raise",
            "search",
            choices=("raise", "warn"),
        ),
        Option(
            "exclude",
            "layers or variables to exclude from pruning (names or glob patterns)",
            None,
            "call",
        ),
        Option("prune_bias", "prune biases too", False, "call", _check_truth),
    )
}


def get_defaults(applies_to: str) -> dict[str, Any]:
    """Return the defaults of the options that apply to the "search", the "engine" or the "call".

    Example:
        >>> from tfprune_init.options import get_defaults
        >>> get_defaults("call")
        {'exclude': None, 'prune_bias': False}
    """
    return {name: option.default for name, option in OPTIONS.items() if option.applies_to == applies_to}
