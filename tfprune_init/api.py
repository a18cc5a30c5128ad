"""The calls most people need: score connections, find masks, prune a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfprune_init.backend.protocols import Model
from tfprune_init.graph.variables import Exclusion, find_prunable_variables
from tfprune_init.masking.attachment import attach
from tfprune_init.masks import Masks
from tfprune_init.methods import resolve_method
from tfprune_init.methods.layer_collapse import compute_scores
from tfprune_init.methods.mask_search import find
from tfprune_init.progress import is_progress_shown
from tfprune_init.report import PruningReport, conclude_search
from tfprune_init.scoring import ScoringEngine
from tfprune_init.selection import Budget
from tfprune_init.selection.schedules import Schedule

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tfprune_init.options import ScoreOptions, SearchOptions


def prune_at_init(
    model: Model,
    data: Any,
    *,
    sparsity: float | None = None,
    budget: Budget | None = None,
    method: str = "force",
    loss: Any = None,
    steps: int | None = None,
    schedule: str | Schedule | None = None,
    batches: int | None = None,
    granularity: str | None = None,
    allocation: str | Mapping[str, float] | None = None,
    normalize: str | None = None,
    shuffle: bool = False,
    exclude: Exclusion | Iterable[Exclusion] | None = None,
    prune_bias: bool = False,
    training: bool | None = None,
    seed: int = 0,
    jit_compile: bool = False,
    avoid_layer_collapse: bool | None = None,
    on_collapse: str = "raise",
    verbose: str | int | bool = "auto",
    **options: Any,
) -> PruningReport:
    """Find masks, set the pruned weights to zero, and hold them there through training.

    Args:
        model: A built model, Keras 3 or tf_keras.
        data: A batched tf.data.Dataset of (x, y), (x, y, sample_weight), or x alone where the loss takes no labels.
            Or such arrays, batched by 128: NumPy, tensors (ragged ones too), pandas, lists, in tuples and dicts. Or
            batches from Python: a list of tuples, a PyDataset, a generator, a function that makes one. None for
            methods that look at no data; given to them, it only serves the check that signals still pass.
        sparsity: Share of the prunable weights to remove, in [0, 1); of blocks, channels or units for
            a granularity of these.
        budget: What may stay, in place of `sparsity`: `tpi.Budget(weights=...)`, `tpi.Budget(parameters=...)` or
            `tpi.Budget(multiply_adds=...)`. The largest selection in rank order that fits is kept.
        method: One of `list_methods()`.
        loss: What `compile(loss=...)` takes, or a function (model, batch), told by these names, that returns a scalar.
            By default what the model trains with: its own `compute_loss`, the compiled loss, or the losses that its
            layers add. Weight regularizers are left out of it, losses that layers add are part of it.
        steps: Number of steps, for iterative methods.
        schedule: "exponential", "linear", "halving", "one_shot" or a function of (density, steps), for
            iterative methods.
        batches: Batches that each gradient is averaged over, weighted by examples; each step takes the next. 1
            unless the method says otherwise.
        granularity: What is kept or pruned as one: "weights", "block", "n_m", "per_unit" (as many inputs for
            each output), "channel" (filters of one kernel), "units" (whole units, with all that belongs to them) or
            "tflite" (what TFLite can leave out).
        allocation: How the budget is shared out among layers: "global" (all compete), "uniform" (each layer keeps the
            same share), "erk", "er" or "balanced" (each layer its own share), or a dict from layer name, variable path
            or glob pattern to the sparsity of that layer; layers that it does not name compete for `sparsity`.
        normalize: Divide each variable's scores by their L2 norm ("l2") or by their sum ("sum") before they compete.
        shuffle: Keep each layer's density and move what is kept to random places: the control for a method.
        exclude: What not to prune: layer names, variable paths, glob patterns, predicates over a `ModelVariable`.
        prune_bias: Whether biases are prunable too.
        training: True scores as in training (BatchNorm on batch statistics, Dropout active), False as in prediction.
            True unless the method says otherwise.
        seed: Seed of everything random.
        jit_compile: Compile the gradient step with XLA; slower on CPUs.
        avoid_layer_collapse: False lets "synflow" prune as its scores say, also where that cuts off a layer, as its
            code does; it spares such layers by default.
        on_collapse: What a network is that no longer passes signals: "raise" for an error, "warn" for a warning, and
            masks and report as of any other network.
        verbose: 0 shows nothing, 1 a progress bar, "auto" a progress bar on a terminal.
        **options: Options of the method's criterion and of the granularity, such as temperature=200 for "grasp",
            estimator= and samples= for "hessian", block_size=(1, 4) for "block", m=4 for "n_m".

    Returns:
        PruningReport; `report.masks` holds the masks.

    Raises:
        OptionError: If an option is out of range, unknown, or has no effect on the method.
        ModelError: If the model is unbuilt, has no loss, holds NaN, or has nothing to prune.
        DataError: If the data is empty, unbatched, holds NaN or Inf, or does not suit the loss.
        ScoreError: If scores are NaN or Inf, or no gradient reaches a variable.
        NetworkCollapseError: If the pruned network would pass no signal. The model is untouched then, as it
            is after every other error. It carries `masks` and `report` of the collapsed network.

    Warns:
        LossWarning: If the compiled loss judges a model that trains by a `train_step` of its own.

    Example:
        >>> import keras, numpy as np, tfprune_init as tpi
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
        >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> x, y = np.random.default_rng(0).normal(size=(64, 8)), np.arange(64) % 3
        >>> report = tpi.prune_at_init(model, (x, y), sparsity=0.75, method="snip")
        >>> report.masks.kept, report.masks.size
        (44, 176)
    """
    resolved = resolve_method(method, data, {
        "loss": loss, "steps": steps, "schedule": schedule, "batches": batches, "granularity": granularity,
        "allocation": allocation, "normalize": normalize, "shuffle": shuffle, "training": training, "seed": seed,
        "jit_compile": jit_compile, "avoid_layer_collapse": avoid_layer_collapse, "on_collapse": on_collapse, **options,
    })  # fmt: skip
    found = find(
        model, data, resolved, sparsity=sparsity, budget=budget, exclude=exclude, prune_bias=prune_bias, verbose=verbose
    )
    report = conclude_search(model, found, prune_bias)
    attach(model, found.masks)
    return report


def find_masks(
    model: Model,
    data: Any,
    *,
    sparsity: float | None = None,
    budget: Budget | None = None,
    method: str = "force",
    exclude: Exclusion | Iterable[Exclusion] | None = None,
    prune_bias: bool = False,
    verbose: str | int | bool = "auto",
    **options: Unpack[SearchOptions],
) -> Masks:
    """Find masks without touching the model.

    Args:
        model: A built model, Keras 3 or tf_keras.
        data: As in `prune_at_init`.
        sparsity: Share of the prunable weights to remove, in [0, 1). Give this or `budget`.
        budget: What may stay, in place of `sparsity`: `tpi.Budget(weights=...)`, `tpi.Budget(parameters=...)` or
            `tpi.Budget(multiply_adds=...)`. The largest selection in rank order that fits is kept.
        method: One of `list_methods()`.
        exclude: What not to prune.
        prune_bias: Whether biases are prunable too.
        verbose: 0 shows nothing, 1 a progress bar, "auto" a progress bar on a terminal.
        **options: loss, steps, schedule, batches, granularity, allocation, normalize, shuffle, training, seed,
            jit_compile, avoid_layer_collapse, on_collapse, and options of the criterion and the granularity, as in
            `prune_at_init`.

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
    resolved = resolve_method(method, data, options)
    found = find(
        model, data, resolved, sparsity=sparsity, budget=budget, exclude=exclude, prune_bias=prune_bias, verbose=verbose
    )
    return conclude_search(model, found, prune_bias).masks


