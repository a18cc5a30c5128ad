"""The command line and the quickstart: in this process, and as their users start them, as processes."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tf_keras
from command import DIGITS, METHODS, MODULE, SCRIPT, Finished, call, cells, environment, run, scripts_in_process
from rich.console import Console

import tfprune_init as tpi
from tfprune_cli import demonstration
from tfprune_cli.commands import methods as methods_command
from tfprune_cli.program import list_commands
from tfprune_cli.saved_models import load_model
from tfprune_cli.zeros import check_zeros
from tfprune_init.training import RECIPES

QUICKSTART = Path(__file__).resolve().parents[1] / "examples" / "quickstart.py"
SPARSITY = 0.95
KINDS = ("float32", "int8")
OWN_PROCESS = [pytest.mark.process, pytest.mark.slow]


@dataclass(frozen=True)
class Shown:
    """A demo that ended, the folder of its files, and what it was asked for."""

    done: Finished
    folder: Path
    method: str
    sparsity: float
    epochs: int
    learned: tuple[float, float]


@pytest.fixture(
    scope="module", params=[pytest.param("here", marks=pytest.mark.slow), pytest.param("process", marks=OWN_PROCESS)]
)
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """A small network in this process; the one that users get first in a process of its own."""
    folder, cwd = tmp_path_factory.mktemp("demo") / "made" / "here", tmp_path_factory.mktemp("cwd")
    options = ("demo", "--output", str(folder))
    if request.param == "process":
        words = ("--epochs", "10", "--sparsity", "0.95")
        return Shown(run(*MODULE, *options, *words, cwd=cwd), folder, "force", 0.95, 10, (0.95, 0.7))
    with scripts_in_process():
        words = ("--epochs", "2", "--sparsity", "0.97", "--model", "lenet_300_100", "--method", "erk")
        done = call(*options, *words, cwd=cwd)
    return Shown(done, folder, "erk", 0.97, 2, (0.8, 0.25))


def test_demo_succeeds_without_a_word_on_stderr(demo):
    assert demo.done.err == ""
    assert demo.done.code == 0


def test_demo_accuracies(demo):
    guess, untrained, trained = (
        [float(cell.rstrip("%")) / 100 for cell in cells(demo.done.out, row)]
        for row in ("guessing", "before training", f"after {demo.epochs} epochs")
    )
    assert guess == pytest.approx([0.103, 0.103])
    assert max(untrained) < 0.3
    assert trained[0] > demo.learned[0]
    assert trained[1] > demo.learned[1]


def test_demo_names_the_data_beside_every_number(demo):
    assert demo.done.out.count(DIGITS) == 3


def test_demo_trains_with_lines_where_there_is_no_terminal(demo):
    line = rf"^epoch +(\d+)/{demo.epochs} +loss: dense \d+\.\d+, pruned \d+\.\d+$"
    epochs = re.findall(line, demo.done.out, re.MULTILINE)
    assert epochs == [str(number) for number in range(1, demo.epochs + 1)]
    assert "\x1b" not in demo.done.out


def test_demo_counts_zeros(demo):
    report = json.loads((demo.folder / "report.json").read_text())
    assert report["method"] == demo.method
    assert report["kept"] == round(report["size"] * (1 - demo.sparsity))
    assert f"All {report['size'] - report['kept']:,} pruned weights are exactly 0.0" in demo.done.out


def test_demo_sizes_are_those_of_the_files(demo):
    raw, gzipped = {}, {}
    for kind in KINDS:
        for name in ("dense", "pruned"):
            file = f"{name}_{kind}.tflite"
            row = cells(demo.done.out, file)
            raw[name], gzipped[name] = (int(cell.replace(",", "")) for cell in row[:2])
            assert raw[name] == (demo.folder / file).stat().st_size
        assert gzipped["dense"] > 5 * gzipped["pruned"]
        assert f"{gzipped['dense'] / gzipped['pruned']:.1f}x as {kind}" in demo.done.out


def test_demo_tables_fit_eighty_columns(demo):
    assert max(len(line.rstrip()) for line in demo.done.out.splitlines() if line.startswith(("│", "┏"))) <= 80


def test_the_files_of_the_demo(tmp_path):
    """The half of the demo after training, on networks of one layer; training alone is below."""
    both = {}
    for name, kernel in (("dense", np.linspace(1, 2, 640).reshape(64, 10)), ("pruned", np.eye(64, 10))):
        layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, name="head")]
        both[name] = keras.Sequential(layers)
        both[name].set_weights([kernel, np.zeros(10)])
    with scripts_in_process():
        files = demonstration.export_both(both, tpi.datasets.load(), tmp_path)
    assert [*files] == [f"{name}_{kind}.tflite" for kind in KINDS for name in ("dense", "pruned")]
    shown = io.StringIO()
    Console(file=shown, width=80).print(demonstration.make_file_table(files))
    for file, report in files.items():
        size = (tmp_path / file).stat().st_size
        assert cells(shown.getvalue(), file)[:2] == [f"{size:,}", f"{report.gzip_bytes:,}"]
        assert cells(shown.getvalue(), file)[2] == ("98.4%" if file.startswith("pruned") else "0.0%")
    times = [files[f"dense_{kind}.tflite"].raw_bytes / files[f"pruned_{kind}.tflite"].raw_bytes for kind in KINDS]
    (first, *_, last) = demonstration.describe_files(files)
    assert f"{times[0]:.1f}x as float32 and {times[1]:.1f}x as int8; gzipped" in first
    assert "Each file agrees with its Keras model on 64 test images" in last


@pytest.mark.process
@pytest.mark.slow
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


def test_a_network_that_learns_nothing_is_an_error(tmp_path):
    done = call("demo", "--sparsity", "0.995", "--epochs", "1", "--method", "snip", cwd=tmp_path)
    assert done.code == 1
    assert done.err.startswith("tfprune: The pruned network did not learn: accuracy ")
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_collapses_is_an_error(tmp_path):
    done = call("demo", "--sparsity", "0.9999", "--method", "snip", cwd=tmp_path)
    assert done.code == 1
    assert done.err.startswith("tfprune: The network collapsed at step 1")
    assert "Try a lower sparsity" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sparsity", "95"), "Did you mean 0.95?"),
        (("--method", "fource"), "There is no method 'fource'. Did you mean 'force'?"),
        (("--model", "lenet5"), "There is no model 'lenet5'. Did you mean 'lenet_5'"),
        (("--output", __file__), "The output must be a folder"),
    ],
)
def test_a_wrong_option_is_an_error_in_one_paragraph(options, message, tmp_path):
    done = call("demo", *options, cwd=tmp_path)
    assert done.code == 1
    assert done.err.startswith("tfprune: ")
    assert message in done.err
    assert done.err.count("\n") == 1


@pytest.mark.process
@pytest.mark.parametrize("command", [SCRIPT, MODULE], ids=["script", "module"])
def test_an_error_of_a_process(command, tmp_path):
    done = run(*command, "demo", "--method", "fource", cwd=tmp_path)
    assert done == Finished(1, "", done.err)
    assert done.err.startswith("tfprune: There is no method 'fource'. Did you mean 'force'?")
    assert done.err.count("\n") == 1


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    for name in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    done = call("demo", cwd=tmp_path)
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
def test_wrong_usage_exits_with_2(arguments, tmp_path):
    done = call(*arguments, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "usage: tfprune" in done.err


@pytest.mark.process
def test_a_process_of_wrong_usage_exits_with_2(tmp_path):
    done = run(*MODULE, "dmeo", cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "usage: tfprune" in done.err


def test_interrupted_exits_with_130(monkeypatch, tmp_path):
    def interrupt(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr(methods_command.execute, "callback", interrupt)
    assert call("methods", cwd=tmp_path) == Finished(130, "", "tfprune: interrupted\n")


def test_version(tmp_path):
    assert call("--version", cwd=tmp_path) == Finished(0, f"tfprune {tpi.__version__}\n", "")


@pytest.mark.process
def test_version_and_help_do_not_wait_for_tensorflow(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')")
    version = run(*MODULE, "--version", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert version == Finished(0, f"tfprune {tpi.__version__}\n", "")
    help_ = run(*SCRIPT, "prune", "--help", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert help_.code == 0
    assert "examples:" in help_.out


@pytest.mark.process
def test_help_imports_nothing_slow(tmp_path):
    code = """
