"""The figures: what they draw is what was computed, and a stranger can read it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text

import tfprune_init as tpi
from tfprune_init import plots
from tfprune_init.errors import MaskMismatchError, OptionError, PruningError
from tfprune_init.experiments import LayerRobustness, Results, RobustnessRow, Run
from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.models import lenet_5, lenet_300_100, resnet50
from tfprune_init.plots.style import format_number, format_percent, get_look
from tfprune_init.training.sensitivity import SensitivityPoint, SensitivityScan

GUESS = 0.125


def run(method: str, sparsity: float, seed: int, accuracy: float | None, **other: Any) -> Run:
    """One run; what is not given is as in a run that went well."""
    values: dict[str, Any] = {
        **{"id": f"{method}-{sparsity}-{seed}", "label": method, "options": {}, "epochs": 1, "status": "trained"},
        **{"error": None, "size": 1000, "kept": round(1000 * (1 - sparsity)), "loss": 1.0, "guess": GUESS},
        **{"destroyed": False, "history": [], "steps": [], "layers": [], "prune_seconds": 1.0, "train_seconds": 1.0},
    }
    return Run(method=method, sparsity=sparsity, seed=seed, accuracy=accuracy, **{**values, **other})


SPARSITIES = [0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999]


def comparison() -> Results:
    """Five methods, seven sparsities, three seeds; SNIP collapses once, destroys two, and one run fails."""
    rng = np.random.default_rng(0)
    runs = [run("dense", 0.0, seed, 0.95 + 0.01 * seed) for seed in range(3)]
    for place, method in enumerate(("force", "snip", "synflow", "random", "magnitude")):
        for sparsity in SPARSITIES:
            for seed in range(3):
                runs.append(run(method, sparsity, seed, 0.9 - 5 * place * (sparsity - 0.9) + 0.03 * rng.random()))
    broken = {
        ("snip", 0.999, 0): {"accuracy": None, "status": "collapsed", "destroyed": True},
        ("snip", 0.998, 1): {"accuracy": 0.13, "destroyed": True},
        ("magnitude", 0.9, 2): {"accuracy": None, "status": "failed", "error": "no memory", "destroyed": None},
    }
    return Results([replace(r, **broken.get((r.method, r.sparsity, r.seed), {})) for r in runs], "unused")


def stepped() -> Results:
    """FORCE with both schedules and several steps, and once as it is by itself."""
    runs = [run("dense", 0.0, 0, 0.95), run("snip", 0.99, 0, 0.5)]
    for steps in (1, 4, 16, 100):
        for seed in range(2):
            runs.append(run("force", 0.99, seed, 0.5 + steps / 400 + seed / 50, options={"steps": steps}))
            linear = {"steps": steps, "schedule": "linear"}
            runs.append(run("force", 0.99, seed, 0.4 + steps / 400 + seed / 50, options=linear))
    return Results([*runs, run("force", 0.99, 0, 0.7)], "unused")


def costly() -> Results:
    """Four methods at two sparsities, of which one trains ten times and one finds its sparsity itself."""
    runs = [run("dense", 0.0, seed, 0.95, multiply_adds=2_000_000) for seed in range(2)]
    for sparsity in (0.9, 0.99):
        for seed in range(2):
            runs.append(run("snip", sparsity, seed, 0.8 + 0.1 * seed, multiply_adds=200_000))
            runs.append(run("lottery_ticket", sparsity, seed, 0.9, multiply_adds=8_000_000 + 4_000_000 * seed))
            runs.append(run("early", sparsity, seed, 0.5))
    own = run("threshold", 0.93, 0, 0.85, multiply_adds=3_000_000)
    return Results([*runs, replace(own, sparsity=None)], "unused")


@pytest.fixture(scope="module")
def lenet() -> Any:
    model = lenet_300_100((8, 8, 1), 10, seed=0)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.fixture(scope="module")
def digits() -> Any:
    return tpi.datasets.load("digits").train


@pytest.fixture(scope="module")
def masks(lenet: Any, digits: Any) -> dict[str, tpi.Masks]:
    return {
        "snip": tpi.find_masks(lenet, digits, sparsity=0.97, method="snip", verbose=0),
        "magnitude": tpi.find_masks(lenet, None, sparsity=0.97, method="magnitude", allocation="uniform", verbose=0),
        "random": tpi.find_masks(lenet, None, sparsity=0.9, method="random", verbose=0),
    }


@pytest.fixture(scope="module")
def convolutions() -> Any:
    """A pruned model."""
    model = lenet_5((8, 8, 1), 10, seed=0)
    tpi.attach(model, tpi.find_masks(model, None, sparsity=0.9, method="random", verbose=0))
    return model


@pytest.fixture(scope="module")
def reports(digits: Any) -> dict[str, Any]:
    found = {}
    for method, steps in (("force", 6), ("iter_snip", 4)):
        model = lenet_300_100((8, 8, 1), 10, seed=0)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        found[method] = tpi.prune_at_init(model, digits, sparsity=0.9, method=method, steps=steps, verbose=0)
    return found


@pytest.fixture(scope="module")
def deep() -> dict[str, Run]:
    """Counts of two methods on ResNet50 at 99.9%, of which one empties many layers."""
    targets = find_prunable_variables(resnet50((32, 32, 3), 10)).prunable
    rng = np.random.default_rng(0)
    sizes = [(target.path, target.size) for target in targets]
    counts = {
        "snip": [0 if i > 11 else size // 50 for i, (_, size) in enumerate(sizes)],
        "random": [int(rng.binomial(size, 0.001)) for _, size in sizes],
        "an unusually long label": [size // 700 + 1 for _, size in sizes],
    }
    return {
        label: run(
            *("snip", 0.999, 0, None),
            label=label,
            layers=[{"path": path, "size": size, "kept": n} for (path, size), n in zip(sizes, kept, strict=True)],
        )
        for label, kept in counts.items()
    }


def robustness(layers: int, columns: int, *, prefix: str = "dense", seed: int = 0) -> LayerRobustness:
    """What layers with other weights make of a network: numbers that were drawn."""
    rng = np.random.default_rng(seed)
    names = ["random", *(f"step {100 * number}" for number in range(columns - 2)), "trained"]
    rows = []
    for layer in range(layers):
        for name in names:
            error, distance = float(rng.random()), None if name == "random" or layer == 1 else float(rng.random())
            rows.append(RobustnessRow(f"{prefix}{layer}", name, error, None, (error,), 9, distance, distance, distance))
    return LayerRobustness(tuple(rows), 0.0215, 100, ())


LONG = "encoder/block_11/self_attention/projection_"


@pytest.fixture(scope="module")
def scan(digits: Any) -> Any:
    model = lenet_300_100((8, 8, 1), 10, seed=0)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(digits, epochs=2, shuffle=False, verbose=0)
    return tpi.scan_sensitivity(model, digits, sparsities=[0.25, 0.5, 0.75, 0.9, 0.97], verbose=0)


def many_layers() -> SensitivityScan:
    """A scan of all kernels of a ResNet50, with made-up losses."""
    targets = find_prunable_variables(resnet50((32, 32, 3), 10)).prunable
    points = [
        SensitivityPoint(target.path, share, 1, target.size, {"loss": 0.3 + share**4 * 40 / (place + 5)})
        for place, target in enumerate(targets)
        for share in (0.5, 0.75, 0.9, 0.95)
    ]
    return SensitivityScan({"loss": 0.3}, tuple(points))


NOTHING = {"dense1/kernel": np.zeros((64, 300), bool)}
FIGURES: dict[str, Callable[[Callable[[str], Any]], Any]] = {
    "accuracy": lambda get: plots.accuracy_curve(comparison()),
    "accuracy, one seed": lambda get: plots.accuracy_curve([r for r in comparison() if r.seed == 1], title="Digits"),
    "steps": lambda get: plots.steps_curve(stepped()),
    "cost": lambda get: plots.cost_curve(costly(), sparsity=0.9),
    "cost of one": lambda get: plots.cost_curve([run("snip", 0.9, 0, 0.5, multiply_adds=3_000_000)]),
    "layers": lambda get: plots.layer_densities(get("masks")),
    "layers of ResNet50": lambda get: plots.layer_densities(get("deep")),
    "weights": lambda get: plots.weight_histograms(get("lenet"), get("masks")["snip"], paths="dense1/kernel"),
    "weights of all": lambda get: plots.weight_histograms(get("lenet"), get("masks")["random"]),
    "neurons": lambda get: plots.connections_per_neuron(get("lenet"), get("masks")["snip"]),
    "neurons of one layer": lambda get: plots.connections_per_neuron(get("convolutions"), paths="dense/kernel"),
    "kernel": lambda get: plots.kernel_heat_map(get("masks")["snip"], "dense1/kernel"),
    "kernel, weights": lambda get: plots.kernel_heat_map(get("masks")["random"], "head/kernel", weights=get("lenet")),
    "objective": lambda get: plots.objective_curve(get("reports")),
    "objective of one": lambda get: plots.objective_curve(get("reports")["force"]),
    "overlap": lambda get: plots.overlap(get("masks")),
    "sensitivity": lambda get: plots.sensitivity(get("scan")),
    "sensitivity of many layers, loss": lambda get: plots.sensitivity(many_layers(), metric="loss"),
    "one run": lambda get: plots.accuracy_curve([run("snip", 0.9, 0, 0.5)]),
    "one step": lambda get: plots.steps_curve([run("force", 0.9, 0, 0.5, options={"steps": 3})]),
    "a method that always failed": lambda get: plots.accuracy_curve(
        [run("dense", 0.0, 0, None, status="failed"), run("a", 0.9, 0, None, status="failed"), run("b", 0.9, 0, 0.5)]
    ),
    "layers without weights": lambda get: plots.layer_densities({"a": NOTHING, "b": NOTHING}),
    "neurons without weights": lambda get: plots.connections_per_neuron(get("lenet"), NOTHING),
    "kernel without weights": lambda get: plots.kernel_heat_map(NOTHING, "dense1/kernel"),
    "objective of one step": lambda get: plots.objective_curve(
        run("force", 0.5, 0, 0.5, steps=[{"number": 1, "density": 0.5, "kept": 5, "objective": 2.0}])
    ),
    "overlap of eight": lambda get: plots.overlap({f"method {i}": get("masks")["snip"].shuffled(i) for i in range(8)}),
    "robust layers": lambda get: plots.layer_robustness(robustness(6, 8)),
    "robust layers, two networks": lambda get: plots.layer_robustness(
        {"dense": robustness(6, 8), "FORCE at 90%": robustness(6, 8, seed=1)}
    ),
    "robust layers, four networks": lambda get: plots.layer_robustness(
        {f"network {i}": robustness(3, 8, seed=i) for i in range(4)}
    ),
    "robust layers, distances": lambda get: plots.layer_robustness(robustness(6, 8), quantity="normalized_l2"),
    "robust layers, many": lambda get: plots.layer_robustness(
        {"dense": robustness(107, 103, prefix=LONG), "sparse": robustness(107, 103, prefix=LONG)}
    ),
    "one robust layer": lambda get: plots.layer_robustness(robustness(1, 3), quantity="linf"),
}  # fmt: skip


def drawn_texts(figure: Any) -> list[tuple[Text, Any]]:
    """Every text that is really drawn, with its box in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found: dict[int, Text] = {}
    draw = Text.draw

    def record(self: Text, *args: Any, **options: Any) -> None:
        if self.get_visible() and self.get_text().strip():
            found[id(self)] = self
        draw(self, *args, **options)

    with mock.patch.object(Text, "draw", record):
        canvas.draw()
    return [(text, text.get_window_extent(canvas.get_renderer())) for text in found.values()]


