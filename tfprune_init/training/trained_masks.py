"""Masks from weights before and after training: what Zhou et al. take lottery tickets apart with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from tfprune_init.backend.protocols import Model
from tfprune_init.checks import check_integer
from tfprune_init.errors import OptionError, ScoreError
from tfprune_init.graph.variables import Exclusion, ModelVariable, find_prunable_variables
from tfprune_init.graph.weight_copies import check_weights
from tfprune_init.masking.attachment import get_attached_masks
from tfprune_init.masks import Masks
from tfprune_init.methods.mask_selector import MaskSelector
from tfprune_init.scoring.training_criteria import TRAINING_CRITERIA, TrainingCriterion
from tfprune_init.selection import GRANULARITIES, Layout, find_allocation, keep_top
from tfprune_init.selection.connectivity import find_empty_variables
from tfprune_init.selection.granularity import Share
from tfprune_init.selection.top_k import Arrays


def find_masks_from_training(
    model: Model,
    initial: Mapping[str, Any],
    final: Mapping[str, Any] | None = None,
    *,
    criterion: str = "large_final",
    sparsity: float | Fraction | None = None,
    allocation: str | Mapping[str, float] | None = None,
    masks: Masks | None = None,
    exclude: Exclusion | Iterable[Exclusion] | None = None,
    prune_bias: bool = False,
    seed: int | None = None,
) -> Masks:
    """Find masks from what training did to the weights, without touching the model.

    Exactly floor(n * (1 - sparsity)) of the n weights of each kernel are kept, or of all N together; ties go to the
    lower position. Scores are computed in float64. Ranks are those among the weights that compete.

    Args:
        model: A built model, Keras 3 or tf_keras, in any state: it says which variables are prunable.
        initial: Weights before training, by variable path, as `tpi.copy_weights(model)` gives them.
        final: Weights after training; those of the model by default.
        criterion: One of `scoring.training_criteria`: "large_final", "small_final", "large_init", "small_init",
            "large_init_large_final", "small_init_small_final", "magnitude_increase", "movement", "random",
            "large_final_same_sign", "large_final_diff_sign", "magnitude_increase_same_sign",
            "magnitude_increase_diff_sign"; or "large_final_same_sign_single" and "large_final_diff_sign_single", which
            keep all weights whose signs agree, or differ, as many as there are.
        sparsity: Share of the prunable weights to remove, in [0, 1).
        allocation: How the weights that stay are shared out among kernels, as in `find_masks`. By default "uniform",
            the same share of each.
        masks: What may stay, such as the masks of an earlier level; sparsity still counts all weights. By default the
            masks that the model carries, if any.
        exclude: What not to prune, as in `find_masks`.
        prune_bias: Whether biases are prunable too.
        seed: Seed of "random"; 0 by default.

    Returns:
        Masks of the prunable variables; every variable of the model has the bits it had before.

    Raises:
        OptionError: If an option is unknown, out of range or without effect, weights do not fit the model, or a
            variable would keep nothing.
        ScoreError: If all that competes has the same score, so that only positions would decide.
        MaskMismatchError: If `masks` does not fit the model.

    References:
        Zhou et al., Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask, NeurIPS 2019. Its code breaks
        ties by chance and bisects percentiles for "large_init_large_final", which here are exact.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.compile("sgd", "mse")
        >>> initial = tpi.copy_weights(model)
        >>> history = model.fit(np.eye(8), np.ones((8, 4)), verbose=0)
        >>> masks = tpi.find_masks_from_training(model, initial, criterion="movement", sparsity=0.75)
        >>> masks
        Masks(1 variables, 8 of 32 weights kept)
        >>> tpi.attach(model, masks)
        >>> tpi.reinitialize(model, "unchanged", weights=initial)  # the ticket: initial weights under the masks
    """
    found = TRAINING_CRITERIA.find(criterion)
    _check_effect(found, sparsity, allocation, seed)
    rng = np.random.default_rng(check_integer("seed", 0 if seed is None else seed, 0))
    variables = find_prunable_variables(model, exclude=exclude, prune_bias=prune_bias)
    targets = variables.prunable
    before = check_weights("initial", initial, model, targets)
    now = {target.path: target.effective for target in targets} if final is None else final
    after = check_weights("final", now, model, targets)
    alive = _find_candidates(model, targets, masks)
    if found.decides:
        chosen: Arrays = {path: found.score(before[path], after[path]) & alive[path] for path in before}
    else:
        layouts = {target.path: Layout(target.shape, target.units) for target in targets}
        how = find_allocation("uniform" if allocation is None else allocation)
        selector = MaskSelector(variables, layouts, GRANULARITIES["weights"], how, {}, None)
        density = selector.resolve_density(sparsity)
        sizes = {path: pool.size for path, pool in selector.pools.items()}
        parts: dict[str, np.ndarray] = {}
        for share in how.share_out(selector.pools, sizes, density, layouts, density):
            parts |= _choose(found, share, before, after, alive, rng)
        chosen = parts
    empty = find_empty_variables(chosen)
    if empty:
        raise OptionError(
            f"No weight would stay of {', '.join(empty)}. Leave them alone with exclude=[...], or choose another "
            f"sparsity or allocation. Received: criterion={criterion!r}, sparsity={sparsity!r}."
        )
    return Masks({path: chosen[path] for path in before})


def _check_effect(criterion: TrainingCriterion, sparsity: Any, allocation: Any, seed: Any) -> None:
    for name, value in (("sparsity", sparsity), ("allocation", allocation)):
        if criterion.decides and value is not None:
            raise OptionError(
                f"Criterion {criterion.name!r} says itself how many weights stay, so {name}= has no effect; leave it "
                f"out. Received: {name}={value!r}."
            )
    if seed is not None and not criterion.is_random:
        raise OptionError(
            f"seed= has no effect on criterion {criterion.name!r}; leave it out. Received: seed={seed!r}."
        )


def _find_candidates(model: Model, targets: Iterable[ModelVariable], masks: Masks | None) -> dict[str, np.ndarray]:
    """Return where a weight may stay, in the order of the variables."""
    if masks is not None:
        return dict(masks.covering([target.path for target in targets], model))
    carried: Mapping[str, np.ndarray] = get_attached_masks(model) or {}
    return {target.path: carried.get(target.path, np.ones(target.shape, bool)) for target in targets}


def _choose(
    criterion: TrainingCriterion, share: Share, before: Arrays, after: Arrays, alive: Arrays, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return the masks of the variables that compete for one share."""
    initial, final = (np.concatenate([weights[p][alive[p]] for p in share.pools]) for weights in (before, after))
    if share.keep > initial.size:
        raise OptionError(
            f"masks= leaves {initial.size:,} weights of {', '.join(share.pools)}, fewer than the {share.keep:,} that "
            "are to stay. Use a higher sparsity, or the allocation that found these masks."
        )
    scores = criterion.score(initial, final, rng=rng) if criterion.is_random else criterion.score(initial, final)
    if 0 < share.keep < scores.size and (scores == scores[0]).all():
        raise ScoreError(
            f"All weights of {', '.join(share.pools)} score {scores[0]:g} under {criterion.name!r}, so only their "
            "positions would decide. Check that the initial weights are from before training and the final ones from "
            "after it, or leave these variables alone with exclude=[...]."
        )
    kept = keep_top({"": scores}, share.keep)[""]
    ends = np.cumsum([np.count_nonzero(alive[path]) for path in share.pools])
    masks = {}
    for path, part in zip(share.pools, np.split(kept, ends[:-1]), strict=True):
        masks[path] = np.zeros(before[path].shape, bool)
        masks[path][alive[path]] = part
    return masks
