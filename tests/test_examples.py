"""The examples, as their users start them: as processes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tfprune_init as tpi
from tfprune_init.experiments import Run

pytestmark = pytest.mark.examples

SNIP_LAYERS = Path(__file__).resolve().parents[1] / "examples" / "snip_layers.py"
# Percent pruned of kernel and bias together, LeNet-300-100 at 95%, from the ICLR reproducibility report on SNIP.
REPORT = {"dense1": 96.7, "dense2": 83.2, "head": 43.8}


@dataclass(frozen=True)
class Layers:
    out: str
    numbers: dict[str, Any]

    def of(self, model: str, sparsity: float) -> list[dict[str, Any]]:
        """The layers of one table."""
        (found,) = [r for r in self.numbers["results"] if (r["model"], r["sparsity"]) == (model, sparsity)]
        return found["layers"]


def snip_layers(folder: Path, *arguments: str) -> Layers:
    file = folder / "numbers.json"
    # Other tests, and TF-MOT, set TF_...; a user's shell has none of it.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TF_") and key != "COLUMNS"}
    command = (sys.executable, str(SNIP_LAYERS), "--json", str(file), *arguments)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    return Layers(done.stdout, json.loads(file.read_text()))


@pytest.fixture(scope="module")
def on_digits(tmp_path_factory: pytest.TempPathFactory) -> Layers:
    return snip_layers(tmp_path_factory.mktemp("digits"), "--seeds", "1")


@pytest.fixture(scope="module")
def on_mnist(tfds_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Layers:
    return snip_layers(tmp_path_factory.mktemp("mnist"), "--data-dir", str(tfds_dir))


def assert_exact(layers: list[dict[str, Any]], size: int, percent: int, seeds: int) -> None:
    assert sum(layer["weights"] for layer in layers) == size
    kept = size * (100 - percent) // 100
    assert np.sum([layer["pruned"] for layer in layers], axis=0).tolist() == [size - kept] * seeds


def test_snip_layers_on_digits_prunes_exactly_the_share(on_digits):
    # 64x300 + 300x100 + 100x10 and biases; 25x20 + 25x20x50 + 200x500 + 500x10 and biases.
    for percent in (50, 95):
        assert_exact(on_digits.of("lenet_300_100", percent / 100), 50_200 + 410, percent, seeds=1)
        assert_exact(on_digits.of("lenet_5", percent / 100), 130_500 + 580, percent, seeds=1)


def test_snip_layers_on_digits_shows_no_number_of_the_report(on_digits):
    assert "The report's numbers are for MNIST and not comparable" in on_digits.out
    assert all(layer["report"] is None for result in on_digits.numbers["results"] for layer in result["layers"])
    assert not any(str(number) in line.split("│")[-2] for number in REPORT.values() for line in rows(on_digits.out))


def rows(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("│")]


def test_snip_layers_on_mnist_prunes_exactly_the_share(on_mnist):
    for percent in (50, 95):
        assert_exact(on_mnist.of("lenet_300_100", percent / 100), 266_610, percent, seeds=3)
        assert_exact(on_mnist.of("lenet_5", percent / 100), 431_080, percent, seeds=3)


def test_snip_layers_on_mnist_agrees_with_the_report(on_mnist):
    layers = on_mnist.of("lenet_300_100", 0.95)
    measured = {layer["layer"]: 100 * np.mean(layer["pruned"]) / layer["weights"] for layer in layers}
    assert {layer["layer"]: layer["report"] for layer in layers} == REPORT
    # The head has 1,010 weights: a seed moves it by several points, the first layer by a tenth of one.
    assert measured["dense1"] == pytest.approx(REPORT["dense1"], abs=0.5)
    assert measured["dense2"] == pytest.approx(REPORT["dense2"], abs=2)
    assert measured["head"] == pytest.approx(REPORT["head"], abs=3)


def test_snip_layers_on_mnist_shows_a_dash_for_what_the_report_is_not_known_to_say(on_mnist):
    shown = [line.split("│")[-2].strip() for line in rows(on_mnist.out)]
    assert shown == ["-"] * 3 + ["96.7", "83.2", "43.8"] + ["-"] * 8


def example(name: str, folder: Path, *arguments: str) -> str:
    """What an example prints, started in an empty folder."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TF_") and key != "COLUMNS"}
    command = (sys.executable, str(SNIP_LAYERS.with_name(f"{name}.py")), *arguments)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


SHORT = ("--epochs", "1", "--seeds", "1")


