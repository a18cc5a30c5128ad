"""Pruning, training and showing runs from the command line; the whole chain as processes, the rest in this one."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras
from command import DIGITS, MODULE, SCRIPT, Finished, run

import tfprune_init as tpi
from tfprune_cli import main as cli
from tfprune_cli.data import load_data
from tfprune_init import datasets
from tfprune_init.enforce import attached_masks
from tfprune_init.methods import method_named
from tfprune_init.targets import find_targets

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
"""


def weights_of(model: Any) -> dict[str, np.ndarray]:
    return {t.path: np.array(t.tensor) for t in find_targets(model).prunable}


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


@pytest.fixture(scope="module")
def chain(folder: Path) -> dict[str, Finished]:
    """prune, train and export, one process each."""
    options = ("--data", "digits", "--sparsity", str(SPARSITY), "--steps", "10", "-o", "made/run")
    done = {"prune": run(*SCRIPT, "prune", "model.keras", *options, cwd=folder)}
    shutil.copytree(folder / "made" / "run", folder / "before")
    done["train"] = run(*MODULE, "train", "made/run", "--epochs", "12", cwd=folder)
    export = ("export", "made/run", "-o", "m.tflite", "--sparse", "no", "--no-measure", "--json")
    done["export"] = run(*SCRIPT, *export, cwd=folder)
    return done


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a copy of `folder` as it was before anything ran."""
    for name in ("model.keras", "plain.keras", "mine.py", "broken.py"):
        shutil.copy(folder / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("mine", "broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def call(*words: str) -> int:
    return cli.main([*words])


def prune(*words: str, output: str = "run") -> int:
    return call("prune", "model.keras", "--method", "magnitude", "--sparsity", str(SPARSITY), "-o", output, *words)


def test_the_chain_succeeds_without_a_word_on_stderr(chain: dict[str, Finished]) -> None:
    assert {name: (done.code, done.err) for name, done in chain.items()} == dict.fromkeys(chain, (0, ""))


def test_what_prune_writes(chain: dict[str, Finished], folder: Path, model: keras.Model) -> None:
    made = folder / "before"
    assert sorted(path.name for path in made.iterdir()) == [
        *("initial.npz", "masks.npz", "model.keras", "report.json", "run.json")
    ]
    masks, original = tpi.Masks.load(made / "masks.npz"), weights_of(model)
    size = sum(value.size for value in original.values())
    assert masks.kept == int(size * (1 - SPARSITY) + 1e-9)
    with np.load(made / "initial.npz") as initial:
        assert set(initial) == set(masks)
        assert all(np.array_equal(initial[path], original[path]) for path in masks)
    pruned = load(made / "model.keras")
    assert attached_masks(pruned) == masks
    assert all(np.array_equal(weights_of(pruned)[path], original[path] * masks[path]) for path in masks)
    report = json.loads((made / "report.json").read_text())
    assert (report["method"], report["kept"], report["fingerprint"]) == ("force", masks.kept, masks.fingerprint)
    about = json.loads((made / "run.json").read_text())
    assert about["command"].startswith(f"tfprune prune model.keras --data digits --sparsity {SPARSITY}")
    assert about["data"] == {"name": "digits", "data_dir": None, "description": DIGITS}
    assert about["masks_in_model"] is True


def test_what_train_writes(chain: dict[str, Finished], folder: Path) -> None:
    made, before = folder / "made" / "run", folder / "before"
    assert (made / "untrained.keras").read_bytes() == (before / "model.keras").read_bytes()
    masks, trained = tpi.Masks.load(made / "masks.npz"), load(made / "model.keras")
    assert attached_masks(trained) is None
    untrained = weights_of(load(before / "model.keras"))
    for path, values in weights_of(trained).items():
        assert not values[~masks[path]].any()
        assert (values != untrained[path])[masks[path]].mean() > 0.5
    history = json.loads((made / "history.json").read_text())
    assert [row["epoch"] for row in history["epochs"]] == list(range(1, 13))
    assert [one["data"]["description"] for one in history["trainings"]] == [DIGITS]
    images, labels = (np.concatenate(part) for part in zip(*datasets.load("digits").test, strict=True))
    accuracy = (trained.predict(images, verbose=0).argmax(axis=1) == labels).mean()
    assert history["epochs"][-1]["val_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert accuracy > 0.5
    lines = [line for line in chain["train"].out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 6
    assert lines[-1].startswith("epoch 12/12   loss ")
    assert max(map(len, chain["train"].out.splitlines())) <= 80
    assert f"All {masks.size - masks.kept:,} pruned weights are exactly 0.0" in chain["train"].out


def test_show_and_export_of_the_trained_run(
    chain: dict[str, Finished], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("show", str(folder / "made" / "run"), "--json") == 0
    shown, masks = json.loads(capsys.readouterr().out), tpi.Masks.load(folder / "made" / "run" / "masks.npz")
    assert (shown["size"], shown["kept"], shown["fingerprint"]) == (masks.size, masks.kept, masks.fingerprint)
    rows = {row["path"]: row for row in shown["variables"]}
    assert {path: (row["shape"], row["kept"]) for path, row in rows.items()} == {
        path: (list(mask.shape), int(mask.sum())) for path, mask in masks.items()
    }
    history = json.loads((folder / "made" / "run" / "history.json").read_text())
    assert (shown["run"]["trained_epochs"], shown["run"]["last_epoch"]) == (12, history["epochs"][-1])
    assert json.loads(chain["export"].out)["file"]["raw_bytes"] == (folder / "m.tflite").stat().st_size


def test_magnitude_keeps_the_largest_and_filters_leave_alone(here: Path, model: keras.Model) -> None:
    assert prune("--filters", "head", "--scope", "layerwise") == 0
    masks = tpi.Masks.load(here / "run" / "masks.npz")
    assert list(masks) == ["hidden/kernel"]
    strength, mask = np.abs(weights_of(model)["hidden/kernel"]), masks["hidden/kernel"]
    assert strength[mask].min() >= strength[~mask].max()
    with np.load(here / "run" / "initial.npz") as initial:
        assert set(initial) == {"hidden/kernel"}


def test_two_trainings_are_as_good_as_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune("--data", "digits") == 0
    shutil.copytree(here / "run", here / "other")
    train = ("--batch-size", "200", "--seed", "3")
    assert call("train", "run", "--epochs", "1", *train) == call("train", "run", "--epochs", "2", *train) == 0
    assert call("train", "other", "--epochs", "3", *train) == 0
    capsys.readouterr()
    one, other = (weights_of(load(here / name / "model.keras")) for name in ("run", "other"))
    for path in one:
        np.testing.assert_allclose(one[path], other[path], atol=1e-6)
    untrained = [(here / name / "untrained.keras").read_bytes() for name in ("run", "other")]
    assert untrained[0] == untrained[1]
    assert call("show", "run") == 0
    out = capsys.readouterr().out
    assert "Trained for 3 epochs on digits" in out
    assert "Pruned by magnitude (asked for 80.0000%) on digits" in out


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
def test_data_of_the_users_own(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prune("--method", "snip", "--data", name) == 0
    capsys.readouterr()
    assert call("train", "run", "--epochs", "1", "--json") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    training = json.loads(captured.out)["training"]
    assert training["data"]["name"] == name
    described = {"mine:some": "150 training and 50 test examples", "mine:digits": "1,437 training and 360 test images"}
    assert described.get(name, "an unknown number of training") in training["data"]["description"]


def test_a_model_without_a_loss_and_an_optimizer_by_name(here: Path) -> None:
    words = ("--method", "synflow", "--sparsity", "0.5", "--json", "-o", "run")
    assert call("prune", "plain.keras", *words) == 0
    train = ("train", "run", "--epochs", "1", "--data", "digits")
    assert call(*train) == 1
    assert call(*train, *LOGITS, "--optimizer", "sgd", "--learning-rate", "0.25") == 0
    assert call(*train, "--learning-rate", "0.125") == 0
    history = json.loads((here / "run" / "history.json").read_text())
    assert [(one["optimizer"], one["learning_rate"]) for one in history["trainings"]] == [("SGD", 0.25), ("SGD", 0.125)]
    assert history["epochs"][-1]["val_accuracy"] > 0.2


def test_a_model_of_tf_keras(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network(tf_keras).save(here / "legacy.keras")
    words = ("--data", "digits", "--method", "snip", "--sparsity", "0.8", "-o", "run", "--json")
    assert call("prune", "legacy.keras", *words, *LOGITS) == 0
    assert json.loads(capsys.readouterr().out)["run"] == "run"
    assert json.loads((here / "run" / "run.json").read_text())["masks_in_model"] is False
    assert call("train", "run", "--epochs", "2", "--optimizer", "sgd") == 0
    assert capsys.readouterr().err == ""
    masks, trained = tpi.Masks.load(here / "run" / "masks.npz"), tf_keras.models.load_model(here / "run/model.keras")
    assert not any(values[~masks[path]].any() for path, values in weights_of(trained).items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "force"), "say which with --data"),
        (("--method", "fource"), "Nearest names: force"),
        (("--data", "mnist"), "--data takes digits, tfds:NAME"),
        (("--data-dir", "."), "it needs --data tfds:NAME"),
        (("--data", "nowhere:load"), "there is no module 'nowhere'"),
        (("--data", "broken:load"), "broken.py, line 1: ModuleNotFoundError"),
        (("--data", "mine:digit"), "has no function 'digit'. Nearest names: digits"),
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
        (("--set", "scope=erk"), "use --scope"),
        (("--set", "colour=red"), "There is no option 'colour'"),
        (("--filters", "tail"), "matches no prunable variable"),
        (("--from-logits",), "--from-logits is for --loss"),
        (("--method", "snip", "--data", "digits", "--loss", LOGITS[1]), "say --from-logits if they are logits"),
        (("--method", "snip", "--data", "digits", "--loss", "mean_square"), "Nearest names: mean_square"),
        (("-o", "mine.py"), "there is a file of that name"),
        (("-o", "."), "holds other things than a run"),
        (("--data", "mine:interrupts"), "interrupted"),
    ],
)
def test_prune_refuses_and_leaves_nothing(
    words: tuple[str, ...], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in here.iterdir() if path.suffix)
    assert prune(*words) == (130 if "mine:interrupts" in words else 1)
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("tfprune: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert sorted(path.name for path in here.iterdir() if path.name != "__pycache__") == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "nowhere"), "There is no run"),
        (("train", "run"), "The run was pruned without data"),
        (("train", "run", "--data", "digits", "--optimizer", "adm"), "Nearest names: adam"),
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
def test_what_fails_leaves_the_run_as_it_was(
    words: tuple[str, ...], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prune() == 0
    before = {path.name: path.read_bytes() for path in (here / "run").iterdir()}
    capsys.readouterr()
    assert call(*words) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in (here / "run").iterdir()} == before


def test_a_run_is_replaced_only_when_told_and_only_by_a_whole_one(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "run").mkdir()
    assert prune("--set", "block_size=(1,4)", "--scope", "block") == 0
    report = (here / "run" / "report.json").read_text()
    assert json.loads(report)["options"]["block_size"] == [1, 4]
    capsys.readouterr()
    assert prune() == 1
    assert "replace it with --overwrite" in capsys.readouterr().err
    assert prune("--overwrite", "--data", "mine:fails") == 1
    assert (here / "run" / "report.json").read_text() == report
    assert prune("--overwrite") == 0
    assert json.loads((here / "run" / "report.json").read_text())["options"]["scope"] == "global"
    assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []


def test_show_names_what_is_empty(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = tpi.Masks({"a/kernel": np.ones((3, 4), bool), "b/kernel": np.zeros((2, 2, 2), bool)})
    masks.save(here / "masks.npz")
    assert call("show", "masks.npz", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["empty"], shown["sparsity"]) == (["b/kernel"], 0.4)
    assert [row["density"] for row in shown["variables"]] == [1.0, 0.0]
    assert call("show", "masks.npz") == 0
    out = capsys.readouterr().out
    assert masks.fingerprint in out
    assert "│ b/kernel (empty) │ 2x2x2 │    0 │  8 │   0.00% │" in out
    assert "Keep no weight: b/kernel." in out


def test_methods_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("methods", "--json") == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert tuple(listed) == tpi.methods()
    for name, row in listed.items():
        assert (row["steps"], row["scope"], row["needs_data"]) == (
            method_named(name).steps, method_named(name).scope, method_named(name).needs_data
        )  # fmt: skip
    assert "temperature" in listed["grasp"]["options"]


@pytest.mark.parametrize("words", [(), *((command.__name__.split(".")[-1],) for command in cli.COMMANDS)])
def test_help_fits_eighty_columns(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as exit_:
        call(*words, "-h")
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert ("exit codes:" in out) == (not words)
