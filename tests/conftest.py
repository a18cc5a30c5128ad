"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["pytester", "tiers", "export_fixtures"]

# Tracing makes many objects and little garbage: Python's own thresholds make it look for some ten times as often.
gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="module", autouse=True)
def _old_objects_are_not_looked_through() -> Iterator[None]:
    """What TensorFlow keeps of every trained model stays for good; each collection would visit all of it."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(params=["keras", "tf_keras"], name="K")
def either_keras(request: pytest.FixtureRequest) -> Any:
    """Keras 3 and tf_keras, seeded."""
    from model_kinds import KERAS

    package = KERAS[request.param]
    package.utils.set_random_seed(0)
    return package


@pytest.fixture(scope="session")
def tfds_dir() -> Path:
    """The folder of prepared TFDS data: TFPRUNE_TFDS_DIR, else shared/data/tfds beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "tfds"
    folder = Path(os.environ.get("TFPRUNE_TFDS_DIR") or default)
    if not folder.is_dir():
        pytest.skip(f"no prepared data in {folder}: point TFPRUNE_TFDS_DIR at a folder of TFDS data")
    return folder
