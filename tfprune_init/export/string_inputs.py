"""Export of models that take strings: the file starts behind the layers that turn them into numbers, if asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfprune_init.backend.protocols import Model
from tfprune_init.errors import DataError, ModelError, OptionError

if TYPE_CHECKING:
    from tfprune_init.graph.string_inputs import StringCut


def cut_if_asked(model: Model, asked: bool) -> StringCut | None:
    """Cut a model that takes strings; None for a model that takes numbers.

    Args:
        model: A built, plain model.
        asked: Whether the caller wants it cut.

    Raises:
        OptionError: If it was asked for and has no effect.
        ModelError: If the model takes strings and is not to be cut, or can't be.
    """
    from tfprune_init.backend.model_inputs import find_string_inputs
    from tfprune_init.graph.string_inputs import split_at_strings

    names = find_string_inputs(model)
    if not names:
        if asked:
            raise OptionError(
                f"cut_string_inputs=True has no effect: no input of model {model.name!r} takes strings. Leave it out."
            )
        return None
    if not asked:
        raise ModelError(
            f"Input {', '.join(map(repr, names))} of model {model.name!r} takes strings, and TFLite has no kernels for "
            "the layers that turn them into numbers. Pass cut_string_inputs=True: the file then starts behind these "
            "layers, and takes the numbers that tpi.cut_string_inputs(model) takes."
        )
    return split_at_strings(model)


def run_front(cut: StringCut, batches: Sequence[Any], origin: str) -> list[list[Any]]:
    """Turn batches of the model's inputs into batches of what the file takes.

    Args:
        cut: The model in two parts.
        batches: In the structure in which the model takes them.
        origin: The argument they came from, for messages.

    Raises:
        DataError: If the model does not take them.
    """
    import tensorflow as tf

    try:
        return [cut.run_front(batch) for batch in batches]
    except (TypeError, ValueError, tf.errors.OpError) as error:
        raise DataError(
            f"`{origin}` doesn't suit the model, before it is cut at {', '.join(cut.layers)}. Cause: {error}"
        ) from error
