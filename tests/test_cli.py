"""The command line and the quickstart, as their users start them: as processes."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tf_keras
from command import DIGITS, MODULE, SCRIPT, Finished, cells, environment, run

import tfprune_init as tpi
from tfprune_cli import main as cli
from tfprune_cli.commands import methods as methods_command
from tfprune_cli.demo import check_learned
from tfprune_cli.saved import load_model
from tfprune_cli.zeros import check_zeros

QUICKSTART = Path(__file__).resolve().parents[1] / "examples" / "quickstart.py"
SPARSITY = 0.95


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo") / "made" / "here"


@pytest.fixture(scope="module")
def demo(demo_folder, tmp_path_factory) -> Finished:
    options = ("--epochs", "10", "--sparsity", str(SPARSITY), "--output", str(demo_folder))
    return run(*MODULE, "demo", *options, cwd=tmp_path_factory.mktemp("cwd"))


def test_demo_succeeds_without_a_word_on_stderr(demo):
    assert demo.err == ""
    assert demo.code == 0


def test_demo_accuracies(demo):
    guess, untrained, trained = (
        [float(cell.rstrip("%")) / 100 for cell in cells(demo.out, row)]
        for row in ("guessing", "before training", "after 10 epochs")
    )
    assert guess == pytest.approx([0.103, 0.103])
    assert max(untrained) < 0.3
    assert trained[0] > 0.95
    assert trained[1] > 0.7


def test_demo_names_the_data_beside_every_number(demo):
    assert demo.out.count(DIGITS) == 3


def test_demo_trains_with_lines_where_there_is_no_terminal(demo):
    epochs = re.findall(r"^epoch +(\d+)/10 +loss: dense \d+\.\d+, pruned \d+\.\d+$", demo.out, re.MULTILINE)
    assert epochs == [str(number) for number in range(1, 11)]
    assert "\x1b" not in demo.out


def test_demo_counts_zeros(demo, demo_folder):
    report = json.loads((demo_folder / "report.json").read_text())
    assert report["method"] == "force"
    assert report["kept"] == round(report["size"] * (1 - SPARSITY))
    assert f"All {report['size'] - report['kept']:,} pruned weights are exactly 0.0" in demo.out


def test_demo_sizes_are_those_of_the_files(demo, demo_folder):
    raw, gzipped = {}, {}
    for kind in ("float32", "int8"):
        for name in ("dense", "pruned"):
            file = f"{name}_{kind}.tflite"
            row = cells(demo.out, file)
            raw[name], gzipped[name] = (int(cell.replace(",", "")) for cell in row[:2])
            assert raw[name] == (demo_folder / file).stat().st_size
        assert gzipped["dense"] > 5 * gzipped["pruned"]
        assert f"{gzipped['dense'] / gzipped['pruned']:.1f}x as {kind}" in demo.out


def test_demo_tables_fit_eighty_columns(demo):
    assert max(len(line.rstrip()) for line in demo.out.splitlines() if line.startswith(("│", "┏"))) <= 80


def test_demo_on_a_terminal_draws_bars_and_says_what_it_did_not_learn(tmp_path):
    ours, theirs = pty.openpty()
    command = (*SCRIPT, "demo", "--sparsity", "0.995", "--epochs", "1", "--method", "snip")
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment() | {"TERM": "xterm", "COLUMNS": "80"}, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        screen = _everything_from(ours)
    assert process.returncode == 1
    for name in ("dense", "pruned"):
        assert re.search(rf"{name} +━+ epoch 1/1 loss \d+\.\d+", screen)
    assert "The pruned network did not learn" in screen
    assert "Traceback" not in screen


def _everything_from(terminal: int) -> str:
    pieces = []
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # how Linux reports that the other end is closed
            piece = b""
        if not piece:
            os.close(terminal)
            return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(pieces).decode(errors="replace"))
        pieces.append(piece)


def test_a_network_that_collapses_is_an_error(tmp_path):
    done = run(*SCRIPT, "demo", "--sparsity", "0.9999", "--method", "snip", cwd=tmp_path)
    assert done.code == 1
    assert done.err.startswith("tfprune: The network collapsed at step 1")
    assert "Try a lower sparsity" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sparsity", "95"), "Did you mean 0.95?"),
        (("--method", "fource"), "There is no method 'fource'. Nearest names: force"),
        (("--model", "lenet5"), "There is no model 'lenet5'. Nearest names: lenet_5"),
        (("--output", __file__), "The output must be a folder"),
    ],
)
def test_a_wrong_option_is_an_error_in_one_paragraph(options, message, tmp_path):
    done = run(*MODULE, "demo", *options, cwd=tmp_path)
    assert done.code == 1
    assert done.err.startswith("tfprune: ")
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_missing_extra_is_named(tmp_path):
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").write_text("raise ImportError('no scikit-learn here')")
    done = run(*SCRIPT, "demo", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.code == 1
    assert 'pip install "tfprune_init[data]"' in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("dmeo",),
        ("demo", "--epochs", "0"),
        ("demo", "--seed", "-1"),
        ("demo", "--sparsity", "a lot"),
        ("demo", "x"),
        ("export", "model.keras"),
        ("export", "model.keras", "-o", "m.tflite", "--int8", "--quantize", "float16"),
        ("export", "model.keras", "-o", "m.tflite", "--sparse", "maybe"),
        ("inspect",),
        ("prune", "model.keras", "--sparsity", "0.9"),
        ("prune", "model.keras", "-o", "run"),
        ("prune", "model.keras", "-o", "run", "--sparsity", "0.9", "--set", "m"),
        ("train", "run", "--learning-rate", "-1"),
        ("train", "run", "--batch-size", "0"),
        ("show",),
        ("methods", "--json", "--markdown"),
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert "usage: tfprune" in capsys.readouterr().err


def test_interrupted_exits_with_130(monkeypatch, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(methods_command, "run", interrupt)
    assert cli.main(["methods"]) == 130
    assert capsys.readouterr().err == "tfprune: interrupted\n"


def test_version_and_help_do_not_wait_for_tensorflow(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')")
    version = run(*MODULE, "--version", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert version == Finished(0, f"tfprune {tpi.__version__}\n", "")
    for command in ("demo", "methods", "prune", "train", "show", "export", "inspect"):
        help_ = run(*SCRIPT, command, "--help", cwd=tmp_path, PYTHONPATH=str(tmp_path))
        assert help_.code == 0
        assert "examples:" in help_.out
        assert max(map(len, help_.out.splitlines())) < 100


def test_methods_lists_every_method(tmp_path):
    done = run(*MODULE, "methods", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    for name in tpi.methods():
        assert f"│ {name} " in done.out
        assert re.search(rf"^{name} ", done.out, re.MULTILINE)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A run: a folder with a pruned model for the digits."""
    folder = tmp_path_factory.mktemp("run")
    model = tpi.models.lenet_300_100((8, 8, 1), 10, seed=0)
    tpi.prune_at_init(model, None, sparsity=SPARSITY, method="erk")
    tpi.strip(model).save(folder / "model.keras")
    return folder


