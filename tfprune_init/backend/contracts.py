"""Every private name of TensorFlow, Keras and tf_keras that this package depends on, in one table.

A private name may change in any release. Whoever uses one calls `require` first, which looks at the installed package
once and raises `BackendError` if the name is not what it was. `python -m tfprune_init.backend.contracts` checks all.
A check reads signatures and compiled code only: it makes no layer, variable or graph, so it changes nothing.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

import tensorflow as tf

from tfprune_init.errors import BackendError

KNOWN_VERSIONS = {"keras": "3.15.1", "tensorflow": "2.21.0", "tf_keras": "2.21.0"}
"""Versions for which all contracts are known to hold, by package."""


@dataclass(frozen=True)
class Contract:
    """What is expected of one private name.

    Attributes:
        owner: Where the name is: "module" or "module:Class".
        name: The name.
        parameters: Names of the parameters that calls rely on, in their order and without `self`; None if not called.
        set_in: Method or function of the owner that uses the name on an instance, mostly sets it; None for names of the
            owner itself.
        read_in: Function "module:name" that must look the name up when it runs, so that an override reaches it.
    """

    owner: str
    name: str
    parameters: tuple[str, ...] | None = None
    set_in: str | None = None
    read_in: str | None = None

    @property
    def package(self) -> str:
        """The package that the name is from."""
        return self.owner.partition(":")[0].partition(".")[0]

    @property
    def key(self) -> str:
        """What `require` calls it: package, class or last part of the module, name."""
        module, _, names = self.owner.partition(":")
        return f"{self.package} {names or module.rpartition('.')[2]}.{self.name}"

    @property
    def expected(self) -> str:
        """What is expected of the name, in words."""
        parts = [] if self.parameters is None else [f"takes ({', '.join(self.parameters)})"]
        parts += [] if self.set_in is None else [f"is used in {self.set_in}"]
        parts += [] if self.read_in is None else [f"is looked up in {self.read_in}"]
        return "; ".join(parts) or "is there"

    def find_breach(self) -> str | None:
        """Return what is not as expected; None if all is."""
        try:
            owner = _resolve(self.owner)
        except (ImportError, AttributeError) as error:
            return f"its place is gone ({error})"
        if self.set_in is not None:
            return _find_unmentioned(self.name, f"{self.owner}.{self.set_in}")
        found = getattr(owner, self.name, None)
        if found is None:
            return "it is gone"
        breach = None if self.parameters is None else _find_changed_parameters(found, self.parameters)
        return breach or (None if self.read_in is None else _find_unmentioned(self.name, self.read_in))


def _set(owner: str, *names: str, by: str = "__init__") -> list[Contract]:
    return [Contract(owner, name, set_in=by) for name in names]


def _called(owner: str, **parameters: str) -> list[Contract]:
    return [Contract(owner, name, tuple(given.split())) for name, given in parameters.items()]


_MOMENTS = ("x", "axes", "shift", "keepdims")
_LAYER = "keras.src.layers.layer:Layer"
_OPTIMIZER = "keras.src.backend.tensorflow.optimizer:TFOptimizer"
_LOSS = "keras.src.losses.loss"
_LOSS_SCALE = "keras.src.optimizers.loss_scale_optimizer:LossScaleOptimizer"
_VARIABLE = "tensorflow.python.ops.resource_variable_ops:BaseResourceVariable"
_LEGACY_LAYER = "tf_keras.src.engine.base_layer:Layer"
_LEGACY_MODEL = "tf_keras.src.engine.training:Model"
_LEGACY_NORM = "tf_keras.src.layers.normalization.batch_normalization:BatchNormalizationBase"

CONTRACTS: tuple[Contract, ...] = (
    # Layers and models of Keras 3.
    *_called(_LAYER, _flatten_layers="include_self recursive", get_config=""),
    Contract(_LAYER, "_check_quantize_args", ("mode", "compute_dtype"), read_in=f"{_LAYER}.__new__"),
    *_set(_LAYER, "_dtype_policy"),
    *_set("keras.src.layers.core.input_layer:InputLayer", "_dtype"),
    *_set("keras.src.backend.common.keras_tensor:KerasTensor", "_dtype"),
    *_set("keras.src.ops.function:Function", "_nodes_by_depth"),
    *_set("keras.src.models.sequential:Sequential", "_functional"),
    *_set("keras.src.ops.node:Node", "_keras_history", "arguments", "operation"),
    *_called("keras.src.backend.common.masking", get_keras_mask="x", set_keras_mask="x mask"),
    *_set("keras.src.backend.tensorflow.nn", "_keras_logits", by="softmax"),
    *_called("keras.src.trainers.trainer:Trainer", compile="optimizer loss", _symbolic_build="iterator data_batch"),
    *_called("keras.src.backend.tensorflow.trainer:TensorFlowTrainer", fit="x y"),
    *_set("keras.src.trainers.trainer:Trainer", "_compile_loss", "_compile_metrics", "_loss_tracker", by="compile"),
    # Losses of Keras 3.
    *_set("keras.src.losses.losses:LossFunctionWrapper", "fn", "_fn_kwargs"),
    *_set("keras.src.losses.loss:Loss", "_dtype", "reduction"),
    *_called("keras.src.losses.loss:Loss", call="y_true y_pred"),
    *_set("keras.src.trainers.compile_utils:CompileLoss", "_user_loss", "_user_loss_weights", "_flat_losses"),
    *_set("keras.src.trainers.compile_utils:CompileLoss", "_metrics"),
    Contract(_LOSS, "scale_loss_for_distribution", ("value",), read_in=f"{_LOSS}:reduce_values"),
    # Optimizers of Keras 3.
    *_called("keras.src.optimizers.base_optimizer:BaseOptimizer", apply="grads trainable_variables", build="variables"),
    *_set("keras.src.optimizers.base_optimizer:BaseOptimizer", "_trainable_variables", "_learning_rate"),
    *_set("keras.src.optimizers.adafactor:Adafactor", "_v", by="build"),
    *(
        contract
        for owner in (_OPTIMIZER, "keras.src.optimizers.base_optimizer:BaseOptimizer")
        for contract in _called(
            owner,
            _apply_weight_decay="variables",
            _backend_update_step="grads trainable_variables learning_rate",
            _overwrite_model_variables_with_average_value="trainable_variables",
            _backend_increment_gradient_accumulators="grads acc_grads",
        )
    ),
    *_called(_LOSS_SCALE, _tf_apply="grads trainable_variables", _common_apply="grads trainable_variables"),
    # Callbacks of Keras 3.
    *_set("keras.src.callbacks.callback_list:CallbackList", "_history", by="_add_default_callbacks"),
    *_set(
        "keras.src.callbacks.model_checkpoint:ModelCheckpoint", "_batches_seen_since_last_saving", "_last_batch_seen"
    ),
    *_set("keras.src.callbacks.swap_ema_weights:SwapEMAWeights", "_ema_weights_in_model"),
    # tf_keras.
    *_called(_LEGACY_LAYER, _flatten_layers="recursive include_self", get_config=""),
    *_set(_LEGACY_LAYER, "_dtype_policy", "_compute_dtype_object", by="_set_dtype_policy"),
    Contract(_LEGACY_LAYER, "_eager_losses"),
    *_set(_LEGACY_LAYER, "_keras_mask", by="_set_mask_metadata"),
    *_set(_LEGACY_LAYER, "_callable_losses"),
    *_set(_LEGACY_LAYER, "_losses", "_batch_input_shape"),
    *_set("tf_keras.src.mixed_precision.autocast_variable:AutoCastVariable", "_variable"),
    *_set("tf_keras.src.engine.keras_tensor:KerasTensor", "_type_spec"),
    *_set("tf_keras.src.engine.functional:Functional", "_nodes_by_depth", by="_init_graph_network"),
    *_called("tf_keras.src.engine.functional", has_functional_like_constructor="cls"),
    *_set("tf_keras.src.engine.node:Node", "_keras_history", "call_args", "call_kwargs"),
    *_set("tf_keras.src.backend", "_keras_logits", by="softmax"),
    *_set(_LEGACY_NORM, "fused"),
    *_set(_LEGACY_NORM, "moments", by="_no_sync_calculate_mean_and_var"),
    *_set("tf_keras.src.layers.normalization.layer_normalization:LayerNormalization", "_fused", by="build"),
    Contract(_LEGACY_NORM, "_assign_moving_average", ("variable", "value", "momentum", "inputs_size")),
    *_called(_LEGACY_MODEL, compile="optimizer loss", fit="x y"),
    *_set(_LEGACY_MODEL, "_jit_compile", "_is_compiled", "_compile_config", by="compile"),
    *_set("tf_keras.src.losses:LossFunctionWrapper", "fn", "_fn_kwargs"),
    *_set("tf_keras.src.engine.compile_utils:LossesContainer", "_user_losses", "_user_loss_weights"),
    Contract(
        "tf_keras.src.utils.losses_utils",
        "scale_loss_for_distribution",
        ("loss_value",),
        read_in="tf_keras.src.engine.compile_utils:LossesContainer.__call__",
    ),
    *_called("tf_keras.src.optimizers.optimizer:Optimizer", apply_gradients="grads_and_vars", build="var_list"),
    *_set("tf_keras.src.optimizers.optimizer:_BaseOptimizer", "_learning_rate", by="_compute_current_learning_rate"),
    *_set("tf_keras.src.optimizers.adafactor:Adafactor", "_v", by="build"),
    *(
        Contract("tf_keras.src.callbacks:Callback", f"_implements_{mode}_batch_hooks", ())
        for mode in ("train", "test", "predict")
    ),
    # TensorFlow.
    Contract("tensorflow:nn", "moments", _MOMENTS, read_in="keras.src.backend.tensorflow.nn:_compute_moments"),
    Contract("tensorflow:compat.v2.nn", "moments", _MOMENTS),
    Contract(
        "tensorflow.python.ops.gen_math_ops",
        "add_n",
        ("inputs", "name"),
        read_in="tensorflow.python.eager.backprop:_aggregate_grads",
    ),
    *_called(_VARIABLE, _restore_from_tensors="restored_tensors", assign="value use_locking name read_value"),
    *_set(_VARIABLE, "_constraint"),
    Contract("tensorflow.python.framework.ops:Graph", "seed"),
    Contract("tensorflow.python.trackable.autotrackable", "AutoTrackable"),
    Contract("tensorflow.python.eager.context:Context", "function_call_options"),
    *_called("tensorflow.python.eager.context", context="", FunctionCallOptions="executor_type config_proto"),
    Contract(
        "tensorflow.python.eager.polymorphic_function.polymorphic_function:Function",
        "_run_functions_eagerly",
        read_in="tensorflow.python.eager.polymorphic_function.polymorphic_function:Function.__call__",
    ),
    *_set("tensorflow.python.distribute.values:PerReplicaSpec", "_value_specs"),
    *_called("tensorflow.python.distribute.merge_call_interim", strategy_supports_no_merge_call=""),
)

_BY_KEY = {contract.key: contract for contract in CONTRACTS}
_checked: set[str] = set()


# Functions that are being traced call these, and AutoGraph cannot convert what imports.
@tf.autograph.experimental.do_not_convert
def require(*keys: str) -> None:
    """Check contracts, each once in a process.

    Args:
        *keys: Keys of contracts, such as "keras Layer._flatten_layers".

    Raises:
        BackendError: If a name is gone or is not what it was.
    """
    for key in keys:
        if key not in _checked:
            check(_BY_KEY[key])
            _checked.add(key)


@tf.autograph.experimental.do_not_convert
def find_private(key: str) -> tuple[Any, str]:
    """Return the module or class that has a private name, and the name.

    Raises:
        BackendError: As `require`.
    """
    require(key)
    contract = _BY_KEY[key]
    return _resolve(contract.owner), contract.name


@tf.autograph.experimental.do_not_convert
def get_private(key: str) -> Any:
    """Return what a contract is about: the function or class of that name.

    Raises:
        BackendError: As `require`.
    """
    owner, name = find_private(key)
    return getattr(owner, name)


def check(contract: Contract) -> None:
    """Compare one private name with what is expected of it.

    Raises:
        BackendError: If they differ. Names the installed version and the version that is known to hold.
    """
    breach = contract.find_breach()
    if breach is not None:
        package = contract.package
        known = KNOWN_VERSIONS.get(package, "none")
        raise BackendError(
            f"{contract.name} of {contract.owner} is not what tfprune_init needs: {breach}. Expected: it "
            f"{contract.expected}. Received: {package} {get_version(package)}; known to hold: {package} {known}. "
            f"Try: pip install {package}=={known}, or a newer tfprune_init."
        )


def get_version(package: str) -> str:
    """Return the installed version of a package; "not installed" if it cannot be imported."""
    try:
        return str(getattr(importlib.import_module(package), "__version__", "of unknown version"))
    except ImportError:
        return "not installed"


def _resolve(path: str) -> Any:
    """Return the module "module", or what is at "module:Class.name"."""
    module, _, names = path.partition(":")
    found: Any = importlib.import_module(module)
    for name in filter(None, names.split(".")):
        found = getattr(found, name)
    return found


def _find_changed_parameters(function: Any, expected: tuple[str, ...]) -> str | None:
    try:
        given = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        return f"its signature cannot be read ({error})"
    named = [p for p in given if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name != "self"]
    names = tuple(parameter.name for parameter in named)
    required = [parameter.name for parameter in named[len(expected) :] if parameter.default is parameter.empty]
    return f"it takes ({', '.join(names)})" if names[: len(expected)] != expected or required else None


def _find_unmentioned(name: str, path: str) -> str | None:
    if ":" not in path:
        module, _, function = path.rpartition(".")
        path = f"{module}:{function}"
    try:
        user = _resolve(path)
    except (ImportError, AttributeError) as error:
        return f"{path} is gone ({error})"
    code = getattr(inspect.unwrap(user), "__code__", None)
    if code is None or name not in {mentioned for part in _walk_code(code) for mentioned in part.co_names}:
        return f"{path} does not use it"
    return None


def _walk_code(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _walk_code(constant)


def main(contracts: Iterable[Contract] = CONTRACTS) -> int:
    """Check all contracts and print a table of them; return 1 if one fails, 0 otherwise."""
    breaches = [(contract, contract.find_breach()) for contract in contracts]
    for package, known in KNOWN_VERSIONS.items():
        sys.stdout.write(f"{package} {get_version(package)} (known to hold: {known})\n")
    for contract, breach in breaches:
        state = "holds " if breach is None else "FAILS "
        sys.stdout.write(f"{state} {contract.key:60} {contract.expected if breach is None else breach}\n")
    failed = sum(breach is not None for _, breach in breaches)
    sys.stdout.write(f"{len(breaches) - failed} of {len(breaches)} contracts hold\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
