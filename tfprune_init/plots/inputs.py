"""Inputs of figures: masks, reports, models and runs, all read in one form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from tfprune_init.backend import compat
from tfprune_init.checks import suggest
from tfprune_init.errors import MaskMismatchError, OptionError
from tfprune_init.graph.variables import list_variables
from tfprune_init.masks import Masks


def get_masks(source: Any) -> Masks:
    """Get the masks of a figure's source.

    Args:
        source: `Masks` or another mapping from path to booleans, a `PruningReport`, or a model whose pruned
            weights are zero.

    Raises:
        OptionError: If it is none of these.
    """
    if isinstance(source, Masks):
        return source
    if isinstance(source, Mapping):
        return Masks(source)
    masks = getattr(source, "masks", None)
    if isinstance(masks, Masks):
        return masks
    if compat.is_model(source):
        return Masks.from_zeros(source)
    raise OptionError(
        f"Masks, a PruningReport or a model is needed. Received: {type(source).__module__}.{type(source).__qualname__}."
    )


def get_rows(source: Any, name: str) -> list[Any]:
    """Get the rows `source.name` as objects with attributes; runs hold them as dictionaries."""
    return [SimpleNamespace(**row) if isinstance(row, Mapping) else row for row in getattr(source, name)]


def get_weights(source: Any) -> dict[str, np.ndarray]:
    """Get the values of a model's variables by path, or those of a mapping as arrays."""
    if isinstance(source, Mapping):
        return {str(path): np.asarray(values) for path, values in source.items()}
    compat.check_model(source)
    return {variable.path: np.asarray(variable.effective) for variable in list_variables(source)}


def is_collapsed(source: Any) -> bool:
    """Return whether masks, a report or a run are known to be of a collapsed network."""
    return getattr(source, "collapse", None) is not None or getattr(source, "status", None) == "collapsed"


def mark_collapsed(name: str, source: Any) -> str:
    """Add to the name of a source that its network collapsed, if it is known to."""
    return f"{name} (collapsed)" if is_collapsed(source) else name


def name_sources(sources: Any) -> dict[str, Any]:
    """Convert the sources of a figure to a dict by label; labels of collapsed networks say so.

    Raises:
        OptionError: If it is no mapping from labels, or an empty one.
    """
    if not isinstance(sources, Mapping) or isinstance(sources, Masks) or not sources:
        raise OptionError(f'A mapping from label to masks is needed: {{"snip": masks}}. Received: {_shorten(sources)}.')
    return {mark_collapsed(str(label), source): source for label, source in sources.items()}


def choose_paths(paths: str | Iterable[str] | None, known: Iterable[str]) -> list[str]:
    """Select the given paths, in their own order; all known paths by default.

    Raises:
        OptionError: If a path is not known, or none is left.
    """
    known = list(known)
    wanted = known if paths is None else [paths] if isinstance(paths, str) else list(paths)
    for path in wanted:
        if path not in known:
            raise OptionError(f"There is no mask for {path!r}. {suggest(path, known)}")
    if not wanted:
        raise OptionError("At least one path is needed. Received: none.")
    return wanted


def check_same_paths(first: Masks, second: Masks) -> None:
    """Refuse two sets of masks that belong to different variables.

    Raises:
        MaskMismatchError: If paths or shapes differ; names them.
    """
    odd = sorted(first.keys() ^ second.keys())
    odd += [path for path in first if path in second and first[path].shape != second[path].shape]
    if odd:
        shown = ", ".join(odd[:4]) + (f" and {len(odd) - 4} more" if len(odd) > 4 else "")
        raise MaskMismatchError(
            f"Only masks of the same variables can be compared. Not the same in both: {shown}. "
            "If the model was built again, use masks.carried_to(model)."
        )


def shorten_paths(paths: Sequence[str], longest: int = 34) -> dict[str, str]:
    """Shorten paths to labels: drop a last part that all share, and cut the beginning of long ones."""
    last = {path.rsplit("/", 1)[-1] for path in paths}
    shared = len(last) == 1 and all("/" in path for path in paths)
    names = {path: path.rsplit("/", 1)[0] if shared else path for path in paths}
    return {path: name if len(name) <= longest else "..." + name[3 - longest :] for path, name in names.items()}


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
