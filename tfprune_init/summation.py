"""The order of sums. Floating point sums depend on it, and TensorFlow leaves it open where a graph adds three or more.

Its AddN kernel begins with whichever input's buffer is free, which the race of threads decides. GradientTape adds up so
what the uses of a tensor contribute (three for the input of every BatchNorm), and the graph optimizer makes such sums
of plain additions. So the same gradient came out in several versions, a few last bits apart, and iterative methods,
which go on from what they chose, ended in different masks. `tf.config.experimental.enable_op_determinism` does not
change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow.python.eager import context
from tensorflow.python.ops import gen_math_ops

_add_n = gen_math_ops.add_n


@contextmanager
def in_order() -> Iterator[None]:
    """Let functions that are traced and called within add one after the other, in the order of their graph.

    Also a decorator. Sums of two stay as they are: their order does not matter.
    """
    here = context.context()
    before = here.function_call_options
    config = config_pb2.ConfigProto.FromString(before.config_proto_serialized)
    config.graph_options.rewrite_options.arithmetic_optimization = rewriter_config_pb2.RewriterConfig.OFF
    here.function_call_options = context.FunctionCallOptions(before.executor_type, config)
    try:
        with patch.object(gen_math_ops, "add_n", _one_after_the_other):
            yield
    finally:
        here.function_call_options = before


def _one_after_the_other(inputs: Sequence[Any], name: str | None = None) -> Any:
    total = _add_n(inputs[:2], name)
    for term in inputs[2:]:
        total = _add_n([total, term])
    return total
