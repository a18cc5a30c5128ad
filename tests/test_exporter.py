"""The warm worker: the files, reports and errors of a process per script; what ends with what."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from export_fixtures import SharedExporter

import tfprune_init as tpi
from tfprune_init.errors import ExportError
from tfprune_init.export.inference import InferenceFunction
from tfprune_init.export.inputs import find_signature
from tfprune_init.export.subprocess_runner import run_script
from tfprune_init.export.warm_exporter import Exporter
from tfprune_init.export.worker import Worker, WorkerDiedError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no worker without a fork")


def children(parent: int) -> set[int]:
    """The processes that a process started and that still run."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, started_by = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended
        if int(started_by) == parent and state != "Z":
            found.add(int(folder.name))
    return found


def workers() -> set[int]:
    return {pid for pid in children(os.getpid()) if b"_worker_script.py" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not in {seconds} seconds"
        time.sleep(0.01)


def small() -> Any:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])


def recurrent() -> Any:
    """TensorFlow's converter crashes over it in int8."""
    return keras.Sequential([keras.Input((3, 4)), keras.layers.GRU(4)])


def convolutional() -> Any:
    """A small LeNet-5, 90% of its kernels zero."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(6, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            variable.assign(variable.numpy() * (random.random(variable.shape) >= 0.9))
    return model


# --- the same as a process per script ------------------------------------------------------------------------------

SAID = "open(sys.argv[1] + '/stage', 'w').write('juggling'); "

ENDS = {
    # what a script does -> what is said of it
    "crashes": (f"{SAID}os.kill(os.getpid(), 11)", r"It crashed \(signal 11\) while juggling\."),
    "raises": ("int('three')", r"It failed while starting: Traceback .*ValueError: invalid literal .*'three'"),
    "says why": (f"{SAID}open(sys.argv[1] + '/error', 'w').write('a ball fell'); sys.exit(3)", "juggling: a ball fell"),
    "gives up": (f"{SAID}sys.exit('no hands')", "It failed while juggling: no hands"),
    "hangs": (f"{SAID}time.sleep(60)", "Timed out after 1 s while juggling"),
}


def attempt(run: Any, script: Path, folder: Path, timeout: float = 1) -> str:
    folder.mkdir()
    with pytest.raises(ExportError) as caught:
        run(str(script), folder, timeout)
    return str(caught.value)


@pytest.mark.parametrize("end", ENDS)
def test_a_script_that_fails_is_said_to_as_in_a_process_of_its_own(end: str, export: Any, tmp_path: Path) -> None:
    code, message = ENDS[end]
    script = tmp_path / "script.py"
    script.write_text(f"import os, sys, time\n{code}\n")
    before = workers()
    said = attempt(export.run, script, tmp_path / "warm")
    assert said == attempt(run_script, script, tmp_path / "cold")
    assert re.search(message, said, re.DOTALL)
    assert workers() == before
    assert not any(children(worker) for worker in before)


def test_a_script_runs_as_in_a_process_of_its_own(
    export: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\n"
        "print('heard by nobody', file=sys.stderr)\n"
        "keys = ('CUDA_VISIBLE_DEVICES', 'TF_CPP_MIN_LOG_LEVEL')\n"
        "seen = [__name__, __file__, sys.argv[:1], sys.path[0], [os.environ[key] for key in keys], sys.stdin.read()]\n"
        "json.dump(seen, open(sys.argv[1] + '/seen', 'w'))\n"
    )
    seen = []
    for number, run in enumerate((export.run, run_script)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with (tmp_path / "nothing").open("w+") as nothing:
            standard = os.dup(0)
            os.dup2(nothing.fileno(), 0)
            try:
                run(str(script), folder, 60)
            finally:
                os.dup2(standard, 0)
                os.close(standard)
        seen.append((folder / "seen").read_text())
    assert seen[0] == seen[1]
    assert '"__main__"' in seen[0]
    assert '["-1", "3"], ""' in seen[0]
    assert capfd.readouterr() == ("", "")


def test_threads_take_turns(export: Any, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys; open(sys.argv[1] + '/mine', 'w').write(sys.argv[1])")
    folders = [tmp_path / str(number) for number in range(8)]

    def run(folder: Path) -> str:
        folder.mkdir()
        export.run(str(script), folder, 60)
        return (folder / "mine").read_text()

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(run, folders)) == [str(folder) for folder in folders]


def but_measurements(report: Any) -> dict[str, Any]:
    facts = report.to_dict()
    del facts["seconds"], facts["path"]
    for name in ("file", "dense_float32", "dense_int8"):
        for measured in ("latency", "footprint"):
            if facts[name] is not None:
                assert (facts[name].pop(measured) is not None) == ("Measured on" in str(facts["notes"]))
    return facts


@pytest.fixture(scope="module")
def warm() -> Iterator[Exporter]:
    with tpi.exporter() as export:
        yield export


IMAGES = np.random.default_rng(1).random((70, 12, 12, 1), "float32")


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize(
    "options",
    [
        {"sparse": False, "verify": IMAGES},
        {"sparse": True, "target": "arm", "measure": False},
        {"sparse": True, "quantize": "float16", "measure": False},
        {"quantize": "dynamic", "measure": False},
        {"sparse": True, "quantize": "int8", "representative_data": IMAGES},
    ],
    ids=["float32", "sparse", "float16", "dynamic", "int8"],
)
def test_files_and_reports_are_those_of_export_tflite(options: Any, warm: Exporter, tmp_path: Path) -> None:
    model = convolutional()
    theirs = tpi.export_tflite(model, tmp_path / "theirs.tflite", **options)
    ours = warm(model, tmp_path / "ours.tflite", **options)
    assert (tmp_path / "ours.tflite").read_bytes() == (tmp_path / "theirs.tflite").read_bytes()
    assert but_measurements(ours) == but_measurements(theirs)
    assert ours.sparse == bool(options.get("sparse"))


@pytest.mark.slow
@pytest.mark.process
def test_errors_are_those_of_export_tflite(warm: Exporter, tmp_path: Path) -> None:
    calls = [
        (recurrent(), {"quantize": "int8", "representative_data": IMAGES[:, 0, :3, 0][:, :, None].repeat(4, -1)}),
        (small(), {"sparse": True, "measure": False}),
        (small(), {"target": "tpu"}),
    ]
    for (model, options), message in zip(calls, (r"crashed \(signal 11\)", "gets smaller", "'arm'"), strict=True):
        said = []
        for export in (warm, tpi.export_tflite):
            with pytest.raises(tpi.PruningError, match=message) as caught:
                export(model, tmp_path / "model.tflite", **options)
            said.append((caught.type, str(caught.value)))
        assert said[0] == said[1]
    assert not os.listdir(tmp_path)


def test_a_model_that_crashes_the_converter_is_refused_and_the_next_is_exported(export: Any, tmp_path: Path) -> None:
    before = workers()
    sequences = np.random.default_rng(0).random((8, 3, 4), "float32")
    with pytest.raises(ExportError, match=r"It crashed \(signal 11\) while converting to int8"):
        export(recurrent(), tmp_path / "model.tflite", quantize="int8", representative_data=sequences)
    assert not os.listdir(tmp_path)
    assert export(small(), tmp_path / "model.tflite", measure=False).relative_difference < 1e-5
    assert workers() == before


def test_the_exporter_of_the_tests_converts_whatever_changed(export: Any) -> None:
    ran = []

    def run(name: str, folder: Path, timeout: float) -> None:
        ran.append(name)
        export.run(name, folder, timeout)

    shared, model = SharedExporter(run), small()

    def files(ways: list[str | None], scale: float = 1.0) -> dict[str | None, bytes]:
        arrays = [scale * np.random.default_rng(0).random((8, 4), "float32")]
        return shared.convert(InferenceFunction(model, find_signature(model)), ways, arrays).files

    first = files([None, "int8"])
    assert files(["int8", None]) == first
    assert ran == ["_convert_script.py"]
    assert files(["int8"], scale=2.0)["int8"] != first["int8"]
    assert files([None], scale=2.0) == {None: first[None]}
    assert len(ran) == 2
    model.layers[0].kernel.assign(-model.layers[0].kernel)
    assert files([None])[None] != first[None]
    model.layers[0].activation = keras.activations.relu
    assert len({files([None])[None], files([None, "float16"])["float16"], first[None]}) == 3
    assert len(ran) == 5


# --- beginning and end ---------------------------------------------------------------------------------------------


def test_the_worker_ends_with_the_block(tmp_path: Path) -> None:
    before = workers()
    with tpi.exporter() as export:
        (worker,) = workers() - before
    assert not is_running(worker)
    with pytest.raises(ExportError, match=r"closed: .* with tpi\.exporter\(\) as export: .*Received: '.*m\.tflite'"):
        export(small(), tmp_path / "m.tflite")


def test_options_are_those_of_export_tflite(export: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'quantise'"):
        Exporter(export.run)(small(), tmp_path / "model.tflite", quantise="int8")


def test_without_a_fork_there_is_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    before = workers()
    monkeypatch.setattr(sys, "platform", "darwin")
    with tpi.exporter():
        assert workers() == before


def test_a_worker_that_died_is_no_fault_of_the_file(tmp_path: Path) -> None:
    """No second try with another batch, no fallback to another file."""
    before = workers()
    with tpi.exporter() as export:
        (worker,) = workers() - before
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(ExportError, match=r"worker .* died \(signal 9\) while starting\. Export the model again"):
            export(small(), tmp_path / "model.tflite")
        assert workers() == before
    assert not os.listdir(tmp_path)


@pytest.mark.slow
@pytest.mark.process
def test_another_worker_for_the_next_file(tmp_path: Path) -> None:
    before, path = workers(), tmp_path / "model.tflite"
    with tpi.exporter() as export:
        wait_until(lambda: workers() - before)  # between fork and exec it is not known by its name
        (first,) = workers() - before
        assert export(small(), path, measure=False).batch is None
        assert workers() - before == {first}
        path.unlink()
        jobs: list[int] = []

        def kill() -> None:
            wait_until(lambda: children(first))
            jobs.extend(children(first))
            os.kill(first, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(ExportError, match=r"worker .* died \(signal 9\) while (starting|converting to float32)"):
            export(small(), path)
        killer.join()
        assert not os.listdir(tmp_path)
        (job,) = jobs
        wait_until(lambda: not is_running(job))
        assert export(small(), path, measure=False).batch is None
        (second,) = workers() - before
        assert second != first
    assert not is_running(second)


@pytest.mark.slow
@pytest.mark.process
def test_an_interrupted_script_gives_its_answer_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "hang.py").write_text("import time; time.sleep(600)")
    (tmp_path / "fail.py").write_text("import sys; sys.exit('no')")
    before = workers()
    with closing(Worker()) as worker:
        (pid,) = workers() - before

        def interrupt() -> None:
            wait_until(lambda: children(pid))
            os.kill(os.getpid(), signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            worker.run(str(tmp_path / "hang.py"), tmp_path, 600)
        interrupter.join()
        assert workers() == before
        with pytest.raises(ExportError, match="It failed while starting: no"):
            worker.run(str(tmp_path / "fail.py"), tmp_path, 60)


def test_a_worker_that_does_not_answer_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfprune_init.export.worker.STARTING_SECONDS", 0.1)
    before = workers()
    with closing(Worker()) as worker:
        (pid,) = workers() - before
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(WorkerDiedError, match="gave no answer while starting"):
            worker.run("_benchmark_script.py", tmp_path, 0.1)
        assert not is_running(pid)


PARENT = """
import os, sys, time
from pathlib import Path
from tfprune_init.export.worker import Worker