@pytest.mark.parametrize("name", FIGURES)
def test_a_stranger_can_read_it(name: str, request: pytest.FixtureRequest) -> None:
    figure = FIGURES[name](request.getfixturevalue)
    texts = drawn_texts(figure)
    assert len(texts) > 5
    assert figure.get_figwidth() <= 6.5
    assert min(text.get_fontsize() for text, _ in texts) >= 7
    for text, box in texts:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert inside, f"{text.get_text()!r} leaves the figure"
    straight = [(text, box) for text, box in texts if text.get_rotation() % 90 == 0]
    for (one, a), (other, b) in combinations(straight, 2):
        apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
        assert apart, f"{one.get_text()!r} and {other.get_text()!r} overlap"
    for axes in figure.axes:
        named = axes.get_xlabel() or axes.get_ylabel() or axes.get_title()
        assert named or not axes.axison, "axes without a word"


def test_series_differ_without_colours() -> None:
    looks = [get_look(number) for number in range(30)]
    assert len({(one.marker, str(one.line)) for one in looks}) == 30


@pytest.mark.parametrize(("share", "text"), [(0.9, "90%"), (0.995, "99.5%"), (0.999, "99.9%"), (0.9999, "99.99%")])
def test_percent(share: float, text: str) -> None:
    assert format_percent(share) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0.001, "0.001"), (5e3, "5000"), (2e4, "20k"), (5e5, "500k"), (1e6, "1M")]
)
def test_short_number(number: float, text: str) -> None:
    assert format_number(number) == text


