"""All differences between Keras 3 and tf_keras that this package meets, in one place.

Other packages speak of models, layers and variables without asking which Keras they belong to.
tf_keras is never imported here: a model of it can only exist once its user has imported it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfprune_init.backend.contracts import require
from tfprune_init.errors import ModelError

# Attributes that calls, fit and attached masks change, and on which no output of a layer depends.
_CHANGED_BY_TRAINING = re.compile(
    "compile|fit|get_config|_check_quantize_args|enable_lora|history|stop_(training|evaluating|predicting)|(train|train_tf|test|predict)_function"
    "|_called|_eval_epoch_iterator|_(recurrent_)?dropout_mask|_self_unconditional_.*|.*_constraint|_tfprune_.*"
)


def is_keras3(obj: Any) -> bool:
    """Whether `obj` is a layer or model of Keras 3."""
    return isinstance(obj, keras.layers.Layer)


def get_keras(model: Any) -> Any:
    """Return the Keras package a model belongs to."""
    return keras if is_keras3(model) else _tf_keras()


def _tf_keras() -> Any:
    return sys.modules.get("tf_keras")


def is_layer(obj: Any) -> bool:
    """Whether `obj` is a layer or model of either Keras."""
    legacy = _tf_keras()
    return is_keras3(obj) or (legacy is not None and isinstance(obj, legacy.layers.Layer))


def is_model(obj: Any) -> bool:
    """Whether `obj` is a model of either Keras."""
    legacy = _tf_keras()
    return isinstance(obj, keras.Model) or (legacy is not None and isinstance(obj, legacy.Model))


def get_loss_settings(obj: Any) -> dict[str, Any] | None:
    """All that tells losses of Keras's own classes apart; None for anything else."""
    package, *modules = type(obj).__module__.split(".")
    if package not in ("keras", "tf_keras") or "losses" not in modules or not is_function_loss(obj):
        return None
    require(f"{package} LossFunctionWrapper.fn")
    names = ("fn", "_fn_kwargs", "reduction", "_dtype")
    return {name: getattr(obj, name, None) for name in names}


def is_function_loss(obj: Any) -> bool:
    """Whether `obj` is a loss of either Keras that calls a function with fixed keyword arguments, `_fn_kwargs`."""
    if "LossFunctionWrapper" not in get_class_names(obj):
        return False
    require(f"{'keras' if isinstance(obj, keras.losses.Loss) else 'tf_keras'} LossFunctionWrapper._fn_kwargs")
    return True


def is_named_policy(obj: Any) -> bool:
    """Whether `obj` is a dtype policy of either Keras that is all told by its name."""
    legacy = _tf_keras()
    return type(obj) is keras.DTypePolicy or (legacy is not None and type(obj) is legacy.mixed_precision.Policy)


def check_model(model: Any) -> None:
    """Refuse what is not a built Keras model on the TensorFlow backend.

    Raises:
        ModelError: If `model` is no model, is not built, or runs on another Keras backend.
    """
    if not is_model(model):
        raise ModelError(
            "A keras.Model (Keras 3) or tf_keras.Model is needed. "
            f"Received: {type(model).__module__}.{type(model).__qualname__}."
        )
    if is_keras3(model) and keras.backend.backend() != "tensorflow":
        raise ModelError(
            "Keras must run on the TensorFlow backend: set KERAS_BACKEND=tensorflow before the first "
            f"import of keras. Received: backend {keras.backend.backend()!r}."
        )
    if not model.built or not get_variables(model):
        raise ModelError(
            f"Model {model.name!r} is not built, so it has no weights to score. Call it once on a batch, "
            "call model.build(input_shape), or start it with an Input. Received: an unbuilt model."
        )


def get_class_names(layer: Any) -> frozenset[str]:
    """Names of the layer's own class and of all its bases that Keras or tf_keras defines."""
    return frozenset(
        base.__name__ for base in type(layer).__mro__ if base.__module__.split(".")[0] in ("keras", "tf_keras")
    )


def get_sublayers(layer: Any) -> list[Any]:
    """Layers that `layer` holds directly, in the order they were tracked."""
    require(f"{get_package_name(layer)} Layer._flatten_layers")
    return list(layer._flatten_layers(include_self=False, recursive=False))


