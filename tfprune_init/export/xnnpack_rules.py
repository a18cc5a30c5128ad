"""Operators that XNNPACK can run around sparse 1x1 convolutions, and the rules that exclude the others.

XNNPACK multiplies the nonzeros of a 1x1 convolution only with its inputs in channels-first layout. A 3x3 convolution
brings images into that layout, global average pooling leads out of it, and everything between must be able to work
in it. Source: XNNPACK's subgraph.c and the delegate's README, "Sparse Inference"; constants in ADD and MUL, which the
latter allows, were found to stop it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tfprune_init.export.tflite_graph import Operator, Subgraph, Tensor

FLOATS = ("FLOAT32", "FLOAT16")

SAME = 0
"""Value of the option `padding` in the schema."""

FUSED = (0, 1, 2, 3)
"""Activations in the schema that XNNPACK fuses: none, RELU, RELU_N1_TO_1, RELU6."""

UNARY = (
    "ABS", "CEIL", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "NEG", "RELU", "RELU6",
    "RELU_N1_TO_1", "ROUND", "SQRT", "SQUARE", "TANH",
)  # fmt: skip

UNPACKING = ("DENSIFY", "DEQUANTIZE")
"""Operators that pass weights on in another form."""

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")

ENDS = ("MEAN", "SUM", "DEPTH_TO_SPACE")
"""Operators that lead out of the channels-first layout."""


@dataclass(frozen=True)
class IncompatibilityReason:
    """The reason why an operator cannot be part of the chain.

    Attributes:
        rule: Its short name.
        reason: A sentence.
        change: How to fix it.
    """

    rule: str
    reason: str
    change: str


def find_source(main: Subgraph, tensor: int) -> int:
    """Find the tensor that an operator really reads: the one before the PAD that XNNPACK fuses into it."""
    pad = main.producers.get(tensor)
    return pad.inputs[0] if pad is not None and is_fused(main, pad) else tensor


def is_fused(main: Subgraph, operator: Operator) -> bool:
    """Return whether an operator is a PAD that becomes the padding of the one convolution that reads it."""
    if operator.name != "PAD" or operator.outputs[0] in main.outputs:
        return False
    consumers = [consumer for consumer, _ in main.consumers.get(operator.outputs[0], [])]
    convolutions = [one for one in consumers if one.name in CONVOLUTIONS]
    amounts = _integers(main.tensors[operator.inputs[1]])
    return (
        len(consumers) == len(convolutions) == 1
        and convolutions[0].option("padding") != SAME
        and amounts.shape == (4, 2)
        and not amounts[[0, 3]].any()
    )


def is_first(main: Subgraph, operator: Operator) -> bool:
    """Return whether an operator is the convolution that brings images into the channels-first layout."""
    return (
        operator.name == "CONV_2D"
        and _kernel(main, operator) == (3, 3)
        and find_incompatibility(main, operator) is None
    )


def is_pointwise(main: Subgraph, operator: Operator) -> bool:
    """Return whether an operator is a 1x1 convolution with weights in the file, whatever its strides."""
    return operator.name == "CONV_2D" and _kernel(main, operator) == (1, 1) and _is_stored(get_weight(main, operator))


def get_weight(main: Subgraph, convolution: Operator) -> Tensor:
    """Get the weight of a convolution as it is stored."""
    index = convolution.inputs[1]
    for _ in UNPACKING:  # one behind the other at most
        producer = main.producers.get(index)
        if producer is not None and producer.name in UNPACKING:
            index = producer.inputs[0]
    return main.tensors[index]


def find_incompatibility(main: Subgraph, operator: Operator) -> IncompatibilityReason | None:
    """Find the rule that an operator breaks by itself; None if it breaks none.

    Args:
        main: The main graph.
        operator: One of its operators.
    """
    if not _is_float(main, operator):
        return IncompatibilityReason("float", "it doesn't compute in floats", "Export in float32 or float16.")
    if operator.name in CONVOLUTIONS and not _reads_images(main, operator):
        return IncompatibilityReason("weights", "its weights aren't in the file", "Use a plain layer, and one file.")
    if operator.name == "CONV_2D":
        return _check_activation(operator) or _check_convolution(main, operator)
    if operator.name == "DEPTHWISE_CONV_2D":
        return _check_activation(operator) or _check_depthwise(main, operator)
    if operator.name in ("ADD", "MUL"):
        return _check_arithmetic(main, operator)
    if operator.name in ("MEAN", "SUM"):
        return _check_pooling(main, operator)
    if operator.name in ("DEPTH_TO_SPACE", "RESIZE_BILINEAR", *UNARY):
        return _check_rank(main, operator)
    return IncompatibilityReason(
        "operator",
        "XNNPACK runs it only with channels last",
        "Leave it out, or build it from convolutions, additions, multiplications and activations.",
    )


def _check_convolution(main: Subgraph, operator: Operator) -> IncompatibilityReason | None:
    kernel, strides, channels = _kernel(main, operator), _strides(operator), _shape(main, operator)[-1]
    read = main.tensors[operator.inputs[1]].shape[3]
    if kernel not in ((1, 1), (3, 3)):
        return _make_kernel_reason(kernel, "only 1x1 convolutions, and a 3x3 one at the start, are possible")
    if read != channels:
        return IncompatibilityReason("groups", f"a filter reads {read} of the {channels} channels", "Use groups=1.")
    if _dilations(operator) != (1, 1):
        return IncompatibilityReason("dilation", "it is dilated", "Use dilation_rate=1.")
    if kernel == (1, 1):
        if strides != (1, 1):
            return IncompatibilityReason(
                "strides",
                "a 1x1 convolution with strides leaves channels-first layout",
                "Use strides=1 here, and strides=2 in a depthwise convolution before it.",
            )
        return _check_padding(main, operator, 0)
    if channels != 3:
        return IncompatibilityReason(
            "channels",
            f"a 3x3 convolution is possible on 3 channels, images, only; it has {channels}",
            "Use a depthwise and a 1x1 convolution.",
        )
    if strides != (2, 2):
        return IncompatibilityReason("strides", "the first 3x3 convolution must have strides of 2", "Use strides=2.")
    return _check_padding(main, operator, 1)


def _check_depthwise(main: Subgraph, operator: Operator) -> IncompatibilityReason | None:
    kernel, strides = _kernel(main, operator), _strides(operator)
    if kernel not in ((3, 3), (5, 5)):
        return _make_kernel_reason(kernel, "a depthwise convolution must be 3x3 or 5x5")
    multiplier = operator.option("depthMultiplier")
    if multiplier != 1:
        return IncompatibilityReason("multiplier", f"its depth multiplier is {multiplier}", "Use depth_multiplier=1.")
    if _dilations(operator) != (1, 1):
        return IncompatibilityReason("dilation", "it is dilated", "Use dilation_rate=1.")
    if strides not in ((1, 1), (2, 2)):
        return IncompatibilityReason("strides", f"its strides are {strides[0]}x{strides[1]}", "Use strides of 1 or 2.")
    return _check_padding(main, operator, kernel[0] // 2)


def _check_padding(main: Subgraph, operator: Operator, wanted: int) -> IncompatibilityReason | None:
    """Check that padding is the same on every side; with strides, "same" depends on the size of the image."""
    if operator.option("padding") == SAME:
        if _strides(operator) == (1, 1):
            return None
        found = 'padding="same" with strides, which may pad one side more'
    else:
        pad = main.producers.get(operator.inputs[0])
        fused = pad is not None and is_fused(main, pad)
        amounts = _integers(main.tensors[pad.inputs[1]])[1:3] if fused and pad is not None else np.zeros((2, 2), int)
        if (amounts == wanted).all():
            return None
        found = f"padding of {amounts[0, 0]}, {amounts[0, 1]} rows and {amounts[1, 0]}, {amounts[1, 1]} columns"
    change = f'Put ZeroPadding2D({wanted}) before it and use padding="valid".' if wanted else 'Use padding="valid".'
    return IncompatibilityReason("padding", f"it has {found}; it needs {wanted} on every side", change)


def _check_arithmetic(main: Subgraph, operator: Operator) -> IncompatibilityReason | None:
    if any(main.tensors[index].is_constant for index in operator.inputs):
        return IncompatibilityReason(
            "constant",
            "one of its operands is a constant",
            "Let the converter fold it: put BatchNormalization right behind a convolution, and rescale the input "
            "before the first convolution.",
        )
    return _check_activation(operator) or _check_rank(main, operator)


def _check_pooling(main: Subgraph, operator: Operator) -> IncompatibilityReason | None:
    axes = _integers(main.tensors[operator.inputs[1]]).reshape(-1)
    if len(_shape(main, operator)) == 4 and sorted(axis % 4 for axis in axes.tolist()) != [1, 2]:
        return IncompatibilityReason(
            "axes",
            f"it pools over the axes {axes.tolist()}, not over rows and columns",
            "Use GlobalAveragePooling2D.",
        )
    return _check_rank(main, operator)


def _check_rank(main: Subgraph, operator: Operator) -> IncompatibilityReason | None:
    ranks = {len(main.tensors[index].shape) for index in operator.inputs[: 2 if operator.name in ("ADD", "MUL") else 1]}
    if ranks != {4}:
        return IncompatibilityReason(
            "rank", "its input isn't a batch of images", "Keep four dimensions up to the global pooling."
        )
    return None


def _check_activation(operator: Operator) -> IncompatibilityReason | None:
    if operator.options.get("fusedActivationFunction", 0) not in FUSED:
        return IncompatibilityReason("activation", "XNNPACK doesn't run its fused activation", "Use ReLU or ReLU6.")
    return None


def _make_kernel_reason(kernel: tuple[int, int], rule: str) -> IncompatibilityReason:
    return IncompatibilityReason(
        "kernel", f"its kernel is {kernel[0]}x{kernel[1]}; {rule}", "Use depthwise 3x3 and 1x1 convolutions."
    )


def _reads_images(main: Subgraph, convolution: Operator) -> bool:
    """Return whether data and weights have four dimensions, and the weights are in the file."""
    ranks = {len(main.tensors[index].shape) for index in convolution.inputs[:2]}
    return ranks == {4} and _is_stored(get_weight(main, convolution))


def _is_stored(weight: Tensor) -> bool:
    return weight.is_weight and not weight.external and len(weight.shape) == 4


def _is_float(main: Subgraph, operator: Operator) -> bool:
    """Return whether data and weights are floats; unpacked int8 weights are not."""
    weights = operator.inputs[1:2] if operator.name in CONVOLUTIONS else ()
    return all(main.tensors[index].dtype in FLOATS for index in (*operator.inputs[:1], *weights, *operator.outputs))


def _shape(main: Subgraph, operator: Operator) -> tuple[int, ...]:
    return main.tensors[operator.inputs[0]].shape


def _kernel(main: Subgraph, operator: Operator) -> tuple[int, int]:
    height, width = (*main.tensors[operator.inputs[1]].shape, 0, 0, 0)[1:3]
    return height, width


def _strides(operator: Operator) -> tuple[int, int]:
    return operator.option("strideH"), operator.option("strideW")


def _dilations(operator: Operator) -> tuple[int, int]:
    return operator.option("dilationHFactor"), operator.option("dilationWFactor")


def _integers(tensor: Tensor) -> np.ndarray:
    """Get the values of a constant integer tensor; empty if they are computed."""
    values = np.frombuffer(tensor.data, "<i8" if tensor.dtype == "INT64" else "<i4")
    return values.reshape(tensor.shape) if values.size == tensor.size else np.zeros(0, int)