import sys
from tfprune_cli.program import list_commands, main
assert len(list_commands()) == 10
for words in ([], *([name] for name in list_commands())):
    assert main([*words, "--help"]) == 0, words
slow = {"tensorflow", "keras", "numpy", "tf_keras", "tfprune_init", "rich"} & sys.modules.keys()
sys.exit(f"imported: {slow}" if slow else 0)
"""
    assert run(sys.executable, "-c", code, cwd=tmp_path).err == ""


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("dmeo",), "No such command 'dmeo'. Did you mean 'demo'?"),
        (("demo", "--sparsty", "0.9"), "No such option '--sparsty'. Did you mean '--sparsity'?"),
        (("methods", "--json", "--markdown"), "--markdown and --json exclude each other"),
        (("demo", "--epochs", "0"), "must be a whole number from 1 to 100000. Received: '0'"),
    ],
)
def test_wrong_usage_says_what_was_perhaps_meant(words, hint, tmp_path):
    done = call(*words, cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert hint in done.err


@pytest.mark.process
def test_completion_in_a_shell(tmp_path):
    """What the script of bash asks for, as bash asks for it; and the script, in a bash."""

    def complete(words: str) -> set[str]:
        asked = {"_TFPRUNE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = run(*SCRIPT, cwd=tmp_path, **asked)
        assert (done.code, done.err) == (0, "")
        return {line.partition(",")[2] for line in done.out.splitlines()}

    assert complete("tfprune ") == set(list_commands())
    assert complete("tfprune prune --gran") == {"--granularity"}
    assert complete("tfprune export --quantize f") == {"float16"}
    script = run(*SCRIPT, "--show-completion", "bash", cwd=tmp_path)
    assert (script.code, script.err) == (0, "")
    path = f"{Path(SCRIPT[0]).parent}:{os.environ['PATH']}"
    asked = "COMP_WORDS=(tfprune sh); COMP_CWORD=1; _tfprune_completion tfprune; echo ${COMPREPLY[@]}"
    done = run("bash", "-c", f"{script.out}\n{asked}", cwd=tmp_path, PATH=path)
    assert (done.code, done.out, done.err) == (0, "show\n", "")


def test_methods_lists_every_method(tmp_path):
    done = call("methods", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    for name in METHODS:
        assert f"│ {name} " in done.out
        assert re.search(rf"^{name} ", done.out, re.MULTILINE)
    for name in RECIPES:
        assert f"│ {name} " in done.out


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A run: a folder with a pruned model for the digits."""
    folder = tmp_path_factory.mktemp("run")
    model = tpi.models.lenet_300_100((8, 8, 1), 10, seed=0)
    tpi.prune_at_init(model, None, sparsity=SPARSITY, method="erk")
    tpi.strip(model).save(folder / "model.keras")
    return folder