def walk_layers(layer: Any) -> Iterator[Any]:
    """Every layer inside `layer`, depth first, each once."""
    seen: set[int] = set()
    stack = get_sublayers(layer)[::-1]
    while stack:
        child = stack.pop()
        if id(child) not in seen:
            seen.add(id(child))
            yield child
            stack.extend(get_sublayers(child)[::-1])


def walk_layer_attributes(model: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Return the model and every layer in it, each with those of its attributes that may decide what it computes."""
    for layer in [model, *walk_layers(model)]:
        own = sorted(vars(layer).items())
        yield layer, {name: value for name, value in own if not _CHANGED_BY_TRAINING.fullmatch(name)}


def get_own_variables(layer: Any) -> list[Any]:
    """Variables created by `layer` itself, not by a layer inside it."""
    inner = {id(v) for child in get_sublayers(layer) for v in child.variables}
    return [v for v in get_variables(layer) if id(v) not in inner]


def get_variables(layer: Any) -> list[Any]:
    """Variables of `layer` and of all layers inside; not the vocabularies that tf_keras lists among them.

    Operations of Keras 3 that are no layers have none.
    """
    return [v for v in getattr(layer, "variables", []) if hasattr(v, "assign")]


def get_variable_name(layer: Any, variable: Any) -> str:
    """Last part of the variable's path, the same under both Keras versions."""
    name = variable.name.split("/")[-1].split(":")[0]
    # tf_keras calls the one kernel of DepthwiseConv `depthwise_kernel`; SeparableConv has two.
    if name == "depthwise_kernel" and "SeparableConv" not in "".join(get_class_names(layer)):
        return "kernel"
    return name


def get_tf_variable(variable: Any) -> tf.Variable:
    """Return the tf.Variable that holds a Keras variable's value."""
    if isinstance(variable, keras.Variable):
        return variable.value
    # tf_keras hides the variables of layers with mixed precision behind one that casts when it is read.
    casts = any(base.__name__ == "AutoCastVariable" for base in type(variable).__mro__)
    if casts:
        require("tf_keras AutoCastVariable._variable")
        return variable._variable
    return variable


def add_state(layer: Any, name: str, shape: tuple[int, ...], dtype: str, value: float = 0) -> Any:
    """Give a layer a variable that no optimizer moves, of one dtype under mixed precision too.

    Where replicas train together, floats are the mean of theirs, and integers those of the first one.

    Args:
        layer: The layer that keeps it, in its `build`.
        name: What it is called.
        shape: Its shape.
        dtype: Its dtype, such as "float32".
        value: What it is filled with.
    """

    def fill(shape: Any, dtype: Any = None, **kwargs: Any) -> tf.Tensor:
        return tf.fill(tuple(shape), tf.cast(value, dtype))

    if is_keras3(layer):
        options: dict[str, Any] = {"autocast": False}
    else:
        mean, first = tf.VariableAggregation.MEAN, tf.VariableAggregation.ONLY_FIRST_REPLICA
        options = {
            "experimental_autocast": False,
            "synchronization": tf.VariableSynchronization.ON_READ,
            "aggregation": mean if tf.as_dtype(dtype).is_floating else first,
        }
    return layer.add_weight(name=name, shape=shape, dtype=dtype, initializer=fill, trainable=False, **options)


def set_constraint(variable: Any, constraint: Any) -> None:
    """Put a constraint on a variable, after it was built."""
    if isinstance(variable, keras.Variable):
        variable.constraint = constraint
        return
    require("tensorflow BaseResourceVariable._constraint")
    for replica in get_replica_variables(variable):
        replica._constraint = constraint


def get_replica_variables(variable: Any) -> list[tf.Variable]:
    """Return the tf.Variables that hold a variable's value: itself, and its copy on each replica."""
    holder = get_tf_variable(variable)
    copies = get_local_copies(holder)
    return [holder, *(copy for copy in copies if copy is not holder)]


def get_local_copies(holder: tf.Variable) -> list[tf.Variable]:
    """Return the copies of a tf.Variable on the replicas of this process; itself where it has none."""
    return list(holder.values) if isinstance(holder, tf.distribute.DistributedValues) else [holder]


def get_metric_variables(model: Any) -> list[Any]:
    """Variables of the metrics of a model; none of a layer or a model of tf_keras that is not compiled."""
    known = is_model(model) and (is_keras3(model) or is_compiled(model))
    return [variable for metric in model.metrics for variable in metric.variables] if known else []


def find_seed_states(model: Any) -> list[tf.Variable]:
    """States of the model's own random number generators (Keras 3 keeps them as variables)."""
    return [get_tf_variable(v) for v in get_variables(model) if get_variable_name(model, v) == "seed_generator_state"]


def call_model(model: Any, x: Any, training: bool) -> Any:
    """Forward pass, with `training` only where the model takes it."""
    x = _arrange(model, x)
    if "training" in inspect.signature(model.call).parameters or is_symbolic(model):
        return model(x, training=training)
    return model(x)


def _arrange(model: Any, x: Any) -> Any:
    """Arrange the one input of a Keras 3 model as it was declared, in a dict or not: Keras would warn of the other."""
    if not (is_keras3(model) and is_symbolic(model)) or len(model.inputs) != 1 or len(tf.nest.flatten(x)) == 0:
        return x
    if "call" in find_overridden_methods(model):
        return x
    declared = model.inputs[0] if "Sequential" in get_class_names(model) else model.input
    if isinstance(x, dict) and not isinstance(declared, dict):
        return x.get(model.inputs[0].name, x)
    if isinstance(declared, dict) and not isinstance(x, dict):
        return dict.fromkeys(declared, tf.nest.flatten(x)[0])
    return x[0] if isinstance(x, (list, tuple)) and len(x) == 1 and not isinstance(declared, (list, tuple)) else x


def is_symbolic(model: Any) -> bool:
    """Whether the model is a graph of layers (Sequential or functional), with symbolic inputs."""
    return getattr(model, "inputs", None) is not None and bool(get_class_names(model) & {"Functional", "Sequential"})


def get_output_names(model: Any, count: int) -> list[str]:
    """Return a name for each of the model's outputs."""
    names = getattr(model, "output_names", None)
    return list(names) if names and len(names) == count else [f"output_{i}" for i in range(count)]


def uses_float16(model: Any) -> bool:
    """Whether some layer computes in float16, whose gradients underflow without loss scaling."""
    return any(getattr(layer, "compute_dtype", None) == "float16" for layer in [model, *walk_layers(model)])


def seed_graph(seed: int) -> None:
    """Give the ops of the function being traced a fixed seed: tf_keras draws Dropout masks from it."""
    if not tf.executing_eagerly():
        require("tensorflow Graph.seed")
        tf.compat.v1.get_default_graph().seed = seed


def is_compiled(model: Any) -> bool:
    """Whether the model has an optimizer, and with it a loss."""
    return getattr(model, "optimizer", None) is not None


def set_random_seed(seed: int) -> None:
    """Seed everything that both Keras versions, NumPy, TensorFlow and Python draw from."""
    legacy = _tf_keras()
    if legacy is not None:
        legacy.utils.set_random_seed(seed)
    keras.utils.set_random_seed(seed)


def reset_train_function(model: Any) -> None:
    """Make the next fit build its training step anew, so that what was attached since takes part."""
    model.train_function = None
    if not is_keras3(model):
        model.train_tf_function = None


def reset_functions(model: Any) -> None:
    """Make the next fit and the next evaluation build their steps anew, as the loss of the model has changed."""
    reset_train_function(model)
    model.test_function = None


def copy_batch_input_shape(source: Any, target: Any) -> None:
    """Give a tf_keras layer the input shape by which a Sequential model knows another one, where that has one."""
    require("tf_keras Layer._batch_input_shape")
    if hasattr(source, "_batch_input_shape"):
        target._batch_input_shape = source._batch_input_shape


def get_package_name(model: Any) -> str:
    """Which Keras the model belongs to: "keras" or "tf_keras"."""
    return "keras" if is_keras3(model) else "tf_keras"


def get_keras_version(model: Any) -> str:
    """Version of that Keras."""
    return str(get_keras(model).__version__)


def find_overridden_methods(model: Any) -> list[str]:
    """Methods of Keras that decide what a model computes and how it trains, replaced by the model's class."""
    names = ("call", "train_step", "test_step", "predict_step", "compute_loss")
    return [name for name in names if getattr(type(model), name).__module__.split(".")[0] != get_package_name(model)]