# ---------------------------------------------------------------------------------------------------- accuracies


def line_of(axes: Any, label: str) -> Any:
    (line,) = [line for line in axes.get_lines() if line.get_label().split(" (")[0] == label]
    return line


def test_accuracies_are_means_over_seeds_with_their_range() -> None:
    results = comparison()
    figure = plots.accuracy_curve(results, title="Digits")
    (axes,) = figure.axes
    bars = iter(axes.collections)
    for label in ("force", "snip", "synflow", "random", "magnitude"):
        mine = [r for r in results if r.label == label and r.status != "failed"]
        values = [
            [100 * (GUESS if r.accuracy is None else r.accuracy) for r in mine if r.sparsity == sparsity]
            for sparsity in sorted(SPARSITIES, reverse=True)
        ]
        x, y = line_of(axes, label).get_data()
        np.testing.assert_allclose(x, [1 - s for s in sorted(SPARSITIES, reverse=True)], rtol=0.1)
        np.testing.assert_allclose(y, [np.mean(v) for v in values])
        ends = [segment[:, 1] for segment in next(bars).get_segments()]
        np.testing.assert_allclose(ends, [[min(v), max(v)] for v in values])
        summary = {row.sparsity: row.mean for row in results.summary() if row.label == label}
        np.testing.assert_allclose(y, [100 * summary[s] for s in sorted(SPARSITIES, reverse=True)])
    np.testing.assert_allclose(
        axes.get_lines()[1].get_ydata(), [96, 96]
    )  # after the dense network's place in the legend
    band = next(patch for patch in axes.patches)
    np.testing.assert_allclose([band.get_y(), band.get_height()], [95, 2])
    np.testing.assert_allclose(line_of(axes, "guessing one class").get_ydata(), 2 * [100 * GUESS])
    (cross,) = [line for line in axes.get_lines() if line.get_marker() == "x" and len(line.get_xdata())]
    np.testing.assert_allclose(cross.get_ydata(), [100 * GUESS])
    np.testing.assert_allclose(cross.get_xdata(), line_of(axes, "snip").get_xdata()[:1])
    assert axes.get_xscale() == "log"
    assert axes.xaxis_inverted()
    ticks = {label.get_text(): label.get_position()[0] for label in axes.get_xticklabels()}
    assert ticks == pytest.approx(
        {"90%": 0.1, "95%": 0.05, "98%": 0.02, "99%": 0.01, "99.5%": 0.005, "99.8%": 0.002, "99.9%": 0.001}
    )
    assert axes.get_title() == "Digits"


