"""Collapsed networks: their masks come with the error, or with a warning, and say what they are wherever they go."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras
from command import call
from model_kinds import KERAS

import tfprune_init as tpi
from tfprune_init import plots, tfmot
from tfprune_init.errors import MaskFileError, NetworkCollapseError, NetworkCollapseWarning, OptionError
from tfprune_init.graph.variables import find_prunable_variables

RNG = np.random.default_rng(0)
DATA = RNG.normal(size=(64, 8)).astype("float32"), np.arange(64) % 3
either_keras = pytest.mark.parametrize("K", KERAS.values(), ids=KERAS)


def build(K: Any = keras, seed: int = 0) -> Any:
    """Three layers; the weights of the one in the middle are the smallest by far."""
    layers = [K.layers.Dense(n, activation="relu", name=name) for n, name in ((10, "first"), (10, "weak"))]
    model = K.Sequential([K.layers.Input((8,)), *layers, K.layers.Dense(3, name="head")])
    rng = np.random.default_rng(seed)
    for target in find_prunable_variables(model).prunable:
        target.variable.assign(rng.normal(size=target.shape) * (1e-6 if "weak" in target.path else 1))
    model.compile("sgd", K.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


SIZE = 80 + 100 + 30
ASKED = {"sparsity": 1 - 40 / SIZE, "method": "magnitude"}  # 40 are left, and none of them in the middle


def largest(model: Any, count: int) -> dict[str, np.ndarray]:
    """Masks of the weights that are largest."""
    weights = {t.path: abs(t.tensor.numpy()) for t in find_prunable_variables(model).prunable}
    threshold = np.sort(np.concatenate([w.ravel() for w in weights.values()]))[-count]
    return {path: w >= threshold for path, w in weights.items()}


@pytest.fixture(scope="module")
def collapsed() -> tpi.PruningReport:
    with pytest.warns(NetworkCollapseWarning):
        return tpi.prune_at_init(build(), DATA, **ASKED, on_collapse="warn", verbose=0)


@either_keras
def test_the_error_carries_masks_and_report(K: Any) -> None:
    model = build(K)
    expected = largest(model, 40)
    before = [np.asarray(v).copy() for v in model.weights]
    with pytest.raises(NetworkCollapseError, match="Emptied: weak/kernel") as caught:
        tpi.prune_at_init(model, DATA, **ASKED)
    assert caught.value.masks == expected
    assert caught.value.report.masks is caught.value.masks
    assert caught.value.report.empty == ("weak/kernel",)
    assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(before, model.weights, strict=True))
    with pytest.raises(NetworkCollapseError) as found:
        tpi.find_masks(model, DATA, **ASKED)
    assert found.value.masks == expected
    carried = pickle.loads(pickle.dumps(caught.value))
    assert (str(carried), carried.masks) == (str(caught.value), expected)
    assert carried.report.to_dict() == caught.value.report.to_dict()


@either_keras
def test_a_warning_returns_them_and_prunes(K: Any) -> None:
    model = build(K)
    expected = largest(model, 40)
    with pytest.warns(NetworkCollapseWarning, match="Emptied: weak/kernel"):
        report = tpi.prune_at_init(model, DATA, **ASKED, on_collapse="warn")
    assert report.masks == expected
    assert report.masks.kept == 40
    assert "collapsed at step 1" in str(report.collapse)
    assert (report.collapse, report.connected) == (report.masks.collapse, False)
    model.fit(*DATA, epochs=1, verbose=0)
    for target in find_prunable_variables(model).prunable:
        assert not target.tensor.numpy()[~expected[target.path]].any()
    with pytest.warns(NetworkCollapseWarning):
        assert tpi.find_masks(build(K), DATA, **ASKED, on_collapse="warn") == expected


def test_a_network_that_lives_raises_no_warning_and_has_no_mark(recwarn: pytest.WarningsRecorder) -> None:
    report = tpi.prune_at_init(build(), DATA, sparsity=0.3, method="magnitude", on_collapse="warn")
    assert (report.collapse, report.masks.collapse, report.connected) == (None, None, True)
    assert not [one for one in recwarn if issubclass(one.category, NetworkCollapseWarning)]


def test_a_search_that_dies_on_its_way_ends_there() -> None:
    """The second of three steps leaves two weights for three layers; nothing tells which of them should go last."""
    plan = [0.9, 2 / SIZE, 1 / SIZE]
    asked = {"sparsity": 1 - plan[-1], "method": "iter_snip", "steps": 3, "schedule": lambda *_: plan}
    with pytest.warns(NetworkCollapseWarning, match="collapsed at step 2: every connection scores 0"):
        report = tpi.prune_at_init(build(), DATA, **asked, on_collapse="warn")
    assert [step.kept for step in report.steps] == [int(0.9 * SIZE), 2]
    assert report.masks.kept == 2
    assert len(report.empty) >= 1
    assert report.steps[-1].objective == 0.0
    assert report.requested_sparsity == pytest.approx(1 - plan[-1])


def test_masks_say_so_in_their_file(collapsed: tpi.PruningReport, tmp_path: Path) -> None:
    collapsed.masks.save(tmp_path / "masks.npz")
    loaded = tpi.Masks.load(tmp_path / "masks.npz")
    assert loaded == collapsed.masks
    assert loaded.collapse == collapsed.collapse
    assert repr(loaded) == "Masks(3 variables, 40 of 210 weights kept; the network collapses)"
    assert loaded.carried_to(build()).collapse == collapsed.collapse
    assert loaded.covering(list(loaded), build()).collapse == collapsed.collapse
    assert loaded.fingerprint == tpi.Masks(dict(loaded)).fingerprint
    done = call("show", "masks.npz", cwd=tmp_path)
    assert collapsed.collapse in " ".join(done.out.split())


def test_a_mark_that_is_no_text_is_a_damaged_file(collapsed: tpi.PruningReport, tmp_path: Path) -> None:
    tpi.Masks(collapsed.masks, collapse=3).save(tmp_path / "masks.npz")  # type: ignore[arg-type]
    with pytest.raises(MaskFileError, match=r"'collapse'. is neither str nor NoneType. Received: 3"):
        tpi.Masks.load(tmp_path / "masks.npz")


def test_the_report_says_so(collapsed: tpi.PruningReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = io.StringIO()
    collapsed.print(text)
    shown = " ".join(text.getvalue().split())
    assert collapsed.collapse in shown
    assert "not every output answers to the inputs" in shown
    assert "bypassed" not in shown
    assert collapsed.to_dict()["collapse"] == collapsed.collapse
    page = tpi.reports.pruning_page(collapsed.to_dict(), collapsed.masks)
    assert ("network", "collapsed") in page.facts


def texts(figure: Any) -> str:
    found = [text.get_text() for legend in figure.legends for text in (*legend.get_texts(), legend.get_title())]
    for axes in figure.axes:
        found += [axes.get_title(), *(label.get_text() for label in axes.get_xticklabels() + axes.get_yticklabels())]
    return "\n".join(found)


FIGURES: dict[str, Callable[[Any, Any], Any]] = {
    "layers": lambda report, masks: plots.layer_densities({"mine": masks}),
    "overlap": lambda report, masks: plots.overlap({"mine": report, "other": tpi.Masks(dict(masks))}),
    "histograms": lambda report, masks: plots.weight_histograms(build(), report),
    "heat map": lambda report, masks: plots.kernel_heat_map(report, "head/kernel"),
    "connections": lambda report, masks: plots.connections_per_neuron(build(), masks),
}


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_say_so(figure: str, collapsed: tpi.PruningReport) -> None:
    assert texts(FIGURES[figure](collapsed, collapsed.masks)).count("collapsed") >= 1
    unmarked = tpi.Masks(dict(collapsed.masks))
    assert "collapsed" not in texts(FIGURES[figure](unmarked, unmarked))


@pytest.mark.parametrize("given", ["ignore", True, 0])
def test_other_values_are_refused(given: Any) -> None:
    with pytest.raises(OptionError, match=r"on_collapse must be one of \('raise', 'warn'\)"):
        tpi.find_masks(build(), None, sparsity=0.5, method="random", on_collapse=given)


def test_scores_do_not_collapse() -> None:
    with pytest.raises(OptionError, match="score\\(\\) does not take on_collapse"):
        tpi.score(build(), None, "magnitude", on_collapse="warn")


# Single outputs.


def with_silent_classes(K: Any, ending: Callable[[Any, Any], Any]) -> Any:
    """Ten classes, of which two have the smallest weights of all."""
    inputs = K.Input((8,))
    x = K.layers.Dense(12, activation="relu", name="hidden")(inputs)
    model = K.Model(inputs, ending(K, x))
    rng = np.random.default_rng(0)
    for target in find_prunable_variables(model).prunable:
        values = rng.normal(size=target.shape)
        if target.path.endswith("head/kernel"):
            values[..., [3, 7]] *= 1e-6
        target.variable.assign(values)
    return model


def nested(K: Any, x: Any) -> Any:
    inner = K.Input((12,))
    return K.Model(inner, K.layers.Dense(10, name="head")(inner), name="inside")(x)


ENDINGS: dict[str, Callable[[Any, Any], Any]] = {
    "logits": lambda K, x: K.layers.Dense(10, name="head")(x),
    "softmax inside": lambda K, x: K.layers.Dense(10, activation="softmax", name="head")(x),
    "layers behind": lambda K, x: K.layers.Softmax()(
        K.layers.BatchNormalization()(K.layers.Dropout(0.5)(K.layers.Dense(10, name="head")(x)))
    ),
    "nested": nested,
    "pooling behind": lambda K, x: K.layers.GlobalAveragePooling2D()(
        K.layers.Conv2D(10, 1, name="head")(K.layers.Reshape((1, 1, 12))(x))
    ),
}


@either_keras
@pytest.mark.parametrize("ending", ENDINGS)
def test_classes_without_a_connection_are_told(K: Any, ending: str) -> None:
    model = with_silent_classes(K, ENDINGS[ending])
    report = tpi.prune_at_init(model, None, sparsity=0.3, method="magnitude")
    (path,) = [row.path for row in report.layers if row.path.endswith("head/kernel")]
    assert report.unconnected_outputs == {path: (2, 10)}
    assert report.collapse is None
    assert report.signal is not None
    assert min(report.signal.values()) > 0
    assert report.connected is False
    text = io.StringIO()
    report.print(text)
    shown = " ".join(text.getvalue().split())
    assert f"2 of 10 outputs of {path} keep no connection" in shown
    assert "not every output answers to the inputs" in shown
    page = tpi.reports.pruning_page(report.to_dict(), report.masks)
    assert ("network", "not connected") in page.facts


def summed(K: Any, x: Any) -> Any:
    return K.layers.Add()([K.layers.Dense(10, name="head")(x), K.layers.Dense(10, name="other")(x)])


def test_units_that_are_no_outputs_by_themselves_are_not_told() -> None:
    """In a sum another path may reach the same class."""
    report = tpi.prune_at_init(with_silent_classes(keras, summed), None, sparsity=0.2, method="magnitude")
    (head,) = [row for row in report.layers if row.path == "head/kernel"]
    assert head.dead_outputs == 2
    assert report.unconnected_outputs == {}
    assert report.connected is True


# Wherever masks are found.


def test_comparisons_keep_the_masks_and_train_on_request(tmp_path: Path) -> None:
    x = RNG.normal(size=(96, 8)).astype("float32")
    data = (x, x[:, 0] > 0), (x[:48], x[:48, 0] > 0)
    asked = {"sparsities": [ASKED["sparsity"]], "seeds": 1, "epochs": 2, "verbose": 0}
    own = {"method": "magnitude", "on_collapse": "warn", "label": "trained"}
    rows = tpi.compare(build, data, methods=["magnitude", own], out=tmp_path / "one", dense=False, **asked)
    left, trained = rows
    assert [(run.status, run.kept, len(run.history)) for run in rows] == [("collapsed", 40, 0), ("collapsed", 40, 2)]
    assert (left.accuracy, left.destroyed) == (None, True)
    # What answers every input alike puts all into one class.
    counts = np.bincount(data[1][1], minlength=2) / 48
    assert any(trained.accuracy == pytest.approx(share) for share in counts)
    assert trained.destroyed is True
    expected = largest(build(seed=0), 40)
    for run in rows:
        assert rows.masks(run) == expected
        assert "The network collapsed at step 1" in str(run.error)
        assert rows.masks(run).collapse == run.error
        assert {layer["path"]: layer["kept"] for layer in run.layers}["weak/kernel"] == 0
    (summary,) = [row for row in rows.summary() if row.label == "trained"]
    assert (summary.mean, summary.collapsed, summary.destroyed) == (trained.accuracy, 1, 1)
    assert texts(plots.layer_densities({run.label: run for run in rows})).count("(collapsed)") >= 2
    assert len(plots.accuracy_curve(rows).axes) == 1
    assert tpi.reports.comparison_page(rows).title

    again = tpi.compare(
        build, data, methods=["magnitude"], out=tmp_path / "two", on_collapse="warn", dense=True, **asked
    )
    assert [(run.label, run.status, len(run.history)) for run in again] == [
        ("dense", "trained", 2),
        ("magnitude", "collapsed", 2),
    ]
    assert again[1].id == trained.id
    with pytest.raises(OptionError, match="on_collapse must be one of"):
        tpi.compare(build, data, methods=["magnitude"], out=tmp_path / "three", on_collapse="no", **asked)


@either_keras
def test_pruning_during_training(K: Any) -> None:
    asked = {**ASKED, "every": 1, "delay": 0, "events": 2, "schedule": lambda *_: [0.7, 40 / SIZE]}
    with pytest.raises(NetworkCollapseError) as caught:
        build(K).fit(*DATA, epochs=2, verbose=0, callbacks=[tpi.PruneDuringTraining(DATA, **asked)])
    assert caught.value.masks.kept == 40
    model = build(K)
    pruning = tpi.PruneDuringTraining(DATA, **asked, on_collapse="warn")
    with pytest.warns(NetworkCollapseWarning, match="collapsed at step 1"):
        model.fit(*DATA, epochs=2, verbose=0, callbacks=[pruning])
    assert [density for _, density in pruning.history] == [0.7, 40 / SIZE]
    assert pruning.masks is not None
    assert "Emptied: weak/kernel" in str(pruning.masks.collapse)


def test_an_event_after_the_collapse_says_that_it_came_before() -> None:
    plan = [2 / SIZE, 1 / SIZE]
    asked = {"sparsity": 1 - plan[-1], "method": "iter_snip", "every": 1, "delay": 0, "events": 2}
    pruning = tpi.PruneDuringTraining(DATA, **asked, schedule=lambda *_: plan, on_collapse="warn")
    model = build()
    with pytest.warns(NetworkCollapseWarning) as told:
        model.fit(*DATA, epochs=2, verbose=0, callbacks=[pruning])
    assert "collapsed at step 1: no signal" in str(told[0].message)
    assert "collapsed before this search: every connection scores 0" in str(told[-1].message)
    assert [density for _, density in pruning.history] == [2 / SIZE] * 2
    again = tpi.PruneDuringTraining(DATA, **{**asked, "events": 1}, schedule=lambda *_: plan[-1:])
    with pytest.raises(NetworkCollapseError, match="before this search") as caught:
        model.fit(*DATA, epochs=1, verbose=0, callbacks=[again])
    text = io.StringIO()
    caught.value.report.print(text)
    assert "0 steps" in text.getvalue()


def test_tf_mot() -> None:
    expected = largest(build(tf_keras), 40)
    with pytest.raises(NetworkCollapseError) as caught:
        tfmot.prune_at_init(build(tf_keras), DATA, **ASKED)
    assert caught.value.masks == expected
    with pytest.warns(NetworkCollapseWarning):
        wrapped = tfmot.prune_at_init(build(tf_keras), DATA, **ASKED, on_collapse="warn")
    assert tfmot.get_report(wrapped).collapse == str(caught.value)
    assert tfmot.get_masks(wrapped) == expected


def test_the_command_line(tmp_path: Path) -> None:
    build().save(tmp_path / "model.keras")
    words = ("prune", "model.keras", "--method", "magnitude", "--sparsity", str(ASKED["sparsity"]), "-o")
    done = call(*words, "run", cwd=tmp_path)
    assert (done.code, (tmp_path / "run").exists()) == (1, False)
    done = call(*words, "run", "--on-collapse", "warn", "--json", cwd=tmp_path)
    assert done.code == 0
    assert done.err.startswith("tfprune: warning: The network collapsed at step 1")
    assert done.err.count("\n") == 1
    assert "Emptied: weak/kernel" in json.loads(done.out)["collapse"]
    assert tpi.Masks.load(tmp_path / "run" / "masks.npz") == largest(build(), 40)


def test_the_toml_file(tmp_path: Path) -> None:
    (tmp_path / "mine_collapsed.py").write_text(
        "import numpy as np\nx = np.random.default_rng(0).random((40, 8, 8, 1), 'float32')\n"
        "def data():\n    return (x, np.arange(40) % 2), (x, np.arange(40) % 2)\n"
    )
    (tmp_path / "config.toml").write_text(
        'model = "lenet_300_100"\ndata = "mine_collapsed:data"\nmethods = ["magnitude"]\nsparsities = [0.9999]\n'
        'seeds = 1\nepochs = 1\nout = "runs"\ndense = false\non_collapse = "warn"\n'
    )
    done = call("compare", "config.toml", cwd=tmp_path)
    assert (done.code, done.err.count("Warning")) == (0, 0)
    (run,) = tpi.Results.load(tmp_path / "runs")
    assert (run.status, len(run.history), run.options) == ("collapsed", 1, {"on_collapse": "warn"})
