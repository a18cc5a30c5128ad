"""The order of sums. Floating point sums depend on it, and TensorFlow leaves it open where a graph adds three or more.

Its AddN kernel begins with whichever input's buffer is free, which the race of threads decides. GradientTape adds up so
what the uses of a tensor contribute (three for the input of every BatchNorm), and the graph optimizer makes such sums
of plain additions. So the same gradient came out in several versions, a few last bits apart, and iterative methods,
which go on from what they chose, ended in different masks. `tf.config.experimental.enable_op_determinism` does not
change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from tfprune_init.backend.contracts import get_private, require
from tfprune_init.backend.thread_overrides import override_for_thread


@contextmanager
def deterministic_reductions() -> Iterator[None]:
    """Let functions that this thread traces and calls within add one after the other, in the order of their graph.

    Also a decorator. Sums of two stay as they are: their order does not matter.

    Raises:
        BackendError: If TensorFlow is not as expected.
    """
    require("tensorflow Context.function_call_options")
    here = get_private("tensorflow context.context")()
    before = here.function_call_options
    config = tf.compat.v1.ConfigProto.FromString(before.config_proto_serialized)
    rewriting = config.graph_options.rewrite_options
    rewriting.arithmetic_optimization = rewriting.OFF
    # TensorFlow keeps these options for each thread.
    here.function_call_options = get_private("tensorflow context.FunctionCallOptions")(before.executor_type, config)
    try:
        with override_for_thread("tensorflow gen_math_ops.add_n", _add_in_order):
            yield
    finally:
        here.function_call_options = before


def _add_in_order(original: Callable[..., Any], inputs: Sequence[Any], name: str | None = None) -> Any:
    total = original(inputs[:2], name)
    for term in inputs[2:]:
        total = original([total, term])
    return total
