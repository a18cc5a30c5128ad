"""The calls most people need: score connections, find masks, prune a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tfprune_init.enforce import attach
from tfprune_init.masks import Masks
from tfprune_init.methods import Recipe, recipe_for
from tfprune_init.probe import Probe
from tfprune_init.report import PruningReport, make_report
from tfprune_init.schedules import Schedule
from tfprune_init.search import Search, density_for, search, shown
from tfprune_init.selector import Selector, selector_for
from tfprune_init.steps import finite_scores
from tfprune_init.targets import Filter, find_targets


def prune_at_init(
    model: Any,
    data: Any,
    *,
    sparsity: float,
    method: str = "force",
    loss: Any = None,
    steps: int | None = None,
    schedule: str | Schedule | None = None,
    batches: int | None = None,
    scope: str | None = None,
    normalize: str | None = None,
    shuffle: bool = False,
    filters: Filter | Iterable[Filter] | None = None,
    prune_bias: bool = False,
    batchnorm: str | None = None,
    seed: int = 0,
    jit_compile: bool = False,
    verbose: str | int | bool = "auto",
    **options: Any,
) -> PruningReport:
    """Find masks, set the pruned weights to zero, and hold them there through training.

    Args:
        model: A built model, Keras 3 or tf_keras.
        data: A batched tf.data.Dataset of (x, y) or (x, y, sample_weight), or a tuple of such arrays, batched by
            128. None for methods that look at no data; given to them, it only serves the check that signals
            still pass.
        sparsity: Share of the prunable weights to remove, in [0, 1); of blocks, channels or units for scopes of these.
        method: One of `methods()`.
        loss: What `compile(loss=...)` takes; the compiled loss by default. Weight regularizers are left out of
            it, losses that layers add are part of it.
        steps: Number of steps, for iterative methods.
        schedule: "exponential", "linear", "halving", "one_shot" or a function of (density, steps), for
            iterative methods.
        batches: Batches that each gradient is averaged over, weighted by examples; each step takes the next. 1
            unless the method says otherwise.
        scope: How scores compete: "global" (all weights), "layerwise" (each variable keeps the same share), "erk",
            "er" or "balanced" (each layer its own share), "block", "n_m", "channel" or "units" (whole units).
        normalize: Divide each variable's scores by their L2 norm ("l2") or by their sum ("sum") before they compete.
        shuffle: Keep each layer's density and move what is kept to random places: the control for a method.
        filters: What to leave alone: layer names, variable paths, glob patterns, predicates over a `Target`.
        prune_bias: Whether biases are prunable too.
        batchnorm: "batch" scores as in training (BatchNorm on batch statistics, Dropout active), "inference"
            as in prediction. "batch" unless the method says otherwise.
        seed: Seed of everything random.
        jit_compile: Compile the gradient step with XLA; slower on CPUs.
        verbose: 0 shows nothing, 1 a progress bar, "auto" a progress bar on a terminal.
        **options: Options of the method's criterion and of the scope, such as temperature=200 for "grasp",
            estimator= and samples= for "hessian", block_size=(1, 4) for scope "block", m=4 for "n_m".

    Returns:
        PruningReport; `report.masks` holds the masks.

    Raises:
        OptionError: If an option is out of range, unknown, or has no effect on the method.
        ModelError: If the model is unbuilt, has no loss, holds NaN, or has nothing to prune.
        DataError: If the data is empty, unbatched, holds NaN or Inf, or does not suit the loss.
        ScoreError: If scores are NaN or Inf, or no gradient reaches a variable.
        NetworkCollapseError: If the pruned network would pass no signal. The model is untouched then, as it
            is after every other error.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
        >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> x, y = np.random.default_rng(0).normal(size=(64, 8)), np.arange(64) % 3
        >>> report = tpi.prune_at_init(model, (x, y), sparsity=0.75, method="snip")
        >>> report.masks.kept, report.masks.size
        (44, 176)
    """
    selector, found, recipe = _found(
        model, data, sparsity, method, filters, prune_bias, verbose,
        loss=loss, steps=steps, schedule=schedule, batches=batches, scope=scope, normalize=normalize, shuffle=shuffle,
        batchnorm=batchnorm, seed=seed, jit_compile=jit_compile, **options,
    )  # fmt: skip
    attach(model, found.masks)
    described = {**recipe.described(), "prune_bias": prune_bias}
    return make_report(model, selector.targets, found, recipe.method.name, described, sparsity)


def find_masks(
    model: Any,
    data: Any,
    *,
    sparsity: float,
    method: str = "force",
    filters: Filter | Iterable[Filter] | None = None,
    prune_bias: bool = False,
    verbose: str | int | bool = "auto",
    **options: Any,
) -> Masks:
    """Find masks without touching the model.

    Args:
        model: A built model, Keras 3 or tf_keras.
        data: As in `prune_at_init`.
        sparsity: Share of the prunable weights to remove, in [0, 1).
        method: One of `methods()`.
        filters: What to leave alone.
        prune_bias: Whether biases are prunable too.
        verbose: 0 shows nothing, 1 a progress bar, "auto" a progress bar on a terminal.
        **options: loss, steps, schedule, batches, scope, normalize, shuffle, batchnorm, seed, jit_compile, and
            options of the criterion and the scope, as in `prune_at_init`.

    Returns:
        Masks; every variable of the model has the bits it had before.

    Raises:
        PruningError: As `prune_at_init`.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> tpi.find_masks(model, None, sparsity=0.75, method="random", seed=1)
        Masks(1 variables, 8 of 32 weights kept)
    """
    return _found(model, data, sparsity, method, filters, prune_bias, verbose, **options)[1].masks


def score(
    model: Any,
    data: Any,
    method: str,
    *,
    masks: Masks | None = None,
    filters: Filter | Iterable[Filter] | None = None,
    prune_bias: bool = False,
    verbose: str | int | bool = "auto",
    **options: Any,
) -> dict[str, np.ndarray]:
    """Score every prunable connection once, without touching the model.

    Args:
        model: A built model, Keras 3 or tf_keras.
        data: As in `prune_at_init`.
        method: The method whose criterion scores; higher = keep.
        masks: Judge the network under these masks; the dense one by default. Its pruned connections are
            scored too.
        filters: What to leave alone.
        prune_bias: Whether biases are prunable too.
        verbose: 0 shows nothing, 1 a progress bar for what takes long, "auto" that on a terminal.
        **options: loss, batches, batchnorm, seed, jit_compile, and options of the criterion, as in `prune_at_init`;
            for "exact" also sample=1000, which tries that many weights and gives NaN for the others.

    Returns:
        Mapping from variable path to an array of the variable's shape: float32, float64 for float64 models and for
        "synflow" and "exact".

    Raises:
        PruningError: As `prune_at_init`; MaskMismatchError if `masks` lacks a variable that is scored.

    Example:
        >>> import keras, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")])
        >>> tpi.score(model, None, "magnitude")["head/kernel"].shape
        (8, 4)
    """
    recipe = recipe_for(method, data, options, for_masks=False)
    targets = find_targets(model, filters=filters, prune_bias=prune_bias)
    if masks is not None:
        masks = masks.covering([target.path for target in targets.prunable], model)
    with Probe(model, targets.prunable, data=data, **recipe.probing) as probe:
        probe.show_progress = shown(verbose)
        if masks is not None:
            probe.mask(masks)
        return finite_scores(probe, recipe)


def _found(
    model: Any,
    data: Any,
    sparsity: float,
    method: str,
    filters: Filter | Iterable[Filter] | None,
    prune_bias: bool,
    verbose: str | int | bool,
    **options: Any,
) -> tuple[Selector, Search, Recipe]:
    recipe = recipe_for(method, data, options)
    targets = find_targets(model, filters=filters, prune_bias=prune_bias)
    selector = selector_for(model, targets, recipe, data, prune_bias)
    density = density_for(sparsity, selector)
    with Probe(model, selector.targets.prunable, data=data, **recipe.probing) as probe:
        found = search(probe, selector, recipe, density, verbose=verbose)
        probe.replicas.check_same(
            [np.packbits(found.masks[path]) for path in found.masks],
            "masks",
            "They have different seeds, weights or hardware: give all the same seed, or find masks on one of them, "
            "save them, and tpi.attach them on all.",
        )
        return selector, found, recipe
