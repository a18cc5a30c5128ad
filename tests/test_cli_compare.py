"""`tfprune compare` and `tfprune report`: a file in, runs and pages out; once as a process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import keras
import pytest
from command import SCRIPT, Finished, call, cells, run

import tfprune_init as tpi

MODULE = """
import keras
import numpy as np

x = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")
y = (x[:, 0] > 0).astype("int64")


def data():
    return (x[:150], y[:150]), (x[150:], y[150:])


def model(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2, name="head")])


def probabilities():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(2, "softmax")])
"""

CONFIG = """
model = "mine_compared:model"
data = "mine_compared:data"
methods = ["random", { method = "force", steps = 3, label = "FORCE" }]
sparsities = [0.5]
seeds = [3]
epochs = 2
out = "runs"
optimizer = { name = "SGD", learning_rate = 0.5 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a comparison ran."""
    path = asked(tmp_path_factory.mktemp("compared"))
    check_told(call("compare", "config.toml", cwd=path))
    return path


def asked(folder: Path) -> Path:
    (folder / "mine_compared.py").write_text(MODULE)
    (folder / "config.toml").write_text(CONFIG)
    return folder


def check_told(done: Finished) -> None:
    assert done.code == 0, done.err
    assert "\n3 runs; " in done.out
    assert done.err.splitlines()[-1].startswith("3/3 FORCE, 50%, seed 3: ")
    assert len(done.err.splitlines()) == 3


@pytest.mark.process
@pytest.mark.slow
def test_a_process_finds_the_same(folder: Path, tmp_path: Path) -> None:
    check_told(run(*SCRIPT, "compare", "config.toml", cwd=asked(tmp_path)))
    here, there = (tpi.Results.load(path / "runs") for path in (folder, tmp_path))
    assert [(r.id, r.kept, r.accuracy) for r in here] == [(r.id, r.kept, r.accuracy) for r in there]


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
        seeds=[3],
        epochs=2,
        optimizer=lambda: keras.optimizers.SGD(0.5),
        out=tmp_path,
    )
    assert [(r.label, r.seed, r.kept, r.accuracy) for r in results] == [
        (r.label, r.seed, r.kept, r.accuracy) for r in by_hand
    ]
    assert {run.label for run in results} == {"dense", "random", "FORCE"}


def test_again_as_json(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/runs/*/run.json")}
    done = call("compare", "config.toml", "--json", cwd=folder)
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert [(row["label"], row["runs"]) for row in told["summary"]] == [("dense", 1), ("random", 1), ("FORCE", 1)]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_show_reads_what_compare_wrote(folder: Path) -> None:
    by_label = {run.label: run for run in tpi.Results.load(folder / "runs")}
    force, dense = by_label["FORCE"], by_label["dense"]
    done = call("show", f"runs/runs/{force.id}", cwd=folder)
    assert (done.code, done.err) == (0, "")
    assert f"Run {force.id} of a comparison: FORCE (method force, steps=3), asked for 50.0000%, seed 3" in done.out
    assert "Trained for 2 epochs; last epoch: " in done.out
    assert f"Test split: accuracy {force.accuracy:.4f}, loss {force.loss:.4f}" in done.out
    assert cells(done.out, "all") == ["", "32", "64", "50.00%"]
    done = call("show", f"runs/runs/{force.id}", "--json", cwd=folder)
    shown = json.loads(done.out)
    assert (shown["kept"], shown["run"]["kind"], shown["run"]["status"]) == (32, "compare", "trained")
    assert shown["run"]["last_epoch"] == {"epoch": 2, **force.history[-1]}

    done = call("show", f"runs/runs/{dense.id}", cwd=folder)
    assert (done.code, done.err) == (0, "")
    assert "dense (method dense), asked for 0.0000%" in done.out

    done = call("show", "runs", "--json", cwd=folder)
    assert [row["label"] for row in json.loads(done.out)["summary"]] == ["dense", "random", "FORCE"]

    done = call("train", f"runs/runs/{force.id}", "--data", "digits", cwd=folder)
    assert done.code == 1
    assert "is one of `tfprune compare`, without a model" in done.err


def test_options_of_the_command_line_win(tmp_path: Path) -> None:
    config = asked(tmp_path) / "config.toml"
    config.write_text(CONFIG.replace("seeds = [3]", "seeds = 2\ndense = false").replace("epochs = 2", "epochs = 1"))
    done = call("compare", "config.toml", "--out", "other", "--json", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    made = [(run.label, run.seed) for run in tpi.Results.load(tmp_path / "other")]
    assert made == [("random", 0), ("FORCE", 0), ("random", 1), ("FORCE", 1)]
    assert not (tmp_path / "runs").exists()


def test_exclude_in_the_file(folder: Path, tmp_path: Path) -> None:
    short = CONFIG.replace("epochs = 2", "epochs = 1\ndense = false").replace('"runs"', f'"{tmp_path / "out"}"')
    (tmp_path / "c.toml").write_text(short.replace('label = "FORCE"', 'exclude = ["head"]').replace('"random", ', ""))
    done = call("compare", str(tmp_path / "c.toml"), "--json", cwd=folder)
    assert (done.code, done.err) == (0, "")
    results = tpi.Results.load(tmp_path / "out")
    assert [mask.shape for mask in results.masks(results[0]).values()] == [(6, 8)]


def test_loss_of_probabilities(here: Path, tmp_path: Path) -> None:
    lines = ['loss = "sparse_categorical_crossentropy"', "from_logits = false", "dense = false"]
    short = CONFIG.replace("seeds = [3]", "seeds = 1").replace("epochs = 2", "epochs = 1")
    config = short.replace(":model", ":probabilities").replace('"runs"', f'"{tmp_path / "out"}"')
    (tmp_path / "c.toml").write_text(
        "\n".join([config, *lines]).replace('methods = ["random", ', 'methods = ["snip", ')
    )
    config = (tmp_path / "c.toml").read_text()
    assert call("compare", str(tmp_path / "c.toml"), cwd=here).code == 0
    import mine_compared

    by_hand = tpi.compare(
        mine_compared.probabilities,
        mine_compared.data,
        methods=["snip", {"method": "force", "steps": 3, "label": "FORCE"}],
        sparsities=[0.5],
        seeds=1,
        epochs=1,
        optimizer=lambda: keras.optimizers.SGD(0.5),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=False),
        dense=False,
        out=tmp_path / "by_hand",
    )
    assert {run.id for run in tpi.Results.load(tmp_path / "out")} == {run.id for run in by_hand}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("epochs = 2", "epoch = 2"), "means nothing: 'epoch'. Did you mean 'epochs'"),
        (("sparsities = [0.5]\n", ""), "does not say sparsities"),
        (("seeds = [3]", "seeds ="), "is not TOML"),
        (("mine_compared:model", "resnet21"), "model is one of conv_2, "),
        (("mine_compared:model", "mine_compared:nothing"), "can't be found: module 'mine_compared' has no attribute"),
        (("mine_compared:model", "nowhere:nothing"), "can't be found: No module named 'nowhere'"),
        (("mine_compared:data", "digit"), "--data takes digits, tfds:NAME"),
        (("seeds = [3]", 'seeds = [3]\ndata_dir = "x"'), "--data-dir is for data sets of TFDS"),
        (('name = "SGD"', 'name = "SGDD"'), "optimizer = .*SGDD.* can't be made"),
        (("learning_rate = 0.5", "learningrate = 0.5"), "optimizer = .*learningrate.* can't be made"),
        (('optimizer = { name = "SGD", learning_rate = 0.5 }', "optimizer = 3"), "optimizer is a name, or a table"),
        (("seeds = [3]", "seeds = [3]\nfrom_logits = true"), "from_logits is of a loss"),
        (("seeds = [3]", 'seeds = [3]\nloss = "nothing"'), "Keras has no loss 'nothing'"),
        (("steps = 3", "stepps = 3"), "stepps"),
        (("epochs = 2", 'epochs = "2"'), r"bad.toml: \['epochs'\] is no int. Received: '2'"),
        (("seeds = [3]", "seeds = [3.5]"), r"bad.toml: \['seeds'\]\[0\] is no int. Received: 3.5"),
        (("seeds = [3]", "seeds = true"), r"bad.toml: \['seeds'\] is neither int nor list. Received: True"),
        (("seeds = [3]", "seeds = 99999999999"), "seeds may be 100,000 at most. Received: seeds=99999999999"),
        (("sparsities = [0.5]", "sparsities = 0.5"), r"bad.toml: \['sparsities'\] is no list. Received: 0.5"),
        (("seeds = [3]", f"seeds = {'[' * 100_000}"), "is not TOML"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused(change: tuple[str, str], message: str, folder: Path, tmp_path: Path) -> None:
    assert change[0] in CONFIG
    config = CONFIG.replace('"runs"', f'"{tmp_path / "out"}"').replace(*change)
    (tmp_path / "bad.toml").write_text(config)
    done = call("compare", str(tmp_path / "bad.toml"), cwd=folder)
    assert (done.code, done.out) == (1, "")
    assert re.search(message, done.err), done.err
    assert not (tmp_path / "out").exists()


def test_files_that_are_none(folder: Path) -> None:
    done = call("compare", "nothing.toml", cwd=folder)
    assert done.code == 1
    assert "nothing.toml" in done.err
    done = call("compare", "runs", cwd=folder)
    assert done.code == 1
    assert "a folder" in done.err


def test_the_page_of_a_comparison(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "comparison.html"
    done = call("report", "runs", "-o", str(page), cwd=folder)
    assert done == Finished(0, f"wrote {page}\n", "")
    assert "Every run" in page.read_text()


def test_the_page_of_a_run(folder: Path, tmp_path: Path) -> None:
    model = tpi.models.lenet_300_100((8, 8, 1), seed=0)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.save(tmp_path / "m.keras")
    words = ("prune", "m.keras", "--data", "digits", "--method", "force", "--steps", "3", "--sparsity", "0.9")
    assert call(*words, "-o", "run", cwd=tmp_path).code == 0
    assert call("train", "run", "--epochs", "1", cwd=tmp_path).code == 0
    assert call("report", "run", "-o", "run.html", cwd=tmp_path) == Finished(0, "wrote run.html\n", "")
    page = (tmp_path / "run.html").read_text()
    for words in (
        "lenet_300_100 pruned by force",
        "Scored and trained on digits",
        "Connections per neuron",
        "5,020",
    ):
        assert words in page
    assert "Which weights are kept" in page
    assert "Training" in page

    done = call("report", str(folder), "-o", "no.html", cwd=tmp_path)
    assert done.code == 1
    assert "tfprune prune" in done.err
    assert not (tmp_path / "no.html").exists()


def test_a_procedure_in_the_file(here: Path, tmp_path: Path) -> None:
    methods = 'methods = ["snip", { method = "lottery_ticket", rate = 0.5, label = "LT" }]'
    lines = [methods if line.startswith("methods") else line for line in CONFIG.splitlines()]
    (here / "ticket.toml").write_text("\n".join(lines))
    done = call("compare", "ticket.toml", "--out", str(tmp_path / "out"), cwd=here)
    assert done.code == 0, done.err
    assert [line.split()[-1] for line in done.out.splitlines() if line.strip().startswith(("dense", "snip", "LT"))] == [
        *("4", "4", "8")
    ]
    page = call("report", str(tmp_path / "out"), "-o", "page.html", cwd=tmp_path)
    assert (page.code, page.err) == (0, "")
    assert ">Cost</h2>" in (tmp_path / "page.html").read_text()