def test_what_became_of_the_networks_is_in_the_legend() -> None:
    figure = plots.accuracy_curve(comparison())
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert {"dense, not pruned", "snip (2 of 21 destroyed)", "magnitude (1 of 21 failed)", "force"} < set(words)
    assert "collapsed: pruning cut the network in two" in words
    assert "mean of 2 to 3 seeds; bars: worst to best seed" in legend.get_title().get_text()
    lost = plots.accuracy_curve([replace(r, status="failed") if r.method == "dense" else r for r in comparison()])
    assert lost.legends[0].get_texts()[0].get_text() == "dense, not pruned (3 of 3 failed)"
    plain = plots.accuracy_curve([r for r in comparison() if r.method == "force" and r.seed == 0])
    assert plain.legends[0].get_title().get_text() == "one seed each"
    assert [text.get_text() for text in plain.legends[0].get_texts()] == ["force", "guessing one class"]


def test_random_pruning_is_gray_and_dashed() -> None:
    (axes,) = plots.accuracy_curve(comparison()).axes
    line = line_of(axes, "random")
    red, green, blue = (int(to_hex(line.get_color())[i : i + 2], 16) for i in (1, 3, 5))
    assert red == green == blue
    assert line.get_linestyle() == "--"
    assert len({to_hex(line_of(axes, name).get_color()) for name in ("force", "snip", "synflow", "magnitude")}) == 4


def test_close_sparsities_share_labels() -> None:
    close = [0.9, 0.901, 0.902, 0.98, 0.981]
    (axes,) = plots.accuracy_curve([run("snip", sparsity, 0, 0.5) for sparsity in close]).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["98.1%", "90%"]
    np.testing.assert_allclose(sorted(axes.get_xticks(minor=True)), sorted(1 - s for s in close[1:4]))


def test_accuracy_against_steps() -> None:
    results = stepped()
    (axes,) = plots.steps_curve(results).axes
    for place, (label, base) in enumerate((("exponential schedule", 50), ("linear schedule", 40))):
        x, y = line_of(axes, label).get_data()
        steps = np.array([1, 4, 16, 60, 100] if place == 0 else [1, 4, 16, 100])
        expected = base + steps / 4 + 1.0
        expected[steps == 60] = 70.0  # the run with FORCE's own number of steps
        np.testing.assert_allclose(x, steps, rtol=0.05)
        np.testing.assert_allclose(y, expected)
    np.testing.assert_allclose(axes.get_lines()[1].get_ydata(), [95, 95])
    assert axes.get_title() == "Steps of force at 99% sparsity"
    assert "snip" not in " ".join(line.get_label() for line in axes.get_lines())


def test_several_methods_with_steps_are_told_apart() -> None:
    runs = [
        run(method, 0.9, 0, 0.5, options={"steps": steps, "batches": 2})
        for method in ("force", "iter_snip")
        for steps in (1, 2)
    ]
    (axes,) = plots.steps_curve(runs).axes
    labels = [line.get_label() for line in axes.get_lines() if line.get_marker() in ("o", "s")]
    assert labels == ["force, exponential schedule, batches=2", "iter_snip, exponential schedule, batches=2"]


def test_accuracy_against_cost() -> None:
    (axes,) = plots.cost_curve(costly(), sparsity=0.9).axes
    shown = {
        "snip": (0.1, 85),
        "lottery_ticket": (5, 90),
        "threshold, 93% reached": (1.5, 85),
        "dense, trained once": (1, 95),
    }
    for label, (cost, accuracy) in shown.items():
        x, y = line_of(axes, label).get_data()
        np.testing.assert_allclose((*x, *y), (cost, accuracy))
    assert "early" not in " ".join(line.get_label() for line in axes.get_lines())  # no cost is known of it
    low, high = axes.get_xlim()
    assert low < 0.1 < 5 < high
    assert axes.get_ylim()[0] > 70  # nobody comes near guessing
    lost = [run("snip", 0.9, seed, 0.3 + 0.5 * seed, multiply_adds=3) for seed in range(2)]
    np.testing.assert_allclose(
        line_of(plots.cost_curve(lost).axes[0], "guessing one class").get_ydata(), 2 * [100 * GUESS]
    )
    with pytest.raises(OptionError, match=r"Choose one sparsity: sparsity=0\.9"):
        plots.cost_curve(costly())
    with pytest.raises(OptionError, match="No run says what it cost"):
        plots.cost_curve(comparison())


