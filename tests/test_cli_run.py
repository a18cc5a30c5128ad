"""`tfprune run`: any method from an untrained model to the folder of a run."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command import DIGITS, SCRIPT, Finished, call, environment

import tfprune_init as tpi
from tfprune_init.models import lenet_300_100

TICKET = (
    *("run", "lottery_ticket", "lenet_300_100", "--data", "digits", "--sparsity", "0.5", "--epochs", "2"),
    *("--batch-size", "256", "--optimizer", "sgd", "--learning-rate", "0.3", "--set", "rate=0.5", "--seed", "3"),
)


@pytest.fixture(scope="module")
def ticket(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    here = tmp_path_factory.mktemp("ticket")
    return here / "run", call(*TICKET, "-o", "run", cwd=here)


def test_it_is_what_python_gives(ticket: tuple[Path, Finished]) -> None:
    folder, done = ticket
    assert (done.code, done.err) == (0, "")
    digits = tpi.datasets.load("digits", batch_size=256, seed=3)

    def build(seed: int) -> Any:
        model = lenet_300_100((8, 8, 1), 10, seed=seed)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.3), loss, metrics=["accuracy"])
        return model

    same = tpi.run("lottery_ticket", build, digits, sparsity=0.5, epochs=2, rate=0.5, seed=3, verbose=0)
    assert same.masks is not None
    masks = tpi.Masks.load(folder / "masks.npz")
    assert masks == same.masks
    model = keras.models.load_model(folder / "model.keras", compile=False)
    for one, other in zip(model.get_weights(), same.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert {layer.name: np.count_nonzero(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")} == {
        path.partition("/")[0]: int(mask.sum()) for path, mask in masks.items()
    }
    history = json.loads((folder / "history.json").read_text())["epochs"]
    assert len(history) == 4
    assert history[-1]["val_accuracy"] == same.history[-1]["accuracy"]
    with np.load(folder / "initial.npz") as initial:
        np.testing.assert_array_equal(initial["head/kernel"], build(3).get_layer("head").kernel)
    about = json.loads((folder / "run.json").read_text())
    assert about["cost"] == {"training_steps": 24, "scoring_steps": 0, "multiply_adds": same.cost.multiply_adds}
    assert about["data"]["description"] == DIGITS
    assert f"{same.history[-1]['accuracy']:.4f}" in done.out
    assert "It took 24 gradient steps of training and 0 of scoring" in done.out
    assert not folder.with_name("run.state").exists()


def test_the_run_is_one_for_other_commands(ticket: tuple[Path, Finished], tmp_path: Path) -> None:
    folder, _ = ticket
    shown = call("show", str(folder), cwd=tmp_path)
    assert "Pruned by lottery_ticket (asked for 50.0000%) on digits" in shown.out
    assert "It took 24 gradient steps of training" in shown.out
    page = call("report", str(folder), "-o", "page.html", cwd=tmp_path)
    assert (page.code, page.err) == (0, "")
    assert "lenet_300_100 pruned by lottery_ticket" in (tmp_path / "page.html").read_text()


def test_a_method_that_prunes_before_training(tmp_path: Path) -> None:
    model = lenet_300_100((8, 8, 1), 10, seed=1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.save(tmp_path / "model.keras")
    usual = ("--data", "digits", "--epochs", "1", "-o", "run")
    done = call("run", "snip", "model.keras", "--budget", "multiply_adds=0.25", *usual, "--json", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert told["report"]["kept"] == told["report"]["budget"]["limit"] == 50_200 // 4
    assert (told["cost"]["training_steps"], told["cost"]["scoring_steps"]) == (12, 1)
    again = call("run", "snip", "model.keras", "--sparsity", "0.9", *usual, cwd=tmp_path)
    assert (again.code, "replace it with --overwrite" in again.err) == (1, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lottery_tiket", "lenet_300_100", "--sparsity", "0.5"), "Did you mean 'lottery_ticket'"),
        (("lottery_ticket", "lenet_300_100"), "prunes to a sparsity"),
        (("lottery_ticket", "lenet_300_100", "--sparsity", "0.5", "--set", "rat=1"), "Did you mean 'rate'"),
        (("lottery_ticket", "lenet_300_100", "--sparsity", "0.5", "--set", "rewind_to=999"), "before the end"),
        (("snip", "lenet_300_100", "--sparsity", "1.5"), "sparsity"),
        (("snip", "nothing.keras", "--sparsity", "0.5"), "There is no model to run"),
    ],
)
def test_refused_by_name_and_nothing_is_written(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = call("run", *words, "--data", "digits", "--epochs", "1", "-o", "run", cwd=tmp_path)
    assert done.code == 1
    assert message in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_weights(ticket: tuple[Path, Finished], tmp_path: Path) -> None:
    words = (*SCRIPT, *TICKET, "-o", "run")
    with subprocess.Popen(words, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not (tmp_path / "run.state" / "state.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "run").exists()
    assert (
        subprocess.run(words, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, check=False).returncode == 0
    )
    one, other = (keras.models.load_model(f / "model.keras", compile=False) for f in (ticket[0], tmp_path / "run"))
    for here, there in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(here, there)
