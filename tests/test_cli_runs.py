"""Pruning, training and showing runs from the command line, in this process; the whole chain as processes too."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import keras
import numpy as np
import pytest
import tf_keras
from command import DIGITS, METHODS, MODULE, SCRIPT, Finished, call, environment, run, scripts_in_process

import tfprune_init as tpi
from tfprune_cli.commands.prune import execute as prune_command
from tfprune_cli.data import load_data
from tfprune_cli.program import list_commands
from tfprune_init import datasets
from tfprune_init.graph.variables import find_prunable_variables
from tfprune_init.masking.attachment import get_attached_masks
from tfprune_init.methods import find_method
from tfprune_init.options import OPTIONS, SearchOptions
from tfprune_init.scoring.criteria import CRITERIA
from tfprune_init.selection import GRANULARITIES
from tfprune_init.training import RECIPES

SPARSITY = 0.8
LOGITS = ("--loss", "sparse_categorical_crossentropy", "--from-logits")

DATA = """
import numpy as np
import tensorflow as tf

from tfprune_init import datasets

rng = np.random.default_rng(0)


def some(size=8, classes=10):
    x, y = rng.random((200, size, size, 1), "float32"), rng.integers(0, classes, 200)
    return (x[:150], y[:150]), (x[150:], y[150:])


def digits():
    return datasets.load("digits", batch_size=64)


def one_by_one():
    def walk():
        for x, y in datasets.load("digits", batch_size=200).test:
            yield x, y

    signature = tf.TensorSpec((None, 8, 8, 1)), tf.TensorSpec((None,), tf.int64)
    batches = tf.data.Dataset.from_generator(walk, output_signature=signature)
    return batches, batches


def large():
    return some(size=28)


def too_many_classes():
    return some(classes=20)


def endless():
    train, test = (tf.data.Dataset.from_tensor_slices(part).batch(10) for part in some())
    return train.repeat(), test


def one_pair():
    return some()[0]


def nothing():
    return None


def fails():
    return 1 / 0


def interrupts():
    raise KeyboardInterrupt


def noisy():
    import os, random, sys, warnings
    from absl import logging
    import keras
    import tfprune_init as tpi

    os.environ["MINE"] = "set"
    os.chdir("..")
    sys.path.append("mine")
    keras.utils.set_random_seed(0)
    keras.layers.Dense(3)
    tpi.register_method(tpi.Method("mine", "magnitude"))
    warnings.warn("for users")
    warnings.warn("for developers", DeprecationWarning)
    logging.warning("logged")
    return some()
"""


def weights_of(model: Any) -> dict[str, np.ndarray]:
    return {t.path: np.array(t.tensor) for t in find_prunable_variables(model).prunable}


def load(path: Path) -> Any:
    return keras.models.load_model(path, compile=False)


def network(K: Any, name: str = "net") -> Any:
    layers = [K.Input((8, 8, 1)), K.layers.Flatten(name="flat"), K.layers.Dense(24, "relu", name="hidden")]
    return K.Sequential([*layers, K.layers.Dropout(0.1, seed=5), K.layers.Dense(10, name="head")], name=name)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """As saved in model.keras: compiled, and never trained."""
    keras.utils.set_random_seed(1)
    model = network(keras)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def folder(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models and functions that return data."""
    folder = tmp_path_factory.mktemp("cli")
    model.save(folder / "model.keras")
    network(keras).save(folder / "plain.keras")
    (folder / "mine.py").write_text(DATA)
    (folder / "broken.py").write_text("import nothing_of_that_name")
    return folder


FILES = ("model.keras", "plain.keras", "mine.py", "broken.py")
OWN_PROCESS = [pytest.mark.process, pytest.mark.slow]


@dataclass(frozen=True)
class Step:
    """A command of the chain that ended, and the folder that it ran in."""

    done: Finished
    folder: Path