def test_accuracy_against_sparsity(tmp_path: Path) -> None:
    asked = ("--methods", "snip", "random", "--sparsities", "0.9", "0.99", "--model", "small_vgg")
    out = example("accuracy_sparsity", tmp_path, *SHORT, *asked)
    assert out.startswith("small_vgg on digits: 1,437 training and 360 test images")
    results = tpi.Results.load(tmp_path / "accuracy_sparsity")
    assert [(run.label, run.sparsity) for run in results] == [
        *(("dense", 0.0), ("snip", 0.9), ("snip", 0.99), ("random", 0.9), ("random", 0.99))
    ]
    for run in results:
        assert run.status == "collapsed" or run.kept == (run.size if run.label == "dense" else kept(run))
        assert run.accuracy is None or f"{100 * run.accuracy:.1f}" in out
    for name in ("accuracy_sparsity", "cost_90", "cost_99"):
        assert is_picture(tmp_path / "accuracy_sparsity" / f"{name}.png")


def test_accuracy_of_methods_that_train(tmp_path: Path) -> None:
    methods = ("dynamic_pruning:every=2", "lottery_ticket:rate=0.5,rewind=weights")
    asked = ("--methods", *methods, "--sparsities", "0.75", "--epochs", "1", "--seeds", "1")
    example("accuracy_sparsity", tmp_path, *asked)
    results = tpi.Results.load(tmp_path / "accuracy_sparsity")
    assert [(run.method, run.options, run.training_steps) for run in results] == [
        ("dense", {}, 12),
        ("dynamic_pruning", {"every": 2}, 12),
        ("lottery_ticket", {"rate": 0.5, "rewind": "weights"}, 36),
    ]
    assert {run.kept for run in results[1:]} == {50_200 // 4}


def kept(run: Run) -> int:
    return int(run.size * (1 - run.sparsity) + 1e-6)


def test_steps(tmp_path: Path) -> None:
    example("steps_figure", tmp_path, *SHORT, "--steps", "1", "4", "--sparsity", "0.9")
    results = tpi.Results.load(tmp_path / "steps_figure")
    assert [(run.label, len(run.steps)) for run in results] == [
        *(("dense", 0), ("exponential, 1 steps", 1), ("exponential, 4 steps", 4)),
        *(("linear, 1 steps", 1), ("linear, 4 steps", 4)),
    ]
    densities = [step["density"] for step in results[-1].steps]
    assert densities == pytest.approx([0.775, 0.55, 0.325, 0.1])
    assert is_picture(tmp_path / "steps_figure" / "steps.png")


def test_layers(tmp_path: Path) -> None:
    asked = ("--models", "resnet20", "--methods", "magnitude", "random", "--sparsity", "0.99")
    out = example("layers_figure", tmp_path, *asked)
    assert "resnet20, random: 2,708 weights kept, " in out
    assert "resnet20, magnitude" in out
    assert is_picture(tmp_path / "layers_figure" / "resnet20.png")


def test_lottery_tickets(tmp_path: Path) -> None:
    out = example("lottery_tickets", tmp_path, "--levels", "1", "3", "--seeds", "1", "--epochs", "2")
    rows = (tmp_path / "lottery_tickets" / "tickets.csv").read_text().splitlines()
    assert rows[0] == ("method,level,density,seed,gradient_steps,accuracy,best_step,accuracy_at_best_step")
    cells = [row.split(",") for row in rows[1:]]
    assert [cell[0] for cell in cells[:6]] == ["ticket", "reinitialized", "shuffled", "force", "snip", "one-shot"]
    # 24 steps a training: a ticket of level 3 takes four trainings, one-shot two, FORCE 61 steps of scoring, SNIP one.
    assert [int(cell[4]) for cell in cells[6:]] == [96, 96, 96, 85, 25, 48]
    assert {float(cell[2]) for cell in cells[6:]} == {int(50_200 * 0.8**3) / 50_200}
    assert all(0.5 < float(cell[5]) <= 1 for cell in cells)
    # Looked at every 2 of 24 steps: where the loss still falls at the end, that is the best step.
    assert {int(cell[6]) for cell in cells} <= set(range(2, 25, 2))
    assert all(float(cell[7]) == float(cell[5]) for cell in cells if cell[6] == "24")
    assert "step of the smallest test loss, looked at every 2 steps" in out
    assert is_picture(tmp_path / "lottery_tickets" / "tickets.png")


def test_supermasks(tmp_path: Path) -> None:
    out = example("supermasks", tmp_path, "--densities", "0.5", "--seeds", "1", "--epochs", "2")
    with (tmp_path / "supermasks" / "supermasks.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Dense networks; on two kinds of weights each 15 criteria, three Bernoulli networks with and without rescaling,
    # and edge-popup.
    assert len(rows) == 2 + 2 * (15 + 6 + 1)
    accuracy = {(row["mask"], row["weights"]): float(row["accuracy"]) for row in rows}
    assert accuracy["large_final", "initial"] > accuracy["random", "initial"] + 0.1
    assert accuracy["none, trained", "trained"] > 0.8 > 0.4 > accuracy["none, untrained", "initial"]
    counted = [row for row in rows if row["mask"] in ("edge-popup", "large_final", "movement")]
    assert {float(row["density"]) for row in counted} == {0.5}
    assert "Bernoulli, rescaled: p >= 0.5" in out


def test_layer_robustness(tmp_path: Path) -> None:
    out = example("layer_robustness", tmp_path, "--epochs", "4", "--draws", "1")
    assert out.startswith("mlp on digits: 1,437 training and 360 test images")
    folder = tmp_path / "layer_robustness"
    with (folder / "layer_robustness.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    # Five layers of 256 units and the head; drawn, epochs 0 to 3, trained.
    assert [row["network"] for row in table] == ["dense"] * 36 + ["force at 90%"] * 36
    assert [row["checkpoint"] for row in table[:6]] == ["random", *(f"epoch {i}" for i in range(4)), "trained"]
    dense, sparse = ({row["layer"]: int(row["parameters"]) for row in part} for part in (table[:36], table[36:]))
    weights = 64 * 256 + 4 * 256 * 256 + 256 * 10
    assert sum(dense.values()) == weights + 5 * 256 + 10
    assert sum(sparse.values()) == weights // 10 + 5 * 256 + 10
    error = {(row["network"], row["layer"], row["checkpoint"]): float(row["error"]) for row in table}
    assert error["dense", "dense1", "random"] > 0.5 > error["dense", "dense1", "trained"]
    for quantity in ("error", "normalized_l2", "linf"):
        assert is_picture(folder / f"{quantity}.png")


def test_destroyed(tmp_path: Path) -> None:
    asked = ("--sparsities", "0.75", "0.999", "--methods", "magnitude", "random", "--prune-bias")
    out = example("destroyed", tmp_path, *SHORT, *asked)
    results = tpi.Results.load(tmp_path / "destroyed")
    rows = {(row.label, row.sparsity): row for row in results.summary()}
    for method in ("magnitude", "random"):
        line = next(line for line in out.splitlines() if line.startswith(f"│ {method}"))
        cells = [cell.strip() for cell in line.split("│")[2:-1]]
        assert cells == [f"{rows[method, sparsity].destroyed} of 1" for sparsity in (0.75, 0.999)]
    assert rows["random", 0.999].destroyed == 1


REPORTED = (52.5, 96.7, 99.3, 41.3, 83.2, 72.3)


def test_the_snip_report_on_digits(tmp_path: Path) -> None:
    asked = ("--networks", "1", "--methods", "magnitude", "random", "--images", "1437")
    out = example("snip_report", tmp_path, *SHORT, *asked)
    folder = tmp_path / "snip_report"
    numbers = json.loads((folder / "numbers.json").read_text())
    assert numbers["data"] == "digits: 1,437 training and 360 test images of 8x8x1, 10 classes, standardized"
    # 64x300 + 300x100 + 100x10 and 410 biases; 150 + 2,400 + 64x120 + 120x84 + 84x10 and 236 biases.
    for network, sparsity in (("lenet_300_100", 0.5), ("lenet_300_100", 0.95), ("lenet_5", 0.5), ("lenet_5", 0.95)):
        table = [row for row in numbers["layers"] if (row["network"], row["sparsity"]) == (network, sparsity)]
        size = {"lenet_300_100": 50_610, "lenet_5": 21_386}[network]
        assert sum(row["weights"] for row in table) == size
        pruned = sum(row["weights"] * row["pruned_percent"][0] / 100 for row in table)
        assert pruned == pytest.approx(size - int(size * (1 - sparsity) + 1e-6), abs=0.01)
    assert [row["network"] for row in numbers["errors"]] == ["lenet_300_100", "lenet_5"]
    for row in numbers["errors"]:
        results = tpi.Results.load(folder / row["network"])
        assert row["error_percent"] == [[pytest.approx(100 - 100 * run.accuracy)] for run in results]
    assert numbers["destroyed"]["right_needed"] == pytest.approx(0.1028 + 5 * (0.1028 * 0.8972 / 360) ** 0.5, abs=1e-3)
    lost = {
        method: [sum(1 - error / 100 < numbers["destroyed"]["right_needed"] for error in cell) for cell in cells]
        for method, cells in numbers["destroyed"]["error_percent"].items()
    }
    for method, counts in lost.items():
        (line,) = [line for line in out.splitlines() if line.startswith(f"│ {method}")]
        assert [int(cell) for cell in line.split("│")[2:-1]] == counts
    assert len(numbers["vgg"]) == 30
    for figure in ("histograms", "neurons", "pixels", "vgg16_block5_conv3"):
        assert is_picture(folder / f"{figure}.png")
    # What was measured on MNIST stands beside nothing else.
    assert "The report's numbers are for MNIST, so none are shown" in out
    assert not any(f" {number} │" in line.rsplit("│", 2)[-2] + "│" for number in REPORTED for line in rows(out))


def test_k_winners(tmp_path: Path) -> None:
    out = example("k_winners", tmp_path, "--epochs", "4")
    assert "digits: 1,437 training and 360 test images of 8x8x1" in " ".join(out.split())
    table = [[cell.strip() for cell in line.split("│")[1:-1]] for line in rows(out)]
    assert [int(row[0]) for row in table[:-1]] == [0, 3, 6, 9, 12, 16, 19, 22, 25, 28, 32]
    for column in (1, 2):
        right = [round(float(row[column].rstrip("%")) * 3.6) for row in table[:-1]]
        assert right[0] > 0.85 * 360
        assert right[0] > right[-1]
        assert table[-1][column] == f"{sum(right):,} of 3,960"


def test_shared_weight(tmp_path: Path) -> None:
    out = example("shared_weight", tmp_path, "--seeds", "1", "--methods", "snip", "random")
    table = [[cell.strip() for cell in line.split("│")[1:-1]] for line in rows(out)]
    assert [row[0] for row in table[:6]] == [f"all weights {value}" for value in ("-2", "-1", "-0.5", "0.5", "1", "2")]
    for signs in ("equal", "present"):
        assert is_picture(tmp_path / "shared_weight" / f"{signs}.png")
        header, *lines = (tmp_path / "shared_weight" / f"snip_{signs}_seed0.csv").read_text().splitlines()
        assert header == "kind,value,loss,right,examples,train_loss,train_right,train_examples"
        rights = [int(line.split(",")[3]) for line in lines]
        shown = [float(row[1].split()[0]) for row in (table[:11] if signs == "equal" else table[11:])][:6]
        assert shown == [pytest.approx(right / 3.6, abs=0.051) for right in rights[:6]]
        assert len(lines) == 7


def test_adaptive(tmp_path: Path) -> None:
    out = example("adaptive", tmp_path, "--budgets", "0.5", "--epochs", "2", "--export", "digits.tflite")
    ((budget, got, accuracy, _, mean, least, most, *_),) = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in rows(out)
    ]
    assert budget == "0.5"
    assert float(accuracy.rstrip("%")) > 80
    assert 0 < float(least) <= float(mean) <= float(most) <= 537
    assert float(got) == pytest.approx(float(mean) / 537, abs=0.002)
    assert "Dense: 537,000. The modules add 371 to each." in out
    assert (tmp_path / "digits.tflite").stat().st_size > 100_000


@pytest.mark.parametrize("task", ["swing_up", "digits"])
def test_the_search_for_weight_agnostic_networks(task: str, tmp_path: Path) -> None:
    asked = (
        "--generations",
        "4",
        "--population",
        "16",
        "--seed",
        "3",
        *(("--batches", "1") if task == "digits" else ()),
    )
    out = example("weight_agnostic_search", tmp_path, task, *asked)
    assert f"{task}: 16 networks, 4 generations of 4" in out
    saved = json.loads((tmp_path / "weight_agnostic" / f"{task}.json").read_text())
    assert (saved["inputs"], saved["outputs"]) == ((65, 10) if task == "digits" else (6, 1))
    history = (tmp_path / "weight_agnostic" / f"{task}.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in history] == ["generation", "1", "2", "3", "4"]
    assert "one tuned weight" in out


def test_width_search(tmp_path: Path) -> None:
    out = example("width_search", tmp_path, "--search-epochs", "3", "--epochs", "3", "--logit-learning-rate", "0.1")
    assert "digits: 1,437 training and 360 test images" in out
    saved = json.loads((tmp_path / "width_search.json").read_text())
    rows = saved["rows"]
    largest = rows["largest, by labels"]["multiply_adds"]
    assert (largest, len(saved["search"])) == (763_520, 3)
    for name, row in rows.items():
        assert row["accuracy"] > 0.5
        assert name.startswith("largest") or row["multiply_adds"] <= largest / 2
        assert f"{row['multiply_adds']:,}" in out