def test_what_a_procedure_finds_stands_where_it_is() -> None:
    (axes,) = plots.accuracy_curve(costly()).axes
    x, y = line_of(axes, "threshold").get_data()
    np.testing.assert_allclose((*x, *y), (0.07, 85), rtol=0.05)


# -------------------------------------------------------------------------------------------------------- layers


def test_densities_and_counts_of_layers(masks: dict[str, tpi.Masks]) -> None:
    empty = tpi.Masks({path: mask if path != "dense2/kernel" else 0 * mask for path, mask in masks["snip"].items()})
    figure = plots.layer_densities({"whole": masks["random"], "cut": empty})
    left, right, cells = figure.axes
    for axes, values in ((left, lambda mask: 100 * mask.mean()), (right, lambda mask: mask.sum())):
        whole, cut, hollow = axes.get_lines()
        np.testing.assert_allclose(whole.get_xdata(), [values(mask) for mask in masks["random"].values()])
        np.testing.assert_allclose(
            cut.get_xdata()[[0, 2]], [values(empty["dense1/kernel"]), values(empty["head/kernel"])]
        )
        assert np.isnan(cut.get_xdata()[1])
        np.testing.assert_array_equal(hollow.get_ydata(), [1])
        assert hollow.get_xdata()[0] < np.nanmin([*whole.get_xdata(), *cut.get_xdata()])
        assert axes.get_xticklabels()[0].get_text() == "0"
    assert cut.get_label() == "cut (1 empty)"
    assert [label.get_text() for label in left.get_yticklabels()] == ["dense1", "dense2", "head"]
    texts = [text.get_text() for text in cells.texts]
    order = sorted(empty, key=lambda path: int(empty[path].sum()))
    assert texts == [f"{int(both[path].sum()):,}" for path in order for both in (masks["random"], empty)]
    assert texts[1] == "0"
    assert [label.get_text() for label in cells.get_xticklabels()] == ["whole", "cut"]


def test_layers_of_runs_reports_and_models(deep: dict[str, Run], reports: dict[str, Any]) -> None:
    left, right, _ = plots.layer_densities(deep).axes
    assert len(left.get_yticklabels()) == 54
    counts = [row["kept"] for row in deep["random"].layers]
    np.testing.assert_array_equal(right.get_lines()[2].get_xdata(), counts)
    model = lenet_300_100((8, 8, 1), 10, seed=0)
    tpi.attach(model, reports["force"].masks)
    _, right, _ = plots.layer_densities({"report": reports["force"], "model": model}).axes
    for line in right.get_lines():
        np.testing.assert_array_equal(line.get_xdata(), [row.kept for row in reports["force"].layers])


def test_a_layer_that_one_method_left_alone() -> None:
    figure = plots.layer_densities({"a": {"x/kernel": [1, 0], "y/kernel": [1, 1]}, "b": {"x/kernel": [0, 0]}})
    assert sorted(text.get_text() for text in figure.axes[2].texts) == ["0", "1", "2", "no mask"]


# ------------------------------------------------------------------------------------------------------- weights


def test_histograms_of_weights_add_up(lenet: Any, masks: dict[str, tpi.Masks]) -> None:
    snip = masks["snip"]
    weights = {layer.path + "/kernel": np.asarray(layer.kernel) for layer in lenet.layers if hasattr(layer, "kernel")}
    figure = plots.weight_histograms(lenet, snip, paths=list(snip))
    top, share, *panels = figure.axes
    every = np.concatenate([weights[path].ravel() for path in snip])
    kept = np.concatenate([weights[path][snip[path]] for path in snip])
    values, edges, _ = top.patches[0].get_data()
    np.testing.assert_allclose([edges[0], edges[-1]], [every.min(), every.max()])
    assert values.sum() == every.size
    brute = [sum(low <= w < high for w in kept) for low, high in pairwise(edges)]
    brute[-1] += int(np.count_nonzero(kept == edges[-1]))
    np.testing.assert_array_equal(top.patches[2].get_data().values, brute)
    assert sum(brute) == snip.kept
    np.testing.assert_array_equal(top.patches[1].get_data().values, values - brute)
    np.testing.assert_allclose(share.patches[0].get_data().values, 100 * np.array(brute) / values)
    for axes, path in zip(panels, snip, strict=False):
        totals = [patch.get_data().values.sum() for patch in axes.patches]
        assert totals == [snip[path].size, snip[path].size - snip[path].sum(), snip[path].sum()]