folder = Path(sys.argv[1])
(folder / "idle.py").write_text("pass")
(folder / "hang.py").write_text("import time; time.sleep(600)")
worker = Worker()
if sys.argv[2] == "copied" and os.fork() == 0:
    time.sleep(600)  # holds the parent's end of the pipe
worker.run(str(folder / "idle.py"), folder, 60)
(folder / "ready").touch()
if sys.argv[2] == "busy":
    worker.run(str(folder / "hang.py"), folder, 600)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("state", ["idle", "busy", "copied"])
def test_the_worker_ends_with_its_parent(state: str, tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), state])
    copies: set[int] = set()
    try:
        wait_until((tmp_path / "ready").exists)
        started = children(parent.pid)
        worker = next(pid for pid in started if b"_worker_script.py" in Path(f"/proc/{pid}/cmdline").read_bytes())
        copies = started - {worker}
        assert len(copies) == (state == "copied")
        if state == "busy":
            wait_until(lambda: children(worker))
        jobs = children(worker)
        assert len(jobs) == (state == "busy")
        parent.kill()
        parent.wait()
        for pid in (worker, *jobs):
            wait_until(lambda pid=pid: not is_running(pid), seconds=10)
        assert all(is_running(copy) for copy in copies)
    finally:
        parent.kill()
        parent.wait()
        for copy in copies:
            os.kill(copy, signal.SIGKILL)
