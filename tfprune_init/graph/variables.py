"""Which variables of a model are prunable, and why the others are not."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf

from tfprune_init.backend import compat
from tfprune_init.backend.derived_weights import find_derived_weight
from tfprune_init.backend.protocols import Layer, Model, Variable
from tfprune_init.checks import suggest
from tfprune_init.errors import ModelError, OptionError
from tfprune_init.graph.kernel_axes import KernelAxes, find_channel_axis, find_kernel_axes

_KERNEL_LAYERS = frozenset(
    ["Dense", "EinsumDense", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"]
    + [f"Conv{n}D{suffix}" for n in (1, 2, 3) for suffix in ("", "Transpose")]
    + ["SimpleRNNCell", "LSTMCell", "GRUCell", "ConvLSTMCell"]
)
_KERNELS = frozenset(["kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel"])
NORMALIZATIONS = frozenset(
    f"{kind}Normalization" for kind in ("Batch", "Layer", "Group", "RMS", "Unit", "Spectral", "")
)

# The reason of a variable that is skipped because the caller said so.
EXCLUDED = "excluded"


@dataclass(frozen=True, eq=False)
class ModelVariable:
    """One prunable variable.

    Attributes:
        path: Name of the variable, `layer/variable`, unique in the model and the same under both Keras versions.
        variable: The Keras variable.
        layer: The layer that created it.
        equation: The layer's einsum equation, if it has one.
    """

    path: str
    variable: Variable
    layer: Any
    equation: str | None = None

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the variable; of its value where the shape may change, as of what a layer is still adapted to."""
        shape = tuple(self.variable.shape)
        return tuple(self.tensor.read_value().shape) if None in shape else shape

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def tensor(self) -> tf.Variable:
        """The tf.Variable that holds the value."""
        return compat.get_tf_variable(self.variable)

    @property
    def effective(self) -> Any:
        """The weight that the layer computes with: `tensor`, or what the layer derives from it, as with LoRA."""
        derived = find_derived_weight(self.layer, self.variable)
        return self.tensor if derived is None else tf.convert_to_tensor(derived)

    @cached_property
    def units(self) -> KernelAxes:
        """Axes of the input units and of the output units."""
        return find_kernel_axes(compat.get_class_names(self.layer), self.name, len(self.shape), self.equation)

    @cached_property
    def channel_axis(self) -> int | None:
        """Axis of the layer's output that runs over this kernel's units; None where it has no units."""
        return find_channel_axis(
            compat.get_class_names(self.layer), self.name, getattr(self.layer, "data_format", None)
        )


@dataclass(frozen=True)
class SkippedVariable:
    """One variable that is not pruned, with its reason."""

    path: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class PrunableVariables:
    """The prunable variables of a model in their fixed order, and the others with their reasons."""

    prunable: tuple[ModelVariable, ...]
    skipped: tuple[SkippedVariable, ...]

    @property
    def size(self) -> int:
        """Number of prunable weights."""
        return sum(target.size for target in self.prunable)


Exclusion = str | Callable[[ModelVariable], bool]


def find_prunable_variables(
    model: Model, *, exclude: Exclusion | Iterable[Exclusion] | None = None, prune_bias: bool = False
) -> PrunableVariables:
    """Find the prunable variables of a model.

    Prunable are the kernels of Dense, EinsumDense (so attention), Conv, ConvTranspose, DepthwiseConv,
    SeparableConv and recurrent cells, and whatever a custom layer returns from `get_prunable_weights()`.

    Args:
        model: A built model, Keras 3 or tf_keras. Shared layers count once.
        exclude: What not to prune: a path or layer name, a glob pattern ("head/*"), a predicate that
            takes a `ModelVariable`, or several of these.
        prune_bias: Whether the biases of those layers are prunable too.

    Returns:
        Targets, in the order the model tracks its layers.

    Raises:
        ModelError: If nothing is left to prune.
        OptionError: If an exclusion or `prune_bias` has no effect.

    Example:
        >>> import keras
        >>> from tfprune_init.graph.variables import find_prunable_variables
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
        >>> [target.path for target in find_prunable_variables(model).prunable]
        ['head/kernel']
    """
    compat.check_model(model)
    given = [exclude] if isinstance(exclude, str) or callable(exclude) else list(exclude or [])
    used = [False] * len(given)
    trainable = {id(v) for v in model.trainable_variables}
    prunable: list[ModelVariable] = []
    skipped: list[SkippedVariable] = []
    candidates: list[str] = []
    biases = 0
    for target in list_variables(model):
        reason = _reason_to_skip(target, trainable, prune_bias)
        if reason is None:
            candidates.append(target.path)
            hits = [i for i, one in enumerate(given) if _matches(one, target)]
            for i in hits:
                used[i] = True
            if hits:
                reason = EXCLUDED
            elif target.name == "bias":
                biases += 1
        if reason is None:
            prunable.append(target)
        else:
            skipped.append(SkippedVariable(target.path, target.shape, reason))
    for one, hit in zip(given, used, strict=True):
        if not hit:
            raise OptionError(_unmatched(one, candidates))
    if not prunable:
        reasons = "; ".join(f"{s.path}: {s.reason}" for s in skipped[:8])
        raise ModelError(f"Model {model.name!r} has no prunable variable. Received: {reasons or 'no variables'}.")
    if prune_bias and not biases:
        raise OptionError(f"prune_bias=True has no effect on model {model.name!r}: no prunable layer of it has a bias.")
    return PrunableVariables(tuple(prunable), tuple(skipped))