@pytest.fixture(scope="module", params=["here", pytest.param("process", marks=OWN_PROCESS)])
def where(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def pruned(where: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Step:
    here = tmp_path_factory.mktemp("chain")
    shutil.copy(folder / "model.keras", here)
    options = ("--data", "digits", "--sparsity", str(SPARSITY), "--steps", "10", "-o", "made/run")
    words = ("prune", "model.keras", *options)
    done = call(*words, cwd=here) if where == "here" else run(*SCRIPT, *words, cwd=here)
    shutil.copytree(here / "made" / "run", here / "before")
    return Step(done, here)


@pytest.fixture(scope="module")
def trained(where: str, pruned: Step) -> Step:
    words = ("train", "made/run", "--epochs", "12")
    done = call(*words, cwd=pruned.folder) if where == "here" else run(*MODULE, *words, cwd=pruned.folder)
    return Step(done, pruned.folder)


@pytest.fixture(scope="module")
def exported(where: str, trained: Step) -> Step:
    words = ("export", "made/run", "-o", "m.tflite", "--sparse", "no", "--no-measure", "--json")
    if where == "process":
        return Step(run(*SCRIPT, *words, cwd=trained.folder), trained.folder)
    with scripts_in_process():
        return Step(call(*words, cwd=trained.folder), trained.folder)


@pytest.fixture
def here(folder: Path, tmp_path: Path) -> Path:
    """A copy of `folder` as it was before anything ran."""
    for name in FILES:
        shutil.copy(folder / name, tmp_path)
    return tmp_path


def prune(here: Path, *words: str, output: str = "run") -> Finished:
    usual = ("--method", "magnitude", "--sparsity", str(SPARSITY), "-o", output)
    return call("prune", "model.keras", *usual, *words, cwd=here)


def test_prune_succeeds_without_a_word_on_stderr(pruned: Step) -> None:
    assert (pruned.done.code, pruned.done.err) == (0, "")


def test_what_prune_writes(pruned: Step, model: keras.Model) -> None:
    made = pruned.folder / "before"
    assert sorted(path.name for path in made.iterdir()) == [
        *("initial.npz", "masks.npz", "model.keras", "report.json", "run.json")
    ]
    masks, original = tpi.Masks.load(made / "masks.npz"), weights_of(model)
    size = sum(value.size for value in original.values())
    assert masks.kept == int(size * (1 - SPARSITY) + 1e-9)
    with np.load(made / "initial.npz") as initial:
        assert set(initial) == set(masks)
        assert all(np.array_equal(initial[path], original[path]) for path in masks)
    pruned_model = load(made / "model.keras")
    assert get_attached_masks(pruned_model) == masks
    assert all(np.array_equal(weights_of(pruned_model)[path], original[path] * masks[path]) for path in masks)
    report = json.loads((made / "report.json").read_text())
    assert (report["method"], report["kept"], report["fingerprint"]) == ("force", masks.kept, masks.fingerprint)
    about = json.loads((made / "run.json").read_text())
    assert about["command"].startswith(f"tfprune prune model.keras --data digits --sparsity {SPARSITY}")
    assert about["data"] == {"name": "digits", "data_dir": None, "description": DIGITS}
    assert about["masks_in_model"] is True


def test_what_train_writes(trained: Step) -> None:
    assert (trained.done.code, trained.done.err) == (0, "")
    made, before, out = trained.folder / "made" / "run", trained.folder / "before", trained.done.out
    assert (made / "untrained.keras").read_bytes() == (before / "model.keras").read_bytes()
    masks, model = tpi.Masks.load(made / "masks.npz"), load(made / "model.keras")
    assert get_attached_masks(model) is None
    untrained = weights_of(load(before / "model.keras"))
    for path, values in weights_of(model).items():
        assert not values[~masks[path]].any()
        assert (values != untrained[path])[masks[path]].mean() > 0.5
    history = json.loads((made / "history.json").read_text())
    assert [row["epoch"] for row in history["epochs"]] == list(range(1, 13))
    assert [one["data"]["description"] for one in history["trainings"]] == [DIGITS]
    images, labels = (np.concatenate(part) for part in zip(*datasets.load("digits").test, strict=True))
    accuracy = (model.predict(images, verbose=0).argmax(axis=1) == labels).mean()
    assert history["epochs"][-1]["val_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert accuracy > 0.5
    lines = [line for line in out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 6
    assert lines[-1].startswith("epoch 12/12   loss ")
    assert max(map(len, out.splitlines())) <= 80
    assert f"All {masks.size - masks.kept:,} pruned weights are exactly 0.0" in out


def test_show_and_export_of_the_trained_run(exported: Step) -> None:
    folder = exported.folder
    done = call("show", "made/run", "--json", cwd=folder)
    assert (done.code, done.err) == (0, "")
    shown, masks = json.loads(done.out), tpi.Masks.load(folder / "made" / "run" / "masks.npz")
    assert (shown["size"], shown["kept"], shown["fingerprint"]) == (masks.size, masks.kept, masks.fingerprint)
    rows = {row["path"]: row for row in shown["variables"]}
    assert {path: (row["shape"], row["kept"]) for path, row in rows.items()} == {
        path: (list(mask.shape), int(mask.sum())) for path, mask in masks.items()
    }
    history = json.loads((folder / "made" / "run" / "history.json").read_text())
    assert (shown["run"]["trained_epochs"], shown["run"]["last_epoch"]) == (12, history["epochs"][-1])
    assert (exported.done.code, exported.done.err) == (0, "")
    assert json.loads(exported.done.out)["file"]["raw_bytes"] == (folder / "m.tflite").stat().st_size


@pytest.mark.process
@pytest.mark.slow
def test_a_signal_interrupts_a_training_and_leaves_the_run_as_it_was(here: Path) -> None:
    assert prune(here, "--data", "digits").code == 0
    before = {path.name: path.read_bytes() for path in (here / "run").iterdir()}
    command = (*SCRIPT, "train", "run", "--epochs", "100000")
    # Tests in the background ignore the signal, and what they start would too.
    of_tests = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command, cwd=here, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        signal.signal(signal.SIGINT, of_tests)
        assert process.stdout.readline() == f"net on {DIGITS}\n"  # the last that it says before it trains
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err) == (130, "", "tfprune: interrupted\n")
    assert {path.name: path.read_bytes() for path in (here / "run").iterdir()} == before


@pytest.mark.process
def test_the_next_run_removes_what_a_killed_one_left(here: Path) -> None:
    words = ("prune", "model.keras", "--method", "magnitude", "--sparsity", str(SPARSITY), "-o", "run")

    def unfinished() -> set[Path]:
        return set(here.glob(".unfinished-*"))

    killed = subprocess.Popen((*SCRIPT, *words), cwd=here, env=environment())
    deadline = time.monotonic() + 60
    while not unfinished() and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    assert killed.wait(timeout=60) == -signal.SIGKILL
    (left,) = unfinished()
    assert f"-{killed.pid}-" in left.name
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as live:
        other = left.with_name(left.name.replace(str(killed.pid), str(live.pid)))
        other.mkdir()
        assert call(*words, cwd=here).code == 0
        assert unfinished() == {other}
        live.communicate(b"\n")
    assert call(*words, "--overwrite", cwd=here).code == 0
    assert not unfinished()


def test_magnitude_keeps_the_largest_and_filters_leave_alone(here: Path, model: keras.Model) -> None:
    assert prune(here, "--exclude", "head", "--allocation", "uniform").code == 0
    masks = tpi.Masks.load(here / "run" / "masks.npz")
    assert list(masks) == ["hidden/kernel"]
    strength, mask = np.abs(weights_of(model)["hidden/kernel"]), masks["hidden/kernel"]
    assert strength[mask].min() >= strength[~mask].max()
    with np.load(here / "run" / "initial.npz") as initial:
        assert set(initial) == {"hidden/kernel"}


def test_two_trainings_are_as_good_as_one(here: Path) -> None:
    assert prune(here, "--data", "digits").code == 0
    shutil.copytree(here / "run", here / "other")
    for folder, epochs in (("run", "1"), ("run", "2"), ("other", "3")):
        words = ("train", folder, "--epochs", epochs, "--batch-size", "200", "--seed", "3")
        assert call(*words, cwd=here).code == 0
    one, other = (weights_of(load(here / name / "model.keras")) for name in ("run", "other"))
    for path in one:
        np.testing.assert_allclose(one[path], other[path], atol=1e-6)
    untrained = [(here / name / "untrained.keras").read_bytes() for name in ("run", "other")]
    assert untrained[0] == untrained[1]
    done = call("show", "run", cwd=here)
    assert (done.code, done.err) == (0, "")
    assert "Trained for 3 epochs on digits" in done.out
    assert "Pruned by magnitude (asked for 80.0000%) on digits" in done.out


def test_each_epoch_has_the_same_examples_in_its_own_order() -> None:
    data = load_data("digits", batch_size=100)
    one, again, other = (np.concatenate([x for x, _ in data.epoch(seed)]) for seed in (1, 1, 2))
    together = np.concatenate([x for x, _ in data.train])
    assert [len(x) for x, _ in data.epoch(1)] == [100] * 14 + [37]
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    for epoch in (one, other):
        np.testing.assert_array_equal(*(np.sort(x.reshape(len(x), -1), axis=0) for x in (epoch, together)))


@pytest.mark.parametrize("name", ["mine:some", "mine:digits", "mine:one_by_one"])
def test_data_of_the_users_own(name: str, here: Path) -> None:
    assert prune(here, "--method", "snip", "--data", name).code == 0
    done = call("train", "run", "--epochs", "1", "--json", cwd=here)
    assert (done.code, done.err) == (0, "")
    training = json.loads(done.out)["training"]
    assert training["data"]["name"] == name
    described = {"mine:some": "150 training and 50 test examples", "mine:digits": "1,437 training and 360 test images"}
    assert described.get(name, "an unknown number of training") in training["data"]["description"]


def test_a_model_without_a_loss_and_an_optimizer_by_name(here: Path) -> None:
    words = ("--method", "synflow", "--sparsity", "0.5", "--json", "-o", "run")
    assert call("prune", "plain.keras", *words, cwd=here).code == 0
    train = partial(call, "train", "run", "--epochs", "1", "--data", "digits", cwd=here)
    assert train().code == 1
    assert train(*LOGITS, "--optimizer", "sgd", "--learning-rate", "0.25").code == 0
    assert train("--learning-rate", "0.125").code == 0
    history = json.loads((here / "run" / "history.json").read_text())
    assert [(one["optimizer"], one["learning_rate"]) for one in history["trainings"]] == [("SGD", 0.25), ("SGD", 0.125)]
    assert history["epochs"][-1]["val_accuracy"] > 0.2


def test_a_model_of_tf_keras(here: Path) -> None:
    network(tf_keras).save(here / "legacy.keras")
    words = ("--data", "digits", "--method", "snip", "--sparsity", "0.8", "-o", "run", "--json")
    done = call("prune", "legacy.keras", *words, *LOGITS, cwd=here)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["run"] == "run"
    assert json.loads((here / "run" / "run.json").read_text())["masks_in_model"] is False
    done = call("train", "run", "--epochs", "2", "--optimizer", "sgd", cwd=here)
    assert (done.code, done.err) == (0, "")
    masks, trained = tpi.Masks.load(here / "run" / "masks.npz"), tf_keras.models.load_model(here / "run/model.keras")
    assert not any(values[~masks[path]].any() for path, values in weights_of(trained).items())


def test_nothing_that_a_command_changes_in_the_process_stays(here: Path) -> None:
    def state() -> tuple[Any, ...]:
        return os.getcwd(), dict(os.environ), [*sys.path], tpi.list_methods(), "mine" in sys.modules

    before = state()
    done = prune(here, "--data", "mine:noisy")
    assert done.code == 0
    assert state() == before
    assert random.random() != random.Random(0).random()
    assert keras.layers.Dense(3).name == "dense"
    warned, shown, logged = done.err.splitlines()
    assert warned.startswith(f"{here / 'mine.py'}:")
    assert warned.endswith("UserWarning: for users")
    assert shown == '  warnings.warn("for users")'
    assert logged == "WARNING:absl:logged"


@pytest.mark.process
@pytest.mark.slow
def test_a_process_says_the_same(here: Path) -> None:
    words = ("prune", "model.keras", "--method", "magnitude", "--sparsity", "0.8", "--data", "mine:noisy", "-o", "run")
    one = call(*words, cwd=here)
    shutil.rmtree(here / "run")
    other = run(*SCRIPT, *words, cwd=here)
    assert one.code == other.code == 0
    assert one.err == other.err
    assert without_seconds(one.out) == without_seconds(other.out)


def without_seconds(out: str) -> str:
    (shown,) = re.findall(r"1 step in [\d.]+ s", out)
    return out.replace(shown, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "force"), "say which with --data"),
        (("--method", "fource"), "Did you mean 'force'"),
        (("--data", "mnist"), "--data takes digits, tfds:NAME"),
        (("--data-dir", "."), "it needs --data tfds:NAME"),
        (("--data", "nowhere:load"), "there is no module 'nowhere'"),
        (("--data", "broken:load"), "broken.py, line 1: ModuleNotFoundError"),
        (("--data", "mine:digit"), "has no function 'digit'. Did you mean 'digits'?"),
        (("--data", "mine:rng"), "has no function 'rng'"),
        (("--data", "mine:fails"), "line 51: ZeroDivisionError: division by zero"),
        (("--data", "mine:nothing"), "must return (train, test), each batches or a tuple of arrays"),
        (("--data", "mine:one_pair"), "its train part can't be used"),
        (("--data", "mine:endless"), "never ends"),
        (("--data", "mine:large"), "does not take mine:large: 150 training"),
        (("--data", "mine:too_many_classes", "--method", "snip"), "Received a label value of"),
        (("--sparsity", "90"), "Did you mean 0.9?"),
        (("--seed", "3"), "does not use seed=3"),
        (("--loss", "mse"), "does not use loss='mse'"),
        (("--set", "allocation=erk"), "use --allocation"),
        (("--set", "colour=red"), "There is no option 'colour'"),
        (("--exclude", "tail"), "matches no prunable variable"),
        (("--from-logits",), "--from-logits is for --loss"),
        (("--method", "snip", "--data", "digits", "--loss", LOGITS[1]), "say --from-logits if they are logits"),
        (("--method", "snip", "--data", "digits", "--loss", "mean_square"), "Did you mean 'mean_square"),
        (("-o", "mine.py"), "there is a file of that name"),
        (("-o", "."), "holds other things than a run"),
        (("--data", "mine:interrupts"), "interrupted"),
    ],
)
def test_prune_refuses_and_leaves_nothing(words: tuple[str, ...], message: str, here: Path) -> None:
    before = sorted(path.name for path in here.iterdir() if path.suffix)
    done = prune(here, *words)
    assert (done.code, done.out) == (130 if "mine:interrupts" in words else 1, "")
    assert message in done.err
    assert done.err.startswith("tfprune: ")
    assert done.err.count("\n") == 1
    assert sorted(path.name for path in here.iterdir() if path.name != "__pycache__") == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "nowhere"), "There is no run"),
        (("train", "run"), "The run was pruned without data"),
        (("train", "run", "--data", "digits", "--optimizer", "adm"), "Did you mean 'adam"),
        (("train", "run", "--data", "mine:digits", "--batch-size", "7"), "--batch-size has no effect on mine:digits"),
        (("train", "run", "--data", "mine:large"), "does not take mine:large"),
        (("train", "run", "--data", "mine:too_many_classes"), "Received a label value of"),
        (("train", "run", "--data", "digits", "--optimizer", "sgd", "--learning-rate", "1e30"), "after epoch 1: try a"),
        (("show", "nowhere"), "There is neither a run nor a file of masks"),
        (("show", "."), "There is no run"),
        (("show", "model.keras"), "was not written by Masks.save"),
        (("prune", "nowhere.keras", "--method", "erk", "--sparsity", "0.5", "-o", "new"), "no model to prune"),
    ],
)
def test_what_fails_leaves_the_run_as_it_was(words: tuple[str, ...], message: str, here: Path) -> None:
    assert prune(here).code == 0
    before = {path.name: path.read_bytes() for path in (here / "run").iterdir()}
    done = call(*words, cwd=here)
    assert done.code == 1
    assert message in done.err
    assert done.err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in (here / "run").iterdir()} == before


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("report.json", lambda text: text.replace('"method"', '"methd"'), "report.json is damaged: it has no 'method'"),
        ("report.json", lambda text: text[:-20], "report.json is damaged: "),
        (
            "run.json",
            lambda text: text.replace('"data": null', '"data": 3'),
            "damaged: ['data'] is neither",
        ),
        ("history.json", lambda _: '{"trainings": [], "epochs": [{"loss": 0.5}]}', "epochs without a training"),
        ("history.json", lambda _: '{"trainings": [], "epochs": [{"loss": "x"}]}', "['epochs'][0]['loss'] is no float"),
    ],
)
def test_damaged_runs_are_refused_by_file(name: str, change: Any, message: str, here: Path) -> None:
    assert prune(here).code == 0
    path = here / "run" / name
    path.write_text(change(path.read_text() if path.exists() else ""))
    for words in (("show", "run"), ("report", "run", "-o", "page.html")):
        done = call(*words, cwd=here)
        assert (done.code, done.out) == (1, "")
        assert message in done.err
        assert done.err.count("\n") == 1
    assert not (here / "page.html").exists()


