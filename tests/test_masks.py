"""The Masks type: validation, files, and how masks find their model."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tf_keras
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from model_kinds import build

import tfprune_init as tpi
from tfprune_init.errors import MaskFileError, MaskMismatchError

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
bools = hnp.arrays(bool, hnp.array_shapes(min_dims=0, max_dims=4, max_side=6))
some = st.dictionaries(names, bools, min_size=1, max_size=4)


@given(some)
def test_counts(arrays: dict[str, np.ndarray]) -> None:
    masks = tpi.Masks(arrays)
    assert masks.kept == sum(int(v) for a in arrays.values() for v in a.ravel())
    assert masks.size == sum(a.size for a in arrays.values())
    assert masks.density + masks.sparsity == pytest.approx(1.0)
    assert masks.density == pytest.approx(masks.kept / masks.size)


@settings(max_examples=40)
@given(some)
def test_a_file_gives_back_the_same_masks(tmp_path_factory: pytest.TempPathFactory, arrays: dict) -> None:
    path = tmp_path_factory.mktemp("masks") / "m.npz"
    masks = tpi.Masks(arrays)
    masks.save(path)
    loaded = tpi.Masks.load(path)
    assert loaded == masks
    assert list(loaded) == list(masks)
    assert loaded.fingerprint == masks.fingerprint
    assert all(loaded[k].dtype == bool and loaded[k].shape == masks[k].shape for k in masks)


@given(some, st.data())
def test_one_flipped_bit_is_another_mask(arrays: dict[str, np.ndarray], data: st.DataObject) -> None:
    masks = tpi.Masks(arrays)
    key = data.draw(st.sampled_from(sorted(arrays)))
    if arrays[key].size:
        flipped = arrays[key].copy()
        flipped.reshape(-1)[data.draw(st.integers(0, flipped.size - 1))] ^= True
        other = tpi.Masks({**arrays, key: flipped})
        assert other != masks
        assert other.fingerprint != masks.fingerprint


def test_masks_are_immutable_copies() -> None:
    array = np.array([True, False])
    masks = tpi.Masks({"a": array})
    array[1] = True
    assert masks.kept == 1
    with pytest.raises(ValueError, match="read-only"):
        masks["a"][1] = True


def test_masks_are_validated() -> None:
    assert tpi.Masks({"a": [0.0, 1.0]})["a"].dtype == bool
    with pytest.raises(MaskMismatchError, match="'a' must be boolean"):
        tpi.Masks({"a": [0.5, 1.0]})
    with pytest.raises(MaskMismatchError, match="at least one entry"):
        tpi.Masks({})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    tpi.Masks({"dense/kernel": rng.random((64, 300)) < 0.1, "dense/bias": rng.random(300) < 0.5}).save(
        tmp_path / "m.npz"
    )
    return tmp_path / "m.npz"


def test_files_are_packed_and_nothing_is_pickled(saved: Path) -> None:
    assert saved.stat().st_size < 64 * 300 / 8 + 1500
    with np.load(saved, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file)
    assert os.listdir(saved.parent) == ["m.npz"]
    assert saved.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


@pytest.mark.parametrize("size", [0, 1, 100, 0.5, 0.99])
def test_truncated_files_are_refused(saved: Path, size: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(size if size >= 1 or size == 0 else size * len(content))])
    with pytest.raises(MaskFileError, match=r"m\.npz"):
        tpi.Masks.load(saved)


def test_every_damaged_byte_is_noticed_or_harmless(saved: Path) -> None:
    """No single damaged byte may give other masks than were saved."""
    masks = tpi.Masks.load(saved)
    content = saved.read_bytes()
    for position in range(0, len(content), 37):
        saved.write_bytes(content[:position] + bytes([content[position] ^ 0x55]) + content[position + 1 :])
        with contextlib.suppress(MaskFileError):
            assert tpi.Masks.load(saved) == masks


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", kernel=np.ones(3))
    (tmp_path / "text.npz").write_text("not a mask file")
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("header.npy", b"junk")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"kernel": [1, 0]}))
    np.savez(tmp_path / "version.npz", header=np.array('{"format": "tfprune_init masks", "version": 99}'))
    for name in ("other", "text", "zip", "pickle", "version"):
        with pytest.raises(MaskFileError, match=name):
            tpi.Masks.load(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError):
        tpi.Masks.load(tmp_path / "nowhere.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"masks": [{"path": "a", "shape": [100_000, 1_000_000]}]},
            r"uint8 \(1,\) for a mask of shape \(100000, 1000000\)",
        ),
        ({"masks": [{"path": "a", "shape": [-2, -2]}]}, "one unknown dimension"),
        ({"masks": [{"path": "a", "shape": [2.0, 2]}]}, r"\['masks'\]\[0\]\['shape'\]\[0\] is no int"),
        ({"masks": [{"shape": [2, 2]}]}, "has no 'path'"),
        ({"masks": [{"path": "\ud800", "shape": [2, 2]}]}, "surrogates not allowed"),
        ({"masks": []}, "at least one entry"),
        ({"fingerprint": None}, r"\['fingerprint'\] is no str"),
    ],
)
def test_headers_that_say_something_else_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    masks = tpi.Masks({"a": np.eye(2, dtype=bool)})
    header = {"format": "tfprune_init masks", "version": 1, "fingerprint": masks.fingerprint}
    entries = {"masks": [{"path": "a", "shape": [2, 2]}]}
    bits = np.packbits(np.eye(2, dtype=bool))
    np.savez(tmp_path / "good.npz", header=np.array(json.dumps({**header, **entries})), bits_0=bits)
    assert tpi.Masks.load(tmp_path / "good.npz") == masks
    np.savez(tmp_path / "bad.npz", header=np.array(json.dumps({**header, **entries, **change})), bits_0=bits)
    with pytest.raises(MaskFileError, match=message):
        tpi.Masks.load(tmp_path / "bad.npz")


@pytest.mark.parametrize("change", [{"format": "a"}, {"format": "z"}, {"version": 0}, {"version": 99}])
def test_files_of_another_format_or_version_are_refused(saved: Path, change: dict[str, object]) -> None:
    with np.load(saved) as file:
        arrays = dict(file)
    arrays["header"] = np.array(json.dumps(json.loads(str(arrays["header"])) | change))
    np.savez(saved, **arrays)
    ((name, value),) = change.items()
    with pytest.raises(MaskFileError, match=f"is not a mask file this version reads.*{name} {value!r}"):
        tpi.Masks.load(saved)


@pytest.mark.parametrize(
    ("count", "ending"), [(7, r"7/kernel\. "), (8, r"8/kernel\. "), (11, r"8/kernel and 3 more\. ")]
)
def test_long_lists_of_names_are_cut(count: int, ending: str) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="dense")])
    masks = tpi.Masks({f"{i}/kernel": np.ones((2, 2), bool) for i in range(1, count + 1)})
    with pytest.raises(MaskMismatchError, match=f"Not in the model: 1/kernel, 2/kernel.*{ending}"):
        masks.check(model)


def test_a_failed_save_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full_disk(*args: object, **kwargs: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        tpi.Masks({"a": [True]}).save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == ["m.npz"]


@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_from_zeros(package: str) -> None:
    model = build("functional", package)
    masks = tpi.find_masks(model, None, sparsity=0.6, method="random")
    assert tpi.Masks.from_zeros(model).sparsity == 0.0
    tpi.attach(model, masks)
    assert tpi.Masks.from_zeros(model) == masks


def test_masks_of_another_model_are_refused_by_name_and_nothing_changes() -> None:
    model = build("sequential", "keras")
    before = model.get_weights()
    masks = dict(tpi.find_masks(model, None, sparsity=0.6, method="random"))
    masks["hidden/kernel"] = masks["hidden/kernel"][:5]
    masks["lost/kernel"] = masks.pop("head/kernel")
    with pytest.raises(MaskMismatchError) as caught:
        tpi.attach(model, tpi.Masks(masks))
    message = str(caught.value)
    for part in ("lost/kernel", "hidden/kernel is (72, 12), its mask (5, 12)", "head/kernel", "carried_to"):
        assert part in message
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("other", [keras, tf_keras])
def test_masks_are_carried_to_the_same_architecture_with_other_names(other: object) -> None:
    def build_anonymous(K: object, units: int = 9) -> object:
        return K.Sequential([K.layers.Input((6,)), K.layers.Dense(units), K.layers.Dense(4), K.layers.Dense(2)])

    first, second = build_anonymous(keras), build_anonymous(other)
    masks = tpi.find_masks(first, None, sparsity=0.5, method="random", prune_bias=True)
    assert list(masks) != list(tpi.Masks.from_zeros(second, prune_bias=True)) or other is tf_keras
    carried = masks.carried_to(second)
    tpi.attach(second, carried)
    for mine, theirs in zip(masks.values(), carried.values(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(MaskMismatchError, match=r"\(6, 9\) against .*\(6, 8\)"):
        masks.carried_to(build_anonymous(keras, units=8))
    with pytest.raises(MaskMismatchError, match="masks against"):
        masks.carried_to(keras.Sequential([keras.Input((6,)), keras.layers.Dense(9)]))
