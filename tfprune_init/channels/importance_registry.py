"""The register of importances, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from tfprune_init.registry import Registry

ImportanceFunction = Callable[..., dict[str, np.ndarray]]


@dataclass(frozen=True)
class Importance:
    """A way to judge channels.

    Attributes:
        name: Its name.
        judge: Function from a `ChannelNetwork`, and its own options, to one number for each channel, higher = keep:
            by path of a kernel for each column of its matrix view, or of another variable for each index of its
            channel axis. Channels that it gives no number stay.
        uses_gradients: Whether it asks the network's engine for derivatives of the loss, and so needs data.
        own_options: Its options, with their defaults: the keyword-only parameters of `judge`.
    """

    name: str
    judge: ImportanceFunction
    uses_gradients: bool
    own_options: Mapping[str, Any]

    @property
    def summary(self) -> str:
        """What it takes for important: the first line of its docstring."""
        return (inspect.getdoc(self.judge) or "").partition("\n")[0]


IMPORTANCES: Registry[Importance] = Registry("importance")


def register_importance(
    name: str, *, uses_gradients: bool = False
) -> Callable[[ImportanceFunction], ImportanceFunction]:
    """Register a function of a `ChannelNetwork` as an importance. A decorator.

    Keyword-only parameters of the function become options of `find_channels`.

    Args:
        name: Name of the importance.
        uses_gradients: Whether it asks `network.engine` for derivatives of the loss.

    Raises:
        OptionError: If the name is taken.

    Example:
        >>> import numpy as np
        >>> from tfprune_init.channels import IMPORTANCES, register_importance
        >>> @register_importance("largest_weight")
        ... def find_largest_weights(network):
        ...     return {path: np.abs(network.get_columns(path)).max(axis=0) for path in network.kernels}
        >>> IMPORTANCES.pop("largest_weight").uses_gradients
        False
    """

    def register(judge: ImportanceFunction) -> ImportanceFunction:
        parameters = inspect.signature(judge).parameters.values()
        own = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
        IMPORTANCES.register(name, Importance(name, judge, uses_gradients, MappingProxyType(own)))
        return judge

    return register