def test_damaged_first_weights_are_refused(here: Path) -> None:
    assert prune(here).code == 0
    path = here / "run" / "initial.npz"
    path.write_bytes(path.read_bytes()[:-100])
    done = call("report", "run", "-o", "page.html", cwd=here)
    assert (done.code, done.out) == (1, "")
    assert "initial.npz is damaged: BadZipFile" in done.err


def test_a_run_is_replaced_only_when_told_and_only_by_a_whole_one(here: Path) -> None:
    (here / "run").mkdir()
    assert prune(here, "--set", "block_size=(1,4)", "--granularity", "block").code == 0
    report = (here / "run" / "report.json").read_text()
    assert json.loads(report)["options"]["block_size"] == [1, 4]
    done = prune(here)
    assert done.code == 1
    assert "replace it with --overwrite" in done.err
    assert prune(here, "--overwrite", "--data", "mine:fails").code == 1
    assert (here / "run" / "report.json").read_text() == report
    assert prune(here, "--overwrite").code == 0
    assert json.loads((here / "run" / "report.json").read_text())["options"]["allocation"] == "global"
    assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []


def test_show_names_what_is_empty(tmp_path: Path) -> None:
    masks = tpi.Masks({"a/kernel": np.ones((3, 4), bool), "b/kernel": np.zeros((2, 2, 2), bool)})
    masks.save(tmp_path / "masks.npz")
    done = call("show", "masks.npz", "--json", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    shown = json.loads(done.out)
    assert (shown["empty"], shown["sparsity"]) == (["b/kernel"], 0.4)
    assert [row["density"] for row in shown["variables"]] == [1.0, 0.0]
    done = call("show", "masks.npz", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert masks.fingerprint in done.out
    assert "│ b/kernel (empty) │ 2x2x2 │    0 │  8 │   0.00% │" in done.out
    assert "Keep no weight: b/kernel." in done.out


def test_methods_as_json(tmp_path: Path) -> None:
    done = call("methods", "--json", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    listed = {row["name"]: row for row in json.loads(done.out)}
    assert tuple(listed) == (*METHODS, *RECIPES)
    assert listed["lottery_ticket"]["options"] == sorted(RECIPES["lottery_ticket"].options)
    assert {row["kind"] for row in listed.values()} == {"before training", "while training"}
    for name in METHODS:
        row, method = listed[name], find_method(name)
        expected = method.steps, method.granularity, method.shares.name, method.needs_data
        assert (row["steps"], row["granularity"], row["allocation"], row["needs_data"]) == expected
    assert "temperature" in listed["grasp"]["options"]


@pytest.mark.parametrize("words", [(), *((name,) for name in list_commands())])
def test_help_fits_eighty_columns(words: tuple[str, ...], tmp_path: Path) -> None:
    done = call(*words, "-h", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "examples:" in done.out
    assert [line for line in done.out.splitlines() if len(line) > 80] == []
    assert ("exit codes:" in done.out) == (not words)


def test_every_option_of_the_table_has_its_flag() -> None:
    flags = {param.name for param in prune_command.params}
    assert OPTIONS.keys() - flags == {"verbose"}  # a terminal shows a progress bar, and --json is silent


def test_editors_know_the_options_of_a_search() -> None:
    known = {name for name, option in OPTIONS.items() if option.applies_to != "call"}
    known |= {name for criterion in CRITERIA.values() for name in criterion.own_options}
    known |= {name for granularity in GRANULARITIES.values() for name in granularity.options}
    assert known == get_type_hints(SearchOptions).keys()


def test_a_budget_in_place_of_a_sparsity(here: Path) -> None:
    words = ("prune", "model.keras", "--method", "magnitude", "-o", "run")
    assert call(*words, "--budget", "weights=100", cwd=here).code == 0
    assert sum(int(mask.sum()) for mask in tpi.Masks.load(here / "run" / "masks.npz").values()) == 100
    for more, code, said in (
        ((), 2, "Give --sparsity or --budget. Received: neither."),
        (("--budget", "weights=100", "--sparsity", "0.5"), 2, "Received: both."),
        (("--budget", "weight=100"), 1, "Did you mean 'weights'?"),
        (("--budget", "weights=some"), 1, "A budget is a positive integer, or a share"),
    ):
        done = call(*words[:-1], "other", *more, cwd=here)
        assert done.code == code
        assert said in done.err


@pytest.mark.parametrize(("flag", "training"), [((), True), (("--training",), True), (("--no-training",), False)])
def test_scored_as_in_training_or_as_in_prediction(flag: tuple[str, ...], training: bool, here: Path) -> None:
    assert prune(here, "--method", "snip", "--data", "mine:some", *flag).code == 0
    assert json.loads((here / "run" / "report.json").read_text())["options"]["training"] is training