def score(
    model: Model,
    data: Any,
    method: str,
    *,
    masks: Masks | None = None,
    exclude: Exclusion | Iterable[Exclusion] | None = None,
    prune_bias: bool = False,
    verbose: str | int | bool = "auto",
    **options: Unpack[ScoreOptions],
) -> dict[str, np.ndarray]:
    """Score every prunable connection once, without touching the model.

    Args:
        model: A built model, Keras 3 or tf_keras.
        data: As in `prune_at_init`.
        method: The method whose criterion scores; higher = keep.
        masks: Judge the network under these masks; the dense one by default. Its pruned connections are
            scored too.
        exclude: What not to prune.
        prune_bias: Whether biases are prunable too.
        verbose: 0 shows nothing, 1 a progress bar for what takes long, "auto" that on a terminal.
        **options: loss, batches, training, seed, jit_compile, and options of the criterion, as in `prune_at_init`;
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
    resolved = resolve_method(method, data, options, for_masks=False)
    targets = find_prunable_variables(model, exclude=exclude, prune_bias=prune_bias)
    if masks is not None:
        masks = masks.covering([target.path for target in targets.prunable], model)
    with ScoringEngine(model, targets.prunable, data=data, **resolved.engine_options) as engine:
        engine.show_progress = is_progress_shown(verbose)
        if masks is not None:
            engine.mask(masks)
        return compute_scores(engine, resolved)
