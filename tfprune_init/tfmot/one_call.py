"""One call from a dense tf_keras model to a wrapped one that is ready for `fit`."""

from __future__ import annotations

from typing import Any

from tfprune_init.backend.trainer import get_compile_arguments
from tfprune_init.errors import ModelError
from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.methods import resolve_method
from tfprune_init.methods.mask_search import find
from tfprune_init.report import PruningReport, conclude_search
from tfprune_init.tfmot.wrapping import check_legacy, check_reached, check_wrappable, wrap

_REPORT = "_pruning_report"


def prune_at_init(
    model: Any,
    data: Any,
    *,
    sparsity: float | None = None,
    method: str = "force",
    pruning_policy: Any = None,
    **options: Any,
) -> Any:
    """Find masks for a tf_keras model and put them on it as TF-MOT wrappers.

    Args:
        model: A built Sequential or functional tf_keras model.
        data: As in `tpi.prune_at_init`.
        sparsity: Share of the prunable weights to remove, in [0, 1). Give this or `budget`.
        method: One of `tpi.list_methods()`.
        pruning_policy: A policy of TF-MOT, such as `PruneForLatencyOnXNNPack()`: only weights of layers it allows
            are pruned, and a model it does not support is refused.
        **options: budget, exclude, and all other options of `tpi.prune_at_init`.

    Returns:
        The wrapped model, made of the layers of the given one (see `wrap`) and compiled as that was.
        `get_report` gives the report.

    Raises:
        PruningError: As `tpi.prune_at_init` and `wrap`.
        ValueError: If the policy does not support the model.

    Example:
        >>> import numpy as np, tf_keras
        >>> from tfprune_init import tfmot
        >>> Dense = tf_keras.layers.Dense
        >>> model = tf_keras.Sequential([tf_keras.Input((8,)), Dense(16, "relu"), Dense(3)])
        >>> model.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> x, y = np.random.default_rng(0).normal(size=(64, 8)), np.arange(64) % 3
        >>> wrapped = tfmot.prune_at_init(model, (x, y), sparsity=0.75, method="snip")
        >>> history = wrapped.fit(x, y, verbose=0)
        >>> tfmot.get_report(wrapped).masks.kept
        44
    """
    check_legacy(model, "tfmot.prune_at_init", instead="tpi.prune_at_init(model, data, ...)")
    check_wrappable(model)
    if pruning_policy is not None:
        pruning_policy.ensure_model_supports_pruning(model)
        options["exclude"] = _exclusions(model, pruning_policy, options.get("exclude"))
    # What cannot be wrapped is refused before the model is touched.
    targets = find_prunable_variables(
        model, exclude=options.get("exclude"), prune_bias=options.get("prune_bias", False)
    )
    check_reached(model, targets.prunable)
    own = {name: options.pop(name) for name in ("budget", "exclude", "prune_bias", "verbose") if name in options}
    resolved = resolve_method(method, data, options)
    found = find(model, data, resolved, sparsity=sparsity, **own)
    report = conclude_search(model, found, own.get("prune_bias", False))
    wrapped = wrap(model, found.masks)
    compiled = get_compile_arguments(model)
    if compiled is not None:
        wrapped.compile(**compiled)
    vars(wrapped)[_REPORT] = report
    return wrapped


def get_report(model: Any) -> PruningReport:
    """Return the report of the pruning that made a model.

    Args:
        model: What `prune_at_init` of this module returned.

    Raises:
        ModelError: If the model did not come from there.
    """
    report = vars(model).get(_REPORT)
    if report is None:
        raise ModelError(
            f"Model {model.name!r} carries no report: it was not returned by tfmot.prune_at_init in this process, or "
            "was copied or loaded since. tfmot.get_masks(model) reads its masks."
        )
    return report


def _exclusions(model: Any, policy: Any, exclude: Any) -> Any:
    """Return the caller's exclusions, and one for what the policy does not allow, where there is such a thing."""
    given = [exclude] if isinstance(exclude, str) or callable(exclude) else list(exclude or [])

    def disallowed(target: Any) -> bool:
        return not policy.allow_pruning(target.layer)

    return given + [disallowed] * any(disallowed(target) for target in find_prunable_variables(model).prunable)
