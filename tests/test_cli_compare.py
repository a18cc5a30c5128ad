"""`tfprune compare` and `tfprune report`: a file in, runs and pages out; one of them as a process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import keras
import pytest
from command import SCRIPT, run

import tfprune_init as tpi
from tfprune_cli import main as cli

MODULE = """
import keras
import numpy as np

x = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")
y = (x[:, 0] > 0).astype("int64")


def data():
    return (x[:150], y[:150]), (x[150:], y[150:])


def model(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)])


def probabilities():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, "softmax")])
"""

CONFIG = """
model = "mine_compared:model"
data = "mine_compared:data"
methods = ["random", { method = "force", steps = 3, label = "FORCE" }]
sparsities = [0.5]
seeds = 2
epochs = 2
out = "runs"
optimizer = { name = "SGD", learning_rate = 0.5 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a comparison ran, as a process."""
    path = tmp_path_factory.mktemp("compared")
    (path / "mine_compared.py").write_text(MODULE)
    (path / "config.toml").write_text(CONFIG)
    done = run(*SCRIPT, "compare", "config.toml", cwd=path)
    assert done.code == 0, done.err
    assert "\n6 runs; " in done.out
    assert done.err.splitlines()[-1].startswith("6/6 FORCE, 50%, seed 1: ")
    assert len(done.err.splitlines()) == 6
    return path


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_a_file_says_what_the_function_takes(here: Path, tmp_path: Path) -> None:
    import mine_compared

    results = tpi.Results.load(here / "runs")
    by_hand = tpi.compare(
        mine_compared.model,
        mine_compared.data,
        methods=["random", {"method": "force", "steps": 3, "label": "FORCE"}],
        sparsities=[0.5],
        seeds=2,
        epochs=2,
        optimizer=lambda: keras.optimizers.SGD(0.5),
        out=tmp_path,
    )
    assert [(r.label, r.seed, r.kept, r.accuracy) for r in results] == [
        (r.label, r.seed, r.kept, r.accuracy) for r in by_hand
    ]
    assert {run.label for run in results} == {"dense", "random", "FORCE"}


def test_again_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in here.glob("runs/runs/*/run.json")}
    assert cli.main(["compare", "config.toml", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    told = json.loads(said.out)
    assert [(row["label"], row["runs"]) for row in told["summary"]] == [("dense", 2), ("random", 2), ("FORCE", 2)]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_options_of_the_command_line_win(here: Path, tmp_path: Path) -> None:
    assert cli.main(["compare", "config.toml", "--out", str(tmp_path / "other"), "--json"]) == 0
    assert len(tpi.Results.load(tmp_path / "other")) == 6


def test_loss_of_probabilities(here: Path, tmp_path: Path) -> None:
    lines = ['loss = "sparse_categorical_crossentropy"', "from_logits = false", "dense = false"]
    config = CONFIG.replace(":model", ":probabilities").replace('"runs"', f'"{tmp_path / "out"}"')
    (tmp_path / "c.toml").write_text(
        "\n".join([config, *lines]).replace('methods = ["random", ', 'methods = ["snip", ')
    )
    config = (tmp_path / "c.toml").read_text()
    assert cli.main(["compare", str(tmp_path / "c.toml")]) == 0
    import mine_compared

    by_hand = tpi.compare(
        mine_compared.probabilities,
        mine_compared.data,
        methods=["snip", {"method": "force", "steps": 3, "label": "FORCE"}],
        sparsities=[0.5],
        seeds=2,
        epochs=2,
        optimizer=lambda: keras.optimizers.SGD(0.5),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=False),
        dense=False,
        out=tmp_path / "by_hand",
    )
    assert {run.id for run in tpi.Results.load(tmp_path / "out")} == {run.id for run in by_hand}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("epochs = 2", "epoch = 2"), "means nothing: 'epoch'. Nearest: epochs"),
        (("sparsities = [0.5]\n", ""), "does not say sparsities"),
        (("seeds = 2", "seeds ="), "is not TOML"),
        (("mine_compared:model", "resnet21"), "model is one of lenet_5, lenet_300_100"),
        (("mine_compared:model", "mine_compared:nothing"), "can't be found: module 'mine_compared' has no attribute"),
        (("mine_compared:model", "nowhere:nothing"), "can't be found: No module named 'nowhere'"),
        (("mine_compared:data", "digit"), "--data takes digits, tfds:NAME"),
        (("seeds = 2", 'seeds = 2\ndata_dir = "x"'), "--data-dir is for data sets of TFDS"),
        (('name = "SGD"', 'name = "SGDD"'), "optimizer = .*SGDD.* can't be made"),
        (("learning_rate = 0.5", "learningrate = 0.5"), "optimizer = .*learningrate.* can't be made"),
        (('optimizer = { name = "SGD", learning_rate = 0.5 }', "optimizer = 3"), "optimizer is a name, or a table"),
        (("seeds = 2", "seeds = 2\nfrom_logits = true"), "from_logits is of a loss"),
        (("seeds = 2", 'seeds = 2\nloss = "nothing"'), "Keras has no loss 'nothing'"),
        (("steps = 3", "stepps = 3"), "stepps"),
    ],
)
def test_refused(
    change: tuple[str, str], message: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert change[0] in CONFIG
    config = CONFIG.replace('"runs"', f'"{tmp_path / "out"}"').replace(*change)
    (tmp_path / "bad.toml").write_text(config)
    assert cli.main(["compare", str(tmp_path / "bad.toml")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert re.search(message, said.err), said.err
    assert not (tmp_path / "out").exists()


def test_files_that_are_none(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", "nothing.toml"]) == 1
    assert "nothing.toml" in capsys.readouterr().err
    assert cli.main(["compare", "runs"]) == 1
    assert "a folder" in capsys.readouterr().err


def test_pages(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "runs", "-o", str(tmp_path / "comparison.html")]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'comparison.html'}\n"
    assert "Every run" in (tmp_path / "comparison.html").read_text()

    model = tpi.models.lenet_300_100((8, 8, 1), seed=0)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.save(tmp_path / "m.keras")
    made = str(tmp_path / "run")
    words = ["prune", str(tmp_path / "m.keras"), "--data", "digits", "--method", "force", "--steps", "3"]
    assert cli.main([*words, "--sparsity", "0.9", "-o", made]) == 0
    assert cli.main(["train", made, "--epochs", "1"]) == 0
    assert cli.main(["report", made, "-o", str(tmp_path / "run.html")]) == 0
    page = (tmp_path / "run.html").read_text()
    for words in (
        "lenet_300_100 pruned by force",
        "Judged by and trained on digits",
        "Connections per neuron",
        "5,020",
    ):
        assert words in page
    assert "Which weights are kept" in page
    assert "Training" in page

    capsys.readouterr()
    assert cli.main(["report", str(here), "-o", str(tmp_path / "no.html")]) == 1
    assert "tfprune prune" in capsys.readouterr().err
    assert not (tmp_path / "no.html").exists()
