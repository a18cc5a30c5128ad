"""XNNPACK advice: one property of an eligible network changed at a time, and the rule named that stops it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema
from tflite_files import DEFAULT, SPARSE, changed, converted, operators

from tfprune_init.errors import ExportError
from tfprune_init.export.inspection import inspect_file
from tfprune_init.export.xnnpack import OperatorAdvice, XnnpackAdvice, xnnpack_advice

layers = keras.layers

SAME, VALID, TANH = 0, 1, 4


def network(
    middle: Callable | None = None,
    tail: Callable | None = None,
    *,
    channels: int = 3,
    padding: str = "valid",
    zeros: int | None = None,
    activation: str = "relu6",
) -> Any:
    """A small MobileNet as XNNPACK wants it, with something else in its middle or for a tail.

    Its 1x1 convolutions have 8x12 + 12x18 = 312 weights; `zeros` of them, by default 9 in 10, are zero.
    """
    image = keras.Input((16, 16, channels))
    x = layers.ZeroPadding2D(1)(image) if padding == "valid" else image
    x = layers.Activation(activation)(layers.Conv2D(8, 3, strides=2, padding=padding)(x))
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu")(x)
    x = layers.Conv2D(12, 1, activation="relu", name="narrow")(x)
    x = x if middle is None else middle(x)
    x = layers.DepthwiseConv2D(3, strides=2, activation="relu")(layers.ZeroPadding2D(1)(x))
    x = layers.Conv2D(18, 1, activation="relu", name="wide")(x)
    outputs = pooled(x) if tail is None else tail(x)
    model = keras.Model(image, outputs)
    keep = np.random.default_rng(0).permutation(312) >= (281 if zeros is None else zeros)
    for name, kept in (("narrow", keep[:96]), ("wide", keep[96:])):
        kernel = model.get_layer(name).kernel
        kernel.assign(np.where(kept.reshape(kernel.shape), 1.0, 0.0))
    return model


def pooled(x: Any) -> Any:
    return layers.Dense(4)(layers.GlobalAveragePooling2D()(x))


def advice_on(model: Any, *optimizations: Any, **options: Any) -> XnnpackAdvice:
    return xnnpack_advice(converted(model, *(optimizations or (SPARSE,)), **options))


@pytest.fixture(scope="module")
def eligible() -> bytes:
    return converted(network(), SPARSE)


def stopped(advice: XnnpackAdvice) -> list[OperatorAdvice]:
    """Operators that break a rule, not counting those that suffer with them."""
    return [one for one in advice.operators if one.rule not in (None, "chain")]


def test_eligible(eligible: bytes) -> None:
    advice = xnnpack_advice(eligible)
    assert (advice.verdict, advice.rule, advice.change) == ("sparse", None, "")
    assert (advice.zeros, advice.weights) == (281, 312)
    assert [one.operator for one in advice.operators] == ["CONV_2D", *["DEPTHWISE_CONV_2D", "CONV_2D"] * 2, "MEAN"]
    assert [one.pointwise for one in advice.operators] == [False, False, True, False, True, False]
    assert all(one.eligible for one in advice.operators)
    assert "not measured on the target" in str(advice)
    kernels = {row.shape: row.kernel for row in inspect_file(eligible).tensors}
    assert kernels[12, 1, 1, 8] == kernels[18, 1, 1, 12] == "sparse (ARM only)"
    assert kernels[8, 3, 3, 3] == "dense"


# --- options of single operators, changed in the file --------------------------------------------------------------


def option(operator: str, place: int, **options: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for name, value in options.items():
            assert getattr(operators(model, operator)[place].builtinOptions, name) != value
            setattr(operators(model, operator)[place].builtinOptions, name, value)

    return change


def reshape_weight(operator: str, place: int, *shape: int) -> Callable[[Any], None]:
    """Another kernel of ones for a convolution."""

    def change(model: Any) -> None:
        tensor = model.subgraphs[0].tensors[operators(model, operator)[place].inputs[1]]
        tensor.shape = np.array(shape, np.int32)
        model.buffers[tensor.buffer].data = np.ones(shape, "float32").view(np.uint8).reshape(-1)

    return change


def pad(place: int, amounts: list[list[int]]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        main = model.subgraphs[0]
        operator = operators(model, "PAD")[place]
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = b"amounts", np.array([4, 2], np.int32), schema.TensorType.INT32
        tensor.buffer = len(model.buffers)
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = np.array(amounts, "<i4").view(np.uint8).reshape(-1)
        main.tensors.append(tensor)
        operator.inputs = np.array([operator.inputs[0], len(main.tensors) - 1], np.int32)

    return change


def axes(values: list[int]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        tensor = model.subgraphs[0].tensors[operators(model, "MEAN")[0].inputs[1]]
        tensor.shape = np.array([len(values)], np.int32)
        model.buffers[tensor.buffer].data = np.array(values, "<i4").view(np.uint8)

    return change


def another_operator(old: str, new: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        (operator,) = operators(model, old)
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, new)
        operator.opcodeIndex = len(model.operatorCodes)
        operator.builtinOptionsType, operator.builtinOptions = 0, None
        model.operatorCodes.append(code)

    return change


def is_also_an_output(model: Any) -> None:
    main = model.subgraphs[0]
    main.outputs = np.append(main.outputs, operators(model, "CONV_2D")[1].outputs[0])


def external(model: Any) -> None:
    tensor = model.subgraphs[0].tensors[operators(model, "DEPTHWISE_CONV_2D")[0].inputs[1]]
    tensor.buffer, tensor.externalBuffer = 0, 1


CHANGES = [
    # change, verdict, the operator that is named, its place among those of its kind, the rule, a word of the change
    (option("CONV_2D", 0, strideH=1, strideW=1), "dense", "CONV_2D", 0, "strides", "strides=2"),
    (option("CONV_2D", 0, strideW=1), "dense", "CONV_2D", 0, "strides", "strides=2"),
    (option("CONV_2D", 0, padding=SAME), "dense", "CONV_2D", 0, "padding", "ZeroPadding2D(1)"),
    (option("CONV_2D", 0, dilationHFactor=2), "dense", "CONV_2D", 0, "dilation", "dilation_rate=1"),
    (option("CONV_2D", 0, fusedActivationFunction=TANH), "dense", "CONV_2D", 0, "activation", "ReLU6"),
    (reshape_weight("CONV_2D", 0, 8, 5, 5, 3), "dense", "CONV_2D", 0, "kernel", "depthwise"),
    (reshape_weight("CONV_2D", 0, 8, 3, 3, 1), "dense", "CONV_2D", 0, "groups", "groups=1"),
    (pad(0, [[0, 0], [0, 1], [0, 1], [0, 0]]), "dense", "CONV_2D", 0, "padding", "ZeroPadding2D(1)"),
    (pad(0, [[0, 0], [1, 1], [1, 2], [0, 0]]), "dense", "CONV_2D", 0, "padding", "ZeroPadding2D(1)"),
    (pad(1, [[0, 0], [1, 1], [2, 1], [0, 0]]), "unsafe", "DEPTHWISE_CONV_2D", 1, "padding", "ZeroPadding2D(1)"),
    (pad(1, [[0, 0], [1, 1], [1, 1], [0, 1]]), "unsafe", "PAD", 1, "operator", "Leave it out"),
    (option("CONV_2D", 1, strideH=2), "unsafe", "CONV_2D", 1, "strides", "depthwise convolution before"),
    (option("CONV_2D", 2, strideH=2, strideW=2), "unsafe", "CONV_2D", 2, "strides", "depthwise convolution before"),
    (option("CONV_2D", 1, dilationWFactor=2), "unsafe", "CONV_2D", 1, "dilation", "dilation_rate=1"),
    (option("CONV_2D", 1, fusedActivationFunction=TANH), "unsafe", "CONV_2D", 1, "activation", "ReLU6"),
    (option("DEPTHWISE_CONV_2D", 0, padding=VALID), "unsafe", "DEPTHWISE_CONV_2D", 0, "padding", "ZeroPadding2D(1)"),
    (option("DEPTHWISE_CONV_2D", 1, strideH=3, strideW=3), "unsafe", "DEPTHWISE_CONV_2D", 1, "strides", "1 or 2"),
    (option("DEPTHWISE_CONV_2D", 1, strideH=1), "unsafe", "DEPTHWISE_CONV_2D", 1, "strides", "1 or 2"),
    (option("DEPTHWISE_CONV_2D", 0, depthMultiplier=2), "unsafe", "DEPTHWISE_CONV_2D", 0, "multiplier", "multiplier=1"),
    (option("DEPTHWISE_CONV_2D", 0, dilationHFactor=2), "unsafe", "DEPTHWISE_CONV_2D", 0, "dilation", "rate=1"),
    (option("DEPTHWISE_CONV_2D", 0, fusedActivationFunction=5), "unsafe", "DEPTHWISE_CONV_2D", 0, "activation", "ReLU"),
    (reshape_weight("DEPTHWISE_CONV_2D", 0, 1, 7, 7, 8), "unsafe", "DEPTHWISE_CONV_2D", 0, "kernel", "3x3"),
    (reshape_weight("DEPTHWISE_CONV_2D", 0, 1, 3, 5, 8), "unsafe", "DEPTHWISE_CONV_2D", 0, "kernel", "3x3"),
    (external, "unsafe", "DEPTHWISE_CONV_2D", 0, "weights", "one file"),
    (axes([1]), "unsafe", "MEAN", 0, "axes", "GlobalAveragePooling2D"),
    (axes([2, 3]), "unsafe", "MEAN", 0, "axes", "GlobalAveragePooling2D"),
    (another_operator("MEAN", "REDUCE_MAX"), "dense", None, 0, "end", "GlobalAveragePooling2D"),
    (is_also_an_output, "unsafe", "CONV_2D", 1, "branch", "by the chain alone"),
]


@pytest.mark.parametrize(("change", "verdict", "operator", "place", "rule", "word"), CHANGES)
def test_one_property_changed(
    change: Any, verdict: str, operator: str | None, place: int, rule: str, word: str, eligible: bytes
) -> None:
    file = changed(eligible, change)
    advice = xnnpack_advice(file)
    assert (advice.verdict, advice.rule) == (verdict, rule)
    assert word in advice.change
    if operator is not None:
        named = [one for one in stopped(advice) if one.rule == rule]
        of_its_kind = [one for one in advice.operators if one.operator == operator]
        place = 0 if operator == "PAD" else place  # a PAD that is fused isn't listed
        assert named[0] is of_its_kind[place]
        assert not named[0].eligible
        assert named[0].reason in str(advice)
        assert named[0].change in str(advice)
    assert not any("ARM" in row.kernel for row in inspect_file(file).tensors)
    assert inspect_file(file).arm == verdict


@pytest.mark.parametrize(
    "change",
    [
        axes([2, 1]),
        axes([-3, -2]),
        pad(0, [[0, 0], [1, 1], [1, 1], [0, 0]]),
        reshape_weight("DEPTHWISE_CONV_2D", 0, 1, 5, 5, 8),
        option("CONV_2D", 1, padding=SAME),
        another_operator("MEAN", "SUM"),
    ],
)
def test_changes_that_break_no_rule(change: Any, eligible: bytes) -> None:
    assert xnnpack_advice(changed(eligible, change)).verdict == "sparse"


# --- other networks ------------------------------------------------------------------------------------------------


def residual(x: Any) -> Any:
    return layers.Add()([x, layers.DepthwiseConv2D(3, padding="same")(x)])


def squeeze(x: Any) -> Any:
    scale = layers.Conv2D(12, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    return layers.Multiply()([x, scale])


def batch_normalization(x: Any) -> Any:
    return layers.ReLU()(layers.BatchNormalization(gamma_initializer="random_uniform")(layers.ReLU()(x)))


def classifier(x: Any) -> Any:
    return layers.Flatten()(layers.Conv2D(4, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x)))


def upsampled(x: Any) -> Any:
    return layers.Lambda(lambda images: tf.nn.depth_to_space(images, 3))(x)


def flat_and_kept(x: Any) -> Any:
    kept = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return [layers.Flatten()(kept), kept]


NETWORKS = [
    # what is different -> verdict, rule
    ({}, ("sparse", None)),
    ({"middle": residual}, ("sparse", None)),
    ({"activation": "hard_swish"}, ("sparse", None)),
    ({"middle": squeeze, "zeros": 305}, ("sparse", None)),  # of 312 + 12x12
    ({"middle": squeeze, "zeros": 304}, ("dense", "zeros")),
    ({"tail": lambda x: layers.GlobalAveragePooling2D()(x)}, ("sparse", None)),
    ({"tail": lambda x: layers.Flatten()(layers.GlobalAveragePooling2D(keepdims=True)(x))}, ("sparse", None)),
    ({"tail": upsampled}, ("sparse", None)),
    ({"tail": lambda x: layers.GlobalAveragePooling2D(keepdims=True)(x)}, ("unsafe", "keepdims")),
    ({"tail": flat_and_kept}, ("unsafe", "keepdims")),
    ({"tail": classifier}, ("unsafe", "keepdims")),
    ({"tail": lambda x: layers.Dense(4)(layers.Flatten()(x))}, ("dense", "end")),
    ({"tail": lambda x: [pooled(x), x]}, ("unsafe", "branch")),
    ({"tail": lambda x: [pooled(x), layers.Flatten()(x)]}, ("unsafe", "branch")),
    ({"middle": layers.MaxPooling2D(2)}, ("unsafe", "operator")),
    ({"middle": layers.DepthwiseConv2D(3, strides=2, padding="same")}, ("unsafe", "padding")),
    ({"middle": layers.Conv2D(12, 3, padding="same")}, ("unsafe", "channels")),
    ({"middle": batch_normalization}, ("unsafe", "constant")),
    ({"channels": 1}, ("dense", "channels")),
    ({"padding": "same"}, ("dense", "padding")),
    ({"zeros": 208}, ("dense", "zeros")),
    ({"zeros": 209}, ("sparse", None)),
]


@pytest.mark.parametrize(("different", "expected"), NETWORKS)
def test_networks(different: dict, expected: tuple) -> None:
    advice = advice_on(network(**different))
    assert (advice.verdict, advice.rule) == expected
    assert all(one.eligible for one in advice.operators) == (advice.rule in (None, "zeros"))


def test_a_sparse_part_of_a_broken_chain_is_enough_to_be_unsafe() -> None:
    """XNNPACK counts zeros in each part: 96 of 96 in the first convolution, few in all."""
    broken = network(layers.MaxPooling2D(2), zeros=0)
    broken.get_layer("narrow").kernel.assign(np.zeros((1, 1, 8, 12)))
    assert advice_on(broken).verdict == "unsafe"
    whole = network(zeros=0)
    whole.get_layer("narrow").kernel.assign(np.zeros((1, 1, 8, 12)))
    assert (advice_on(whole).verdict, advice_on(whole).rule) == ("dense", "zeros")
    assert (advice_on(network(layers.MaxPooling2D(2), zeros=150)).verdict) == "dense"


def test_a_1x1_convolution_on_the_image_is_outside() -> None:
    image = keras.Input((16, 16, 3))
    inner = network()
    model = keras.Model(image, inner(layers.Conv2D(3, 1, use_bias=False)(image)))
    advice = advice_on(model)
    assert (advice.verdict, advice.weights) == ("sparse", 312)
    assert [one.rule for one in advice.operators][:2] == ["outside", None]


def test_two_images_both_need_a_first_convolution() -> None:
    image, second = keras.Input((16, 16, 3)), keras.Input((16, 16, 3))
    first = layers.Conv2D(8, 3, strides=2)(layers.ZeroPadding2D(1)(image))
    another = layers.Conv2D(8, 3, strides=2)(layers.ZeroPadding2D(1)(second))
    bare = layers.DepthwiseConv2D(3, strides=2)(layers.ZeroPadding2D(1)(layers.Conv2D(8, 1)(second)))
    for branch, expected in ((another, ("sparse", None)), (bare, ("unsafe", "start"))):
        model = keras.Model([image, second], pooled(layers.Conv2D(8, 1)(layers.Add()([first, branch]))))
        for layer in model.layers:
            if isinstance(layer, layers.Conv2D) and layer.kernel_size == (1, 1):
                layer.kernel.assign(np.eye(*layer.kernel.shape[2:])[None, None])
        advice = advice_on(model)
        assert (advice.verdict, advice.rule) == expected


def test_how_weights_are_stored() -> None:
    model = network()
    plain = advice_on(model, DEFAULT, float16=True)
    assert (plain.verdict, plain.rule, plain.zeros) == ("dense", "storage", 281)
    assert advice_on(model, DEFAULT, SPARSE, float16=True).verdict == "sparse"
    integers = advice_on(model, DEFAULT, SPARSE, integers=True)
    assert integers.verdict == "dense"
    assert {one.rule for one in integers.operators} == {"float"}


def test_no_convolutions_at_all() -> None:
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4)])
    advice = advice_on(model)
    assert (advice.verdict, advice.rule, advice.operators) == ("dense", "pointwise", ())
    assert advice.to_dict()["weights"] == 0


def test_no_tflite_file() -> None:
    with pytest.raises(ExportError, match="Not a TFLite file"):
        xnnpack_advice(b"anything else")