# ------------------------------------------------------------------------------------------------------- neurons


def mixed() -> Any:
    """Kernels whose units lie on different axes."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(5, 3, name="conv")(inputs)
    x = keras.layers.Conv2DTranspose(4, 2, name="transpose")(x)
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    x = keras.layers.Reshape((-1, 8), name="rows")(x)
    x = keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    return keras.Model(inputs, keras.layers.Dense(80, name="head")(x))


# By hand: the sums that leave one number for each output unit, and for each input unit.
FAN = {
    "conv/kernel": ("hwio->o", "hwio->i"),
    "transpose/kernel": ("hwoi->o", "hwoi->i"),
    "depthwise/kernel": ("hwim->im", "hwim->i"),
    "attention/query/kernel": ("ihd->hd", "ihd->i"),
    "attention/attention_output/kernel": ("hdo->o", "hdo->hd"),
    "head/kernel": ("io->o", "io->i"),
}


def bars_of(axes: Any) -> dict[float, float]:
    """Height by middle of each bar that has one."""
    return {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in axes.patches if bar.get_height()}


def test_connections_of_neurons_of_every_kind() -> None:
    model = mixed()
    masks = tpi.find_masks(model, None, sparsity=0.8, method="random", seed=1)
    figure = plots.connections_per_neuron(model, masks)
    panels = iter(figure.axes)
    checked = 0
    for path, mask in masks.items():
        for rule in FAN.get(path.replace("depthwise_kernel", "kernel"), (None, None)):
            axes = next(panels)
            if rule is None:
                continue
            fan = np.einsum(rule, mask.astype(int)).ravel()
            assert fan.max() <= 30, "one bar for each number"
            numbers, units = np.unique(fan, return_counts=True)
            assert bars_of(axes) == dict(zip(numbers.tolist(), units.tolist(), strict=True)), path
            assert axes.get_title().endswith(f"dead: {np.count_nonzero(fan == 0)} of {fan.size}")
            checked += 1
    assert checked == 2 * len(FAN)


def test_wide_layers_share_bars_but_dead_units_stand_alone(lenet: Any) -> None:
    kernel = np.zeros((64, 300), bool)
    kernel[:50, 1] = True  # one unit with 50 of 64 weights
    kernel[:1, 2:5] = True
    masks = tpi.Masks({"dense1/kernel": kernel})
    left, right = plots.connections_per_neuron(lenet, masks).axes
    assert bars_of(left) == {-0.5: 296, 1.5: 3, 49.5: 1}
    assert bars_of(right) == {0: 14, 1: 49, 4: 1}
    assert [to_hex(bar.get_facecolor()) for bar in left.patches if bar.get_x() < 0] == ["#000000"]
    assert left.get_title() == "dense1, fan-in\ndead: 296 of 300"


# ------------------------------------------------------------------------------------------------------- kernels


def image_of(figure: Any) -> np.ndarray:
    return np.asarray(figure.axes[0].images[0].get_array().filled(0.0))


def test_kernels_as_images() -> None:
    model = mixed()
    masks = tpi.find_masks(model, None, sparsity=0.7, method="random", seed=2)
    for path, rule in {
        "conv/kernel": "hwio->io",
        "transpose/kernel": "hwoi->io",
        "depthwise/kernel": "hwim->im",
        "head/kernel": "io->io",
    }.items():
        figure = plots.kernel_heat_map(masks, path, model=model)
        np.testing.assert_array_equal(image_of(figure), np.einsum(rule, masks[path].astype(int)), err_msg=path)
        assert f"{masks[path].sum():,} of {masks[path].size:,} weights kept" in figure.axes[0].get_title()
        assert figure.axes[0].get_xlabel() == "output unit"
    query = image_of(plots.kernel_heat_map(masks, "attention/query/kernel", model=model))
    np.testing.assert_array_equal(query, masks["attention/query/kernel"].reshape(8, 6))
    bar = plots.kernel_heat_map(masks, "conv/kernel").axes[1]
    assert bar.get_ylabel() == "weights kept in a cell (of 9)"
    weights = np.asarray(model.get_layer("conv").kernel)
    figure = plots.kernel_heat_map(masks, "conv/kernel", weights=model)
    np.testing.assert_allclose(image_of(figure), (abs(weights) * masks["conv/kernel"]).sum(axis=(0, 1)), rtol=1e-6)
    pruned = keras.models.clone_model(model)
    tpi.attach(pruned, masks)
    np.testing.assert_array_equal(
        image_of(plots.kernel_heat_map(pruned, "transpose/kernel")),
        np.einsum("hwoi->io", masks["transpose/kernel"].astype(int)),
    )


def test_large_kernels_are_drawn_by_cells_that_lose_nothing() -> None:
    mask = np.random.default_rng(0).random((700, 129)) < 0.001
    figure = plots.kernel_heat_map({"dense/kernel": mask}, "dense/kernel")
    image = image_of(figure)
    assert image.shape == (-(-700 // 6), -(-129 // 2))
    assert image.sum() == mask.sum()
    assert image[3, 5] == mask[18:24, 10:12].sum()
    assert image[-1, -1] == mask[696:, 128:].sum()
    assert image_of(plots.kernel_heat_map({"w/kernel": np.ones((128, 256))}, "w/kernel")).shape == (128, 128)
    assert figure.axes[0].get_ylabel() == "input unit (6 to a cell)"
    assert figure.axes[0].get_xlabel() == "output unit (2 to a cell)"


# ----------------------------------------------------------------------------------------- objective and overlap


def test_objective_by_step(reports: dict[str, Any]) -> None:
    top, bottom = plots.objective_curve(reports).axes
    for number, (label, report) in enumerate(reports.items()):
        x, y = top.get_lines()[number].get_data()
        np.testing.assert_array_equal(x, np.arange(1, len(report.steps) + 1))
        np.testing.assert_array_equal(y, [step.objective for step in report.steps])
        density = bottom.get_lines()[number].get_ydata()
        np.testing.assert_allclose(density, [100 * 0.1 ** (t / len(x)) for t in x])
        assert top.get_lines()[number].get_label() == label
    alone = plots.objective_curve(reports["force"])
    assert [text.get_text() for text in alone.legends[0].get_texts()] == ["force"]
    steps = [{"number": 1, "density": 0.5, "kept": 5, "objective": 2.0}]
    (line,) = plots.objective_curve(run("force", 0.5, 0, 0.5, steps=steps)).axes[0].get_lines()
    assert line.get_ydata().tolist() == [2.0]


def pairs(masks: dict[str, tpi.Masks]) -> Iterator[tuple[str, str, float]]:
    for one, a in masks.items():
        kept = {(path, *place) for path, mask in a.items() for place in np.argwhere(mask).tolist()}
        for other, b in masks.items():
            also = {(path, *place) for path, mask in b.items() for place in np.argwhere(mask).tolist()}
            yield one, other, len(kept & also) / len(kept | also)


def test_overlap_by_brute_force(masks: dict[str, tpi.Masks]) -> None:
    figure = plots.overlap(masks)
    cells = iter(figure.axes[0].texts)
    shown = np.asarray(figure.axes[0].images[0].get_array()).ravel()
    for value, (one, other, expected) in zip(shown, pairs(masks), strict=True):
        assert plots.iou(masks[one], masks[other]) == value == pytest.approx(expected, rel=1e-12)
        text = next(cells).get_text()
        chance = "" if one == other else f"\n({plots.chance_iou(masks[one], masks[other]):.2g})"
        assert text == f"{expected:.3f}{chance}"
    assert plots.iou({"w": [0, 0]}, {"w": [0, 0]}) == 1.0
    assert plots.iou({"w": [1, 0]}, {"w": [0, 0]}) == 0.0


def test_robust_layers_are_the_rows_of_a_heat_map() -> None:
    one, other = robustness(6, 8), robustness(6, 8, seed=1)
    figure = plots.layer_robustness({"dense": one, "sparse": other})
    left, right, bar = figure.axes
    for axes, result in ((left, one), (right, other)):
        image = axes.images[0]
        expected = [[100 * result.get(layer, name).error for name in one.columns] for layer in one.layers]
        np.testing.assert_allclose(image.get_array().filled(-1), expected)
        assert image.get_clim() == (0, 100 * max(row.error for row in (*one.rows, *other.rows)))
        assert [text.get_text() for text in axes.texts] == [f"{value:.1f}" for row in expected for value in row]
    assert [text.get_text() for text in left.get_yticklabels()] == list(one.layers)
    assert [text.get_text() for text in right.get_xticklabels()] == list(one.columns)
    assert left.get_title() == "dense\ntrained: 2.15% error"
    assert bar.get_ylabel() == "test error (%)"


def test_distances_leave_out_what_was_drawn_and_what_has_no_parameters() -> None:
    result = robustness(4, 5)
    (axes, _) = plots.layer_robustness(result, quantity="linf").axes
    image = axes.images[0].get_array()
    assert image.mask.tolist() == [[layer == 1] * 4 for layer in range(4)]
    assert image[3, 2] == result.get("dense3", "step 200").linf
    assert [text.get_text() for text in axes.get_xticklabels()] == list(result.columns[1:])
    assert axes.get_title() == "distance from step 0"


def test_chance_is_what_random_masks_have() -> None:
    rng = np.random.default_rng(0)
    a, b = (tpi.Masks({"w": rng.permutation(100_000) < kept}) for kept in (20_000, 5_000))
    assert plots.chance_iou(a, b) == pytest.approx(0.2 * 0.05 / (0.2 + 0.05 - 0.2 * 0.05))
    assert plots.iou(a, b) == pytest.approx(plots.chance_iou(a, b), rel=0.1)


# ------------------------------------------------------------------------------------------------------ refusals


TWO = {"a/kernel": [[1, 0], [0, 1]]}
ONES = {"a/kernel": [[1.0, 1.0], [1.0, 1.0]]}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plots.accuracy_curve([]), OptionError, "Received: no runs"),
        (lambda: plots.accuracy_curve([run("snip", 0.9, 0, None, status="failed")]), OptionError, "1 runs, all failed"),
        (lambda: plots.accuracy_curve([run("dense", 0.0, 0, 0.9)]), OptionError, "only the dense baseline"),
        (lambda: plots.steps_curve(comparison()), OptionError, "No run was given steps"),
        (lambda: plots.steps_curve(stepped(), sparsity=0.5), OptionError, "Received: sparsity=0.5; runs at 0.99"),
        (
            lambda: plots.steps_curve([run("force", s, 0, 0.9, options={"steps": 2}) for s in (0.9, 0.95)]),
            *(OptionError, "runs at 0.9, 0.95"),
        ),
        (
            lambda: plots.steps_curve([*stepped(), run("force", 0.9, 0, None, status="failed")], sparsity=0.9),
            *(OptionError, "1 runs, all failed"),
        ),
        (lambda: plots.layer_densities(tpi.Masks(TWO)), OptionError, "A mapping from label to masks"),
        (lambda: plots.layer_densities({}), OptionError, "A mapping from label to masks"),
        (lambda: plots.layer_densities({"a": TWO, "b": {"a/kernel": [1]}}), MaskMismatchError, "4 weights, and with 1"),
        (lambda: plots.layer_densities({"a": run("snip", 0.9, 0, None)}), OptionError, "A run without masks"),
        (lambda: plots.layer_densities({"a": 3}), OptionError, r"Received: builtins\.int"),
        (lambda: plots.weight_histograms({"b/kernel": [1.0]}, TWO), MaskMismatchError, "no weights of that path"),
        (lambda: plots.weight_histograms({"a/kernel": [1.0]}, TWO), MaskMismatchError, r"shape \(1,\)"),
        (lambda: plots.weight_histograms({"a/kernel": np.eye(2)}, TWO), OptionError, "zero wherever the masks prune"),
        (lambda: plots.weight_histograms(ONES, TWO, paths="a"), OptionError, "There is: a/kernel"),
        (lambda: plots.weight_histograms(ONES, TWO, paths=[]), OptionError, "Received: none"),
        (lambda: plots.kernel_heat_map(TWO, "b/kernel"), OptionError, "no mask for 'b/kernel'"),
        (lambda: plots.kernel_heat_map({"a/bias": [1, 0]}, "a/bias"), OptionError, r"'a/bias' of shape \(2,\)"),
        (lambda: plots.kernel_heat_map(TWO, "a/kernel", weights={}), OptionError, "Received: none"),
        (lambda: plots.overlap({"a": TWO, "b": {"b/kernel": [1]}}), MaskMismatchError, "a/kernel, b/kernel"),
        (lambda: plots.iou(TWO, {"a/kernel": [1]}), MaskMismatchError, "Not the same in both: a/kernel"),
        (lambda: plots.objective_curve(run("snip", 0.9, 0, 0.5)), OptionError, "'snip' has no objective"),
        (lambda: plots.layer_robustness({}), OptionError, "an empty mapping"),
        (lambda: plots.layer_robustness([1]), OptionError, "Received: list"),
        (lambda: plots.layer_robustness({"a": 1}), OptionError, "Received: int at 'a'"),
        (lambda: plots.layer_robustness(robustness(2, 3), quantity="l2"), OptionError, "error, normalized_l2, linf"),
        (
            lambda: plots.layer_robustness({"a": robustness(2, 3), "b": robustness(2, 4)}),
            OptionError,
            "the same layers and checkpoints",
        ),
    ],
)  # fmt: skip
def test_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_neurons_need_kernels_of_the_model(lenet: Any) -> None:
    with pytest.raises(MaskMismatchError, match="Not in the model: a/kernel"):
        plots.connections_per_neuron(lenet, TWO)
    masks = tpi.find_masks(lenet, None, sparsity=0.5, method="random", prune_bias=True)
    assert len(plots.connections_per_neuron(lenet, masks).axes) == 8  # three kernels, and an empty place for a fourth
    with pytest.raises(OptionError, match=r"Only kernels connect inputs with outputs\. Received: dense1/bias"):
        plots.connections_per_neuron(lenet, masks, paths=["dense1/bias"])


def test_matplotlib_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PruningError, match=r'pip install "tfprune_init\[viz\]"'):
        plots.overlap({"a": TWO})


def test_figures_leave_no_global_state() -> None:
    settings = dict(matplotlib.rcParams)
    plots.overlap({"a": TWO})
    assert dict(matplotlib.rcParams) == settings
    for path in Path(plots.__file__).parent.glob("*.py"):
        assert "pyplot" not in path.read_text(), path.name
        for node in ast.parse(path.read_text()).body:  # what runs on import
            assert not (isinstance(node, ast.Import | ast.ImportFrom) and "matplotlib" in ast.unparse(node)), path.name