def list_variables(model: Layer) -> list[ModelVariable]:
    """Every variable of a model under its unique path, each once, in the order the model tracks its layers."""
    found: list[ModelVariable] = []
    seen: set[int] = set()
    names: dict[str, int] = {}

    def visit(layer: Layer, prefix: str) -> None:
        seen.add(id(layer))
        for variable in compat.get_own_variables(layer):
            if id(variable) not in seen:
                seen.add(id(variable))
                path = _unique(prefix + compat.get_variable_name(layer, variable), names)
                found.append(ModelVariable(path, variable, layer, getattr(layer, "equation", None)))
        for child in compat.get_sublayers(layer):
            if id(child) not in seen:
                # A wrapper that only carries masks leaves no mark, so masks fit wrapped and plain models alike.
                carries = getattr(child, "carries_masks", False)
                visit(child, prefix if carries else _unique(prefix + child.name, names) + "/")

    visit(model, "")
    return found


def _unique(name: str, names: dict[str, int]) -> str:
    """Return the name itself, or with #2, #3, ... when a sibling already has it."""
    names[name] = names.get(name, 0) + 1
    return name if names[name] == 1 else f"{name}#{names[name]}"


def _reason_to_skip(target: ModelVariable, trainable: set[int], prune_bias: bool) -> str | None:
    classes = compat.get_class_names(target.layer)
    kind = type(target.layer).__name__
    if not tf.as_dtype(target.tensor.dtype).is_floating:
        return "integer variable (a state, or quantized)"
    if classes & NORMALIZATIONS:
        return f"normalization ({kind})"
    if id(target.variable) not in trainable:
        return "not trainable"
    if _chosen_by_layer(target):
        return None
    if "Embedding" in classes:
        return "embedding table"
    if not classes & _KERNEL_LAYERS:
        return f"{kind} is not known to be prunable; give it get_prunable_weights()"
    if target.name == "bias":
        return None if prune_bias else "bias (prune_bias=True prunes it)"
    return None if target.name in _KERNELS else f"{kind}.{target.name} is not a kernel"


def _chosen_by_layer(target: ModelVariable) -> bool:
    choose = getattr(target.layer, "get_prunable_weights", None)
    return choose is not None and any(target.variable is weight for weight in choose())


def _matches(one: Exclusion, target: ModelVariable) -> bool:
    if callable(one):
        return bool(one(target))
    return is_named_by(target.path, one)


def is_named_by(path: str, pattern: str) -> bool:
    """Return whether a glob pattern names a variable: its path, a layer that it is in, or the path of such a layer.

    Example:
        >>> from tfprune_init.graph.variables import is_named_by
        >>> is_named_by("encoder/block_1/kernel", "block*"), is_named_by("head/kernel", "he")
        (True, False)
    """
    layers = path.split("/")[:-1]
    prefixes = ["/".join(layers[: i + 1]) for i in range(len(layers))]
    return any(fnmatch.fnmatchcase(name, pattern) for name in [path, *prefixes, *layers])


def _unmatched(one: Exclusion, paths: list[str]) -> str:
    if callable(one):
        return (
            f"exclude= has a predicate that is true for no prunable variable, so it has no effect. Received: {one!r}."
        )
    names = sorted({part for path in paths for part in [path, *path.split("/")[:-1]]})
    return f"exclude={one!r} matches no prunable variable. {suggest(one, names)}"
