"""Training of a network with decisions, in three stages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tfprune_init.adaptive.budget_schedule import BudgetSchedule
from tfprune_init.adaptive.example_costs import AdaptiveCost, measure_adaptive_cost
from tfprune_init.adaptive.insertion import insert_saliency
from tfprune_init.backend import compat
from tfprune_init.backend.determinism import deterministic_reductions
from tfprune_init.backend.protocols import Model
from tfprune_init.backend.trainer import compile_like, has_compile_settings
from tfprune_init.checks import check_integer, check_number
from tfprune_init.errors import ModelError
from tfprune_init.layers import ChannelDecisions
from tfprune_init.layers.decision_cost import check_budget
from tfprune_init.training.feed import Feed
from tfprune_init.training.inputs import check_callable, compile_model, make_model, prepare_data
from tfprune_init.training.run_progress import RunProgress


@dataclass(frozen=True)
class AdaptiveStage:
    """One of the three stages.

    Attributes:
        name: "backbone", "modules" or "joint".
        steps: Number of its gradient steps.
        epochs: What `fit` logged, epoch by epoch. The loss has the cost in it from the second stage on.
        metrics: What `model.evaluate` gives on the test data afterwards.
        share: Mean share of the multiply-adds that a test example costs afterwards; 1 without decisions.
    """

    name: str
    steps: int
    epochs: tuple[dict[str, float], ...]
    metrics: dict[str, float]
    share: float


@dataclass(frozen=True, eq=False)
class AdaptiveTraining:
    """A network trained with decisions.

    Attributes:
        model: The network, with its modules; its budget is the one that was asked for.
        stages: What was trained, in order.
        cost: What each test example costs.
        budget: Mean share of the multiply-adds that was asked for. `cost.share` is what was got: training draws the
            mean of a batch to the budget, nothing holds it there.
    """

    model: Model
    stages: tuple[AdaptiveStage, ...]
    cost: AdaptiveCost
    budget: float


def train_adaptively(
    build_model: Callable[..., Any],
    data: Any,
    *,
    budget: float,
    epochs: int,
    module_epochs: int | None = None,
    joint_epochs: int | None = None,
    fall: float = 0.5,
    strength: float = 1.0,
    exclude: str | Iterable[str] = (),
    seed: int = 0,
    verbose: str | int | bool = "auto",
    **options: Any,
) -> AdaptiveTraining:
    """Train a network that decides for each example which channels it computes, to a mean of multiply-adds.

    Three stages, each with a fresh optimizer of the kind that the model is compiled with:

    1. the backbone, as any network;
    2. the modules of `tpi.insert_saliency`, with the backbone frozen and the budget at 1;
    3. all of it, while the budget falls linearly from 1 to the one that is asked for.

    Args:
        build_model: Returns a new untrained model, as in `tpi.run`. An uncompiled model is compiled with Adam, sparse
            categorical cross-entropy of logits and accuracy.
        data: A pair (train, test), a dataset of `tpi.datasets.load`, or a function that returns one.
        budget: Mean share of the multiply-adds that an example may cost, in (0, 1].
        epochs: Walks through the training data in the first stage.
        module_epochs: The same in the second stage. The paper leaves its length open; by default a quarter of
            `epochs`, rounded up. 0 leaves the stage out.
        joint_epochs: The same in the third stage; `epochs` by default.
        fall: Share of the third stage in which the budget falls, in (0, 1]; it stays after that. The paper leaves it
            open; 0.5 is this package's.
        strength: The factor of the cost in the loss. The paper's is not known; 1 is this package's. The larger,
            the nearer to the budget.
        exclude: Convolutions without decisions.
        seed: Seed of the model, the order of arrays, the noise of the decisions and all else that is random. The same
            arguments give the same bits.
        verbose: 0 shows nothing, 1 a progress bar with the time left, "auto" a progress bar on a terminal.
        **options: Options of the modules, as of `tpi.layers.ChannelDecisions`: hidden, pooling, noise, forward,
            temperature, scale, kernel_initializer.

    Returns:
        AdaptiveTraining.

    Raises:
        OptionError: If an option is out of range, unknown or has no effect.
        ModelError: As `tpi.insert_saliency`; or if the loss, optimizer or a metric of the model cannot be copied.
        DataError: If the data is no pair of training and test data.

    Example:
        >>> import tfprune_init as tpi
        >>> digits = tpi.datasets.load("digits")
        >>> def build(seed):
        ...     return tpi.models.lenet_5(digits.input_shape, digits.classes, seed=seed)
        >>> trained = tpi.train_adaptively(build, digits, budget=0.5, epochs=1, strength=5.0, verbose=0)
        >>> [(stage.name, stage.steps) for stage in trained.stages]
        [('backbone', 12), ('modules', 12), ('joint', 12)]

    Reference:
        Chen, Zhu, Li and Zhao, "Self-Adaptive Network Pruning", ICONIP 2019, https://arxiv.org/abs/1910.08906, by its
        abstract: classification loss and cost loss are trained jointly, the budget is met on average. The stages are
        filled in.
    """
    check_callable(build_model)
    budget, seed = check_budget(budget), check_integer("seed", seed, 0)
    lengths = _read_lengths(epochs, module_epochs, joint_epochs)
    check_number("fall", fall, "a number in (0, 1]", lambda given: 0 < given <= 1)
    prepared = prepare_data(data)
    feed = Feed(prepared, seed)
    steps = [length * feed.steps_per_epoch for length in lengths]
    testing = prepared.testing()
    backbone = make_model(build_model, seed)
    compile_model(backbone)
    _insert(backbone, strength, exclude, seed, options)  # refuses what cannot be done before anything trains
    progress = RunProgress()
    stages: list[AdaptiveStage] = []

    def train(name: str, trained: Any, steps: int, callbacks: Sequence[Any] = ()) -> None:
        start = sum(stage.steps for stage in stages)
        stages.append(_train(name, trained, feed, range(start, start + steps), testing, callbacks, progress))

    with progress.show(sum(steps), 0, verbose):
        train("backbone", backbone, steps[0])
        model = _insert(backbone, strength, exclude, seed, options)
        if steps[1]:
            frozen = _freeze_all_but_modules(model)
            compile_like(model, backbone)  # what trains has changed
            train("modules", model, steps[1])
            for layer in frozen:
                layer.trainable = True
            compile_like(model, backbone)
        train("joint", model, steps[2], [BudgetSchedule(budget, max(1, round(fall * steps[2])))])
    return AdaptiveTraining(model, tuple(stages), measure_adaptive_cost(model, testing), budget)


def _read_lengths(epochs: Any, module_epochs: Any, joint_epochs: Any) -> tuple[int, int, int]:
    first = check_integer("epochs", epochs, 1)
    second = -(-first // 4) if module_epochs is None else check_integer("module_epochs", module_epochs, 0)
    return first, second, first if joint_epochs is None else check_integer("joint_epochs", joint_epochs, 1)


def _insert(backbone: Model, strength: float, exclude: Any, seed: int, options: dict[str, Any]) -> Any:
    model = insert_saliency(backbone, strength=strength, exclude=exclude, seed=seed, **options)
    if not has_compile_settings(model):
        raise ModelError(
            f"The loss, optimizer or a metric of model {backbone.name!r} cannot be copied, as each stage needs. Give "
            "it a get_config, and register it with keras.saving.register_keras_serializable."
        )
    return model


def _freeze_all_but_modules(model: Any) -> list[Any]:
    """Freeze all layers that train but the modules; return them."""
    frozen = [layer for layer in model.layers if layer.trainable and not isinstance(layer, ChannelDecisions)]
    for layer in frozen:
        layer.trainable = False
    return frozen


def _train(
    name: str, model: Any, feed: Feed, steps: range, testing: Any, callbacks: Sequence[Any], progress: RunProgress
) -> AdaptiveStage:
    logged: list[dict[str, float]] = []
    with deterministic_reductions():
        for step in steps[:: feed.steps_per_epoch]:
            batches = feed.batches(step, step + feed.steps_per_epoch)
            history = model.fit(batches, shuffle=False, verbose=0, callbacks=list(callbacks)).history
            logged.append({key: float(values[-1]) for key, values in history.items()})
            progress.advance(feed.steps_per_epoch)
    measured = model.evaluate(testing, verbose=0, return_dict=True)
    metrics = {key: float(value) for key, value in measured.items()}
    has_modules = any(isinstance(layer, ChannelDecisions) for layer in compat.get_sublayers(model))
    share = measure_adaptive_cost(model, testing).share if has_modules else 1.0
    return AdaptiveStage(name, len(steps), tuple(logged), metrics, share)