def test_export_prints_the_report_and_writes_the_file(run_folder, tmp_path):
    options = ("-o", "m.tflite", "--data", "digits", "--int8", "--plot", "m.png")
    done = run(*SCRIPT, "export", str(run_folder), *options, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "m.tflite: int8, 95" in done.out
    assert cells(done.out, "this file")[0] == f"{(tmp_path / 'm.tflite').stat().st_size:,}"
    assert DIGITS in done.out
    assert max(len(line.rstrip()) for line in done.out.splitlines() if line.startswith(("│", "┏"))) <= 80
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")


def test_export_as_json(run_folder, tmp_path):
    options = ("-o", "m.tflite", "--quantize", "float16", "--sparse", "no", "--no-measure", "--json")
    done = run(*MODULE, "export", str(run_folder / "model.keras"), *options, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    assert (report["quantize"], report["sparse"], report["dense_int8"]) == ("float16", False, None)
    assert report["file"]["raw_bytes"] == (tmp_path / "m.tflite").stat().st_size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("missing", "-o", "m.tflite"), "There is no model to export: give a .keras file"),
        ((".", "-o", "m.tflite"), "There is no model to export: give a .keras file"),
        (("broken.keras", "-o", "m.tflite"), "broken.keras can't be loaded"),
        (("RUN", "-o", "m.tflite", "--int8"), "say which with --data"),
        (("RUN", "-o", "m.tflite", "--data", "mnist"), "--data takes digits, tfds:NAME"),
        (("RUN", "-o", "m.tflite", "--data-dir", "."), "it needs --data tfds:NAME"),
        (("RUN", "-o", "no/m.tflite"), "The folder of `path` doesn't exist"),
    ],
)
def test_what_cannot_be_exported(options, message, run_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.keras").write_bytes(b"no zip")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", *(str(run_folder) if word == "RUN" else word for word in options)]) == 1
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "m.tflite").exists()


def test_a_model_of_tf_keras_is_loaded_by_tf_keras(tmp_path):
    model = tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    assert isinstance(load_model(str(tmp_path)), tf_keras.Model)


def test_code_in_a_saved_model_is_notrun(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x), keras.layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    with pytest.raises(tpi.PruningError, match=r"can't be loaded: .*unsafe"):
        load_model(str(tmp_path))


def test_no_better_than_guessing_is_refused():
    data = SimpleNamespace(test_size=360, description="some data")
    check_learned(0.19, 0.103, data)
    with pytest.raises(tpi.PruningError, match=r"did not learn: accuracy 18.0%.*some data"):
        check_learned(0.18, 0.103, data)


def test_pruned_weights_that_came_back_are_refused():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")])
    report = tpi.prune_at_init(model, None, sparsity=0.75, method="magnitude")
    check_zeros(tpi.strip(model), report.masks)
    kernel = model.layers[0].kernel
    kernel.assign(np.full(kernel.shape, 1e-30, "float32"))
    with pytest.raises(tpi.PruningError, match="24 of head/kernel"):
        check_zeros(model, report.masks)


def test_quickstart(tmp_path):
    done = run(sys.executable, str(QUICKSTART), "--epochs", "10", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    assert "Warning" not in done.err
    accuracy = re.search(r"with 95% of the weights gone: ([\d.]+)%", done.out)
    assert accuracy is not None
    assert float(accuracy[1]) > 70
    assert DIGITS in done.out
    assert (tmp_path / "lenet_5.tflite").stat().st_size > 10_000


def test_the_example_of_collapse(tmp_path):
    script = str(QUICKSTART.with_name("collapse.py"))
    done = run(sys.executable, script, "--steps", "3", "--sparsities", "0.9", "0.9999", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "digits: 1,437 training" in done.out
    assert cells(done.out, "     90%") == ["0 of 3", "0 of 3", "0 of 3"]
    assert "collapsed" in cells(done.out, "  99.99%")
