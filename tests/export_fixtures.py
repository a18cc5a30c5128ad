"""A pytest plugin: one exporter for all tests. Its worker imports TensorFlow once, and it converts no model twice."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfprune_init.backend.compat import get_variables, walk_layers
from tfprune_init.export import EdgeReport
from tfprune_init.export.conversion import Converted, convert
from tfprune_init.export.inference import InferenceFunction
from tfprune_init.export.subprocess_runner import Runner, run_script
from tfprune_init.export.warm_exporter import Exporter
from tfprune_init.export.worker import Worker
from tfprune_init.masking.wrapper import to_plain_model

KERAS = ("keras", "tf_keras")


@pytest.fixture(scope="session", autouse=True)
def _imports_are_not_looked_through() -> None:
    """The converter collects garbage twice a file."""
    gc.collect()
    gc.freeze()


RUNNER = pytest.StashKey[Runner]()
STARTING = pytest.StashKey[Runner]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let the worker import TensorFlow while other tests run, if there are any that need it."""
    if sys.platform == "linux" and not session.config.option.collectonly and any(map(needs_worker, session.items)):
        worker = Worker()
        session.config.stash[RUNNER] = session.config.stash[STARTING] = worker.run
        session.config.add_cleanup(worker.close)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """Wait for its imports before the first test that needs it: they are no part of that test's time."""
    run = item.config.stash.get(STARTING, None)
    if run is not None and needs_worker(item):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "nothing.py").touch()
            run(f"{folder}/nothing.py", Path(folder), 60)
        del item.config.stash[STARTING]


def needs_worker(item: pytest.Item) -> bool:
    return "export" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def export(pytestconfig: pytest.Config) -> SharedExporter:
    """To be called like `export_tflite`."""
    return SharedExporter(pytestconfig.stash.get(RUNNER, run_script))


class SharedExporter:
    """Exports with a runner that all tests share.

    Attributes:
        run: the runner, for functions that take one; it converts everything anew.
    """

    def __init__(self, run: Runner) -> None:
        self.run = run
        self._files: dict[tuple[Any, ...], bytes] = {}

    def __call__(self, model: Any, path: str | os.PathLike[str], **options: Any) -> EdgeReport:
        return Exporter(self._run_for(model))(model, path, **options)

    def convert(
        self, forward: InferenceFunction, quantize: Sequence[str | None], calibration: list[np.ndarray] | None
    ) -> Converted:
        """The files of a model."""
        return convert(forward, quantize, calibration, run=self._run_for(forward.model))

    def _run_for(self, model: Any) -> Runner:
        """A runner that converts this model in its present state once."""

        def run(name: str, folder: Path, timeout: float) -> None:
            state = state_of(to_plain_model(model)) if name == "_convert_script.py" else None
            if state is None:
                self.run(name, folder, timeout)
            else:
                self._convert(state, folder, timeout)

        return run

    def _convert(self, state: str, folder: Path, timeout: float) -> None:
        request = json.loads((folder / "request.json").read_text())
        calibration = folder / "calibration.npz"
        examples = hashlib.sha256(calibration.read_bytes()).hexdigest() if calibration.exists() else None
        shared = (state, *request["names"], request["batch"])
        ends = request["io"]
        keys = {way: (*shared, way, *((examples, ends[way]) if way in ends else ())) for way in request["quantize"]}
        paths = {way: folder / f"{way}.tflite" for way in keys}
        missing = [way for way, key in keys.items() if key not in self._files]
        for way in keys.keys() - missing:
            paths[way].write_bytes(self._files[keys[way]])
        if missing:
            (folder / "request.json").write_text(json.dumps({**request, "quantize": missing}))
            self.run("_convert_script.py", folder, timeout)
            self._files |= {keys[way]: paths[way].read_bytes() for way in missing}


def state_of(model: Any) -> str | None:
    """Everything about a plain model that decides what it is converted to; None where its code may, too."""
    for layer in (model, *walk_layers(model)):
        if type(layer).__module__.split(".")[0] not in KERAS or "Lambda" in type(layer).__name__:
            return None
    state = hashlib.sha256(f"{type(model)} {model.to_json()}".encode())
    for variable in get_variables(model):
        state.update(f"{variable.name} {variable.dtype} {variable.shape}".encode() + variable.numpy().tobytes())
    return state.hexdigest()
