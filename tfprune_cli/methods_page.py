"""docs/methods.md, written from the registers of methods, criteria and scopes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from tfprune_init.criteria import CRITERIA
from tfprune_init.methods import method_named, methods
from tfprune_init.scopes import SCOPES

_HEAD = """# Methods

<!-- Written by `tfprune methods --markdown > docs/methods.md`; a test holds the two equal. Edit docstrings instead. -->

A method is a recipe: a criterion scores every connection, higher = keep; a scope lets the scores compete; a schedule
says how much is left after each step. L is the loss of the model, g = dL/dw its gradient, H its Hessian, w the initial
weight; derivatives are averaged over `batches=` batches, weighted by examples. The cost of a step is in gradient steps
(forward and backward pass of a batch), as counted from the formula; [performance.md](performance.md) has what was
measured. TPU: whether what runs on the device is float32 in static shapes, which XLA compiles; tested with XLA on a
CPU.

For `sparsity=s` every method keeps floor(N x (1 - s)) of the N prunable weights (or units, blocks, channels: what its
scope counts in), never one more, ties or not; ties go to the lower position in the order of the variables.
"""

_CONTROLS = """
## Controls

`shuffle=True` keeps any method's layer densities and moves what is kept to random places within each variable, as
`masks.shuffled(seed)` does: what a method is worth beyond its densities (Frankle et al., Pruning Neural Networks at
Initialization: Why Are We Missing the Mark?, ICLR 2021). `tpi.reinitialize(model, kind)` draws weights anew under the
same masks, whole or with the signs they had, or makes them constant (Zhou et al., Deconstructing Lottery Tickets,
NeurIPS 2019). `normalize="l2"` or `"sum"` divides each variable's scores by their norm before they compete, as
jaxpruner does by default; it is off here. `tpi.PruneDuringTraining` prunes in events while `fit` runs: SNIP-it and
SNAP-it during training.
"""


def methods_page() -> str:
    """The page, as Markdown."""
    return "\n".join([_HEAD, *_methods(), "", "## Criteria", *_criteria(), "", "## Scopes", "", *_scopes(), _CONTROLS])


def _methods() -> Iterable[str]:
    yield _row("`method=`", "keeps the largest", "data", "steps", "cost of a step", "scope", "TPU", "paper")
    yield _row(*["---"] * 8)
    for name in methods():
        method = method_named(name)
        scorer = method.scorer
        plan = f"{method.steps}, {method.schedule}" if method.steps > 1 else "1"
        data = "yes" if method.needs_data else "no"
        cost = scorer.section("Cost")
        tpu = "no: float64" if scorer.needs_float64 else "yes"
        yield _row(f"`{name}`", scorer.section("Formula"), data, plan, cost, f"`{method.scope}`", tpu, method.reference)


def _criteria() -> Iterable[str]:
    for used in dict.fromkeys(method_named(name).criterion for name in methods()):
        criterion = CRITERIA[used]
        users = [name for name in methods() if method_named(name).criterion == used]
        purpose = (inspect.getdoc(criterion.score) or "").split("\n\n")[0].replace("\n", " ")
        yield f"\n### {', '.join(f'`{name}`' for name in users)}\n"
        yield f"{purpose}\n"
        yield f"- Keeps the largest {criterion.section('Formula')}."
        if criterion.own_options:
            options = ", ".join(f"`{key}={value!r}`" for key, value in criterion.own_options.items())
            yield f"- Options: {options}."
        yield f"- Follows: {criterion.section('Follows')}"
        for name in users:
            if method_named(name).follows:
                yield f"- `{name}`: {method_named(name).follows}"
        references = criterion.section("References")
        if references:
            yield f"- {references}"


def _scopes() -> Iterable[str]:
    yield _row("`scope=`", "what competes", "sparsity counts", "options")
    yield _row(*["---"] * 4)
    for scope in SCOPES.values():
        options = ", ".join(f"`{key}={value!r}`" for key, value in scope.options.items())
        yield _row(f"`{scope.name}`", scope.summary, scope.counts_in, options)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