@pytest.mark.parametrize(
    ("where", "measure"),
    [("here", ("--no-measure",)), pytest.param("process", (), marks=OWN_PROCESS)],
    ids=["here", "process"],
)
def test_export_prints_the_report_and_writes_the_file(where, measure, run_folder, tmp_path):
    options = ("-o", "m.tflite", "--data", "digits", "--int8", "--plot", "m.png", *measure)
    words = ("export", str(run_folder), *options)
    if where == "process":
        done = run(*SCRIPT, *words, cwd=tmp_path)
    else:
        with scripts_in_process():
            done = call(*words, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "m.tflite: int8, 95" in done.out
    assert cells(done.out, "this file")[0] == f"{(tmp_path / 'm.tflite').stat().st_size:,}"
    assert DIGITS in done.out
    assert max(len(line.rstrip()) for line in done.out.splitlines() if line.startswith(("│", "┏"))) <= 80
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")


def test_export_as_json(run_folder, tmp_path):
    options = ("-o", "m.tflite", "--quantize", "float16", "--sparse", "no", "--no-measure", "--json")
    with scripts_in_process():
        done = call("export", str(run_folder / "model.keras"), *options, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    assert (report["quantize"], report["sparse"], report["dense_int8"]) == ("float16", False, None)
    assert report["file"]["raw_bytes"] == (tmp_path / "m.tflite").stat().st_size


def test_export_with_integers_in_and_out(run_folder, tmp_path):
    options = ("-o", "m.tflite", "--data", "digits", "--int8", "--io", "uint8", "--no-measure", "--json")
    with scripts_in_process():
        done = call("export", str(run_folder), *options, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    report = json.loads(done.out)
    assert (report["quantize"], report["io"]) == ("int8", "uint8")
    (taken,) = report["inputs"]
    # Pixels of digits are k / 16: their lowest is 0 and their highest 1.
    assert (taken["dtype"], taken["zero_point"], taken["scale"]) == ("uint8", 0, pytest.approx(1 / 255, rel=1e-5))
    done = call("inspect", "m.tflite", cwd=tmp_path)
    assert "uint8 [?, 8, 8, 1] = (q - 0) * 0.0039215" in " ".join(done.out.split())


def test_export_of_an_unpruned_model_then_inspect(tmp_path):
    """A file of zeros in a pattern of ours, as the command line writes it and then reads it."""
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")])
    model.layers[0].set_weights([np.eye(8, 4), np.zeros(4)])
    model.save(tmp_path / "m.keras")
    with scripts_in_process():
        done = call("export", "m.keras", "-o", "m.tflite", "--sparse", "no", "--no-measure", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    done = call("inspect", "m.tflite", "--json", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    (row,) = json.loads(done.out)["tensors"]
    assert (row["operator"], row["sparsity"], row["encoding"]) == ("FULLY_CONNECTED", 1 - 4 / 32, "dense")
    done = call("inspect", "m.tflite", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "FULLY_CONNECTED" in done.out
    done = call("inspect", "m.keras", cwd=tmp_path)
    assert done.code == 1
    assert done.err.startswith("tfprune: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("missing", "-o", "m.tflite"), "There is no model to export: give a .keras file"),
        ((".", "-o", "m.tflite"), "There is no model to export: give a .keras file"),
        (("broken.keras", "-o", "m.tflite"), "broken.keras can't be loaded"),
        (("RUN", "-o", "m.tflite", "--int8"), "say which with --data"),
        (("RUN", "-o", "m.tflite", "--quantize", "int16x8"), "int16x8 measures the range"),
        (("RUN", "-o", "m.tflite", "--io", "int8"), "io='int8' needs quantize='int8'"),
        (("RUN", "-o", "m.tflite", "--data", "mnist"), "--data takes digits, tfds:NAME"),
        (("RUN", "-o", "m.tflite", "--data-dir", "."), "it needs --data tfds:NAME"),
        (("RUN", "-o", "no/m.tflite"), "The folder of `path` doesn't exist"),
    ],
)
def test_what_cannot_be_exported(options, message, run_folder, tmp_path):
    (tmp_path / "broken.keras").write_bytes(b"no zip")
    words = (str(run_folder) if word == "RUN" else word for word in options)
    done = call("export", *words, cwd=tmp_path)
    assert done.code == 1
    assert message in done.err
    assert done.err.count("\n") == 1
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
    demonstration.check_learned(0.19, 0.103, data)
    with pytest.raises(tpi.PruningError, match=r"did not learn: accuracy 18.0%.*some data"):
        demonstration.check_learned(0.18, 0.103, data)


def test_pruned_weights_that_came_back_are_refused():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="head")])
    report = tpi.prune_at_init(model, None, sparsity=0.75, method="magnitude")
    check_zeros(tpi.strip(model), report.masks)
    kernel = model.layers[0].kernel
    kernel.assign(np.full(kernel.shape, 1e-30, "float32"))
    with pytest.raises(tpi.PruningError, match="24 of head/kernel"):
        check_zeros(model, report.masks)


@pytest.mark.examples
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


@pytest.mark.examples
def test_the_example_of_collapse(tmp_path):
    script = str(QUICKSTART.with_name("collapse.py"))
    done = run(sys.executable, script, "--steps", "3", "--sparsities", "0.9", "0.9999", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "digits: 1,437 training" in done.out
    assert cells(done.out, "     90%") == ["0 of 3", "0 of 3", "0 of 3"]
    assert "collapsed" in cells(done.out, "  99.99%")
