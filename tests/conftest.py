"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module", autouse=True)
def _old_objects_are_not_looked_through() -> Iterator[None]:
    """What TensorFlow keeps of every trained model stays for good; each collection would visit all of it."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tfds_dir() -> Path:
    """The folder of prepared TFDS data: TFPRUNE_TFDS_DIR, else shared/data/tfds beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "tfds"
    folder = Path(os.environ.get("TFPRUNE_TFDS_DIR") or default)
    if not folder.is_dir():
        pytest.skip(f"no prepared data in {folder}: point TFPRUNE_TFDS_DIR at a folder of TFDS data")
    return folder
