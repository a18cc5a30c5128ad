"""docs/methods.md, written from the registries of methods, criteria, granularities and allocations."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from tfprune_init.methods import Method, find_method, list_methods
from tfprune_init.scoring.criteria import CRITERIA
from tfprune_init.scoring.training_criteria import TRAINING_CRITERIA
from tfprune_init.selection import ALLOCATIONS, GRANULARITIES
from tfprune_init.training import RECIPES

_HEAD = """# Methods

<!-- Written by `tfprune methods --markdown > docs/methods.md`; a test holds the two equal. Edit docstrings instead. -->

A method is made of a criterion, which scores every connection, higher = keep; a granularity, what is kept or pruned as
one; an allocation, how the budget is shared out among layers; and a schedule, how much is left after each step. L is
the loss of the model, g = dL/dw its gradient, H its Hessian, w the initial weight; derivatives are averaged over
`batches=` batches, weighted by examples. The cost of a step is in gradient steps (forward and backward pass of a
batch), as counted from the formula; [performance.md](performance.md) has what was measured. TPU: whether what runs on
the device is float32 in static shapes, which XLA compiles; tested with XLA on a CPU.

For `sparsity=s` every method keeps floor(N x (1 - s)) of the N prunable weights (or units, blocks, channels: what its
granularity counts in), never one more, ties or not; ties go to the lower position in the order of the variables.
"""

_CONTROLS = """
## Controls

`shuffle=True` keeps any method's layer densities and moves what is kept to random places within each variable, as
`masks.shuffled(seed)` does: what a method is worth beyond its densities (Frankle et al., Pruning Neural Networks at
Initialization: Why Are We Missing the Mark?, ICLR 2021). `tpi.reinitialize(model, kind)` draws weights anew under the
same masks, makes them constant or shuffles them, with the signs they had or without, and rescales them on request
(Zhou et al., Deconstructing Lottery Tickets, NeurIPS 2019). `normalize="l2"` or `"sum"` divides each variable's
scores by their norm before they compete, as jaxpruner does by default; it is off here. `tpi.PruneDuringTraining`
prunes in events while `fit` runs: SNIP-it and SNAP-it during training, and gradual magnitude pruning (Zhu & Gupta,
2017). `tpi.DynamicPruning` is dynamic pruning with feedback (Lin et al., ICLR 2020).
"""

_AFTER_TRAINING = """## Masks from training

`tpi.find_masks_from_training(model, initial, final, criterion=...)` finds masks from the weights before and after
training (Zhou et al., as above), with the same exact counts: of each kernel (`allocation="uniform"`, the default), or
of all together (`"global"`). w0 is the initial weight, w the final one; ranks ascend among the weights that compete.
Results of the paper: large_final, magnitude_increase, movement and large_init_large_final find good masks; small_final,
small_init and random do not, and large_init is near random.
"""


_WHILE_TRAINING = """
## Procedures

Methods that prune while they train, each an ordered list of events: `tpi.run("lottery_ticket", ...)`, `tfprune run`,
and beside the methods above in `tpi.compare`. [training.md](training.md) explains them and their options. Sparsity:
exact, or found by the procedure itself.
"""


def build_methods_page() -> str:
    """Return the page, as Markdown."""
    return "\n".join(
        [
            _HEAD,
            *_methods(),
            "",
            "## Criteria",
            *_criteria(),
            "",
            "## Granularity",
            "",
            *_granularities(),
            "",
            "## Allocation",
            "",
            *_allocations(),
            _CONTROLS,
            _AFTER_TRAINING,
            *_training_criteria(),
            _WHILE_TRAINING,
            *_procedures(),
            "",
        ]
    )


def _methods() -> Iterable[str]:
    yield _row(
        "`method=`", "keeps the largest", "data", "steps", "cost of a step", "granularity, allocation", "TPU", "paper"
    )
    yield _row(*["---"] * 8)
    for name in list_methods():
        method = find_method(name)
        scorer = method.scorer
        plan = f"{method.steps}, {method.schedule}" if method.steps > 1 else "1"
        data = "yes" if method.needs_data else "no"
        cost = scorer.section("Cost")
        tpu = "no: float64" if scorer.needs_float64 else "yes"
        yield _row(f"`{name}`", scorer.section("Formula"), data, plan, cost, _kind(method), tpu, method.reference)


def _criteria() -> Iterable[str]:
    for used in dict.fromkeys(find_method(name).criterion for name in list_methods()):
        criterion = CRITERIA[used]
        users = [name for name in list_methods() if find_method(name).criterion == used]
        purpose = (inspect.getdoc(criterion.score) or "").split("\n\n")[0].replace("\n", " ")
        yield f"\n### {', '.join(f'`{name}`' for name in users)}\n"
        yield f"{purpose}\n"
        yield f"- Keeps the largest {criterion.section('Formula')}."
        if criterion.own_options:
            options = ", ".join(f"`{key}={value!r}`" for key, value in criterion.own_options.items())
            yield f"- Options: {options}."
        yield f"- Follows: {criterion.section('Follows')}"
        for name in users:
            if find_method(name).follows:
                yield f"- `{name}`: {find_method(name).follows}"
        references = criterion.section("References")
        if references:
            yield f"- {references}"


def _kind(method: Method) -> str:
    return f"`{method.granularity}`, `{method.shares.name}`"


def _granularities() -> Iterable[str]:
    yield _row("`granularity=`", "kept or pruned as one", "sparsity counts", "usual allocation", "options")
    yield _row(*["---"] * 5)
    for one in GRANULARITIES.values():
        options = ", ".join(f"`{key}={value!r}`" for key, value in one.options.items())
        yield _row(f"`{one.name}`", one.summary, one.counts_in, f"`{one.usual_allocation}`", options)


def _allocations() -> Iterable[str]:
    yield _row("`allocation=`", "how the budget is shared out")
    yield _row(*["---"] * 2)
    for one in ALLOCATIONS.values():
        yield _row(f"`{one.name}`", one.summary)
    yield _row("`{layer or pattern: sparsity}`", "each layer its own; layers that are not named compete for `sparsity`")


def _training_criteria() -> Iterable[str]:
    yield _row("`criterion=`", "keeps")
    yield _row(*["---"] * 2)
    for one in TRAINING_CRITERIA.values():
        yield _row(f"`{one.name}`", one.formula)


def _procedures() -> Iterable[str]:
    yield _row("`method=`", "what it does", "sparsity", "trains weights", "options")
    yield _row(*["---"] * 5)
    for recipe in RECIPES.values():
        options = ", ".join(f"`{name}={default!r}`" for name, default in recipe.defaults.items())
        asked = "found" if recipe.decides_sparsity else "exact"
        yield _row(f"`{recipe.name}`", recipe.summary, asked, "yes" if recipe.trains_weights else "no", options)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
