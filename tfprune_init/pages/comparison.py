"""The page of a comparison of methods."""

from __future__ import annotations

from tfprune_init import plots
from tfprune_init.errors import OptionError
from tfprune_init.experiments import Results, Run
from tfprune_init.pages.page import Column, Page, Picture, Section, Table, accuracy, count, percent, seconds

_METHODS = 8
"""How many methods a picture of masks can hold side by side."""


def comparison_page(results: Results, *, title: str = "Pruning at initialization, compared") -> Page:
    """Tell of a comparison: accuracies, destroyed networks, layers, agreement, every run.

    Args:
        results: What `compare` returned, or `Results.load(folder)`.
        title: The title of the page.

    Returns:
        The page; `page.save("report.html")` writes it.

    Raises:
        OptionError: If there are no runs.

    Example:
        >>> import tfprune_init as tpi
        >>> page = tpi.pages.comparison_page(tpi.Results.load("runs/"))  # doctest: +SKIP
        >>> page.save("report.html")  # doctest: +SKIP
    """
    if not len(results):
        raise OptionError(f"A page needs runs. Received: {results!r}.")
    destroyed = sum(bool(run.destroyed) for run in results)
    facts = [
        ("methods", str(len(results.labels))),
        ("sparsities", ", ".join(percent(sparsity) for sparsity in results.sparsities)),
        ("seeds", str(len({run.seed for run in results}))),
        ("epochs", ", ".join(sorted({str(run.epochs) for run in results}))),
        ("runs", str(len(results))),
        ("destroyed networks", str(destroyed)),
        ("guessing reaches", accuracy(results[0].guess)),
    ]
    sections = [_accuracy(results), *_masks(results), *_searches(results), _runs(results)]
    return Page(title, facts, sections=sections)


def _accuracy(results: Results) -> Section:
    columns = [
        Column("method"),
        Column("sparsity", percent, number=True),
        Column("accuracy", accuracy, number=True),
        Column("±", accuracy, number=True),
        Column("runs", count, number=True),
        Column("destroyed", count, number=True),
    ]
    rows = [[r.label, r.sparsity, r.mean, r.std, r.runs, r.destroyed] for r in results.summary()]
    parts: list[str | Table | Picture] = []
    if any(run.method != "dense" and run.status != "failed" for run in results):
        caption = "Test accuracy after training; points are means over seeds, bars go from the worst to the best."
        parts.append(Picture(plots.accuracy_curve(results), caption))
    told = (
        "A network is destroyed if it is not clearly better (by 5 standard errors) than guessing the most frequent "
        "class, or if pruning cut its outputs off from its inputs. Those count as the guess in the mean. Below: means "
        "over seeds, and standard deviations (±)."
    )
    return Section("Accuracy", [*parts, told, Table(columns, rows)])


def _masks(results: Results) -> list[Section]:
    """The masks of one seed, at the highest sparsity that most methods survive."""
    having = {
        sparsity: [run for run in results if run.sparsity == sparsity and run.seed == results[0].seed and run.layers]
        for sparsity in results.sparsities
    }
    most = max((len(runs) for runs in having.values()), default=0)
    if not most:
        return []
    sparsity = max(sparsity for sparsity, runs in having.items() if len(runs) == most)
    runs = having[sparsity][:_METHODS]
    masks = {run.label: results.masks(run) for run in runs}
    where = f"at {percent(sparsity)}, seed {runs[0].seed}"
    layers = Picture(plots.layer_densities(masks), f"Density and number of weights kept by layer, {where}.")
    if len(masks) == 1:
        return [Section("Layers", [layers])]
    overlap = Picture(plots.overlap(masks), f"How far the masks of two methods agree, {where}.")
    return [Section("Layers", [layers]), Section("Agreement of the masks", [overlap])]


def _searches(results: Results) -> list[Section]:
    """The objective of iterative methods, at the highest sparsity each has."""
    found: dict[str, Run] = {}
    for run in sorted(results, key=lambda run: (run.sparsity, -run.seed)):
        if any(step["objective"] is not None for step in run.steps):
            found[run.label] = run
    if not found:
        return []
    several = {f"{label}, {percent(run.sparsity)}": run for label, run in list(found.items())[:_METHODS]}
    caption = "What the kept connections are worth at each step of a search, and how many are kept."
    return [Section("Searches", [Picture(plots.objective_curve(several), caption)])]


def _runs(results: Results) -> Section:
    columns = [
        Column("method"),
        Column("sparsity", percent, number=True),
        Column("seed", count, number=True),
        Column("accuracy", accuracy, number=True),
        Column("pruned in", seconds, number=True),
        Column("what became of it"),
    ]
    rows = [[run.label, run.sparsity, run.seed, run.accuracy, run.prune_seconds, _fate(run)] for run in results]
    reasons = dict.fromkeys(f"Failed: {run.label}: {run.error}" for run in results if run.status == "failed")
    return Section("Every run", [Table(columns, rows), *reasons])


def _fate(run: Run) -> str:
    return "trained, destroyed" if run.status == "trained" and run.destroyed else run.status
