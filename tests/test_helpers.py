"""What many modules share: atomic files and folders, checks and hints, progress, the error for a missing package."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfprune_init.checks import check_integer, suggest
from tfprune_init.errors import MissingDependencyError, OptionError, PruningError
from tfprune_init.files import atomic_folder, atomic_write, remove_unfinished, write_json
from tfprune_init.progress import is_progress_shown, make_progress, track


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_the_old_one_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as part:
        part.write_text("ne")
        assert (part.parent, part.suffix, path.read_text()) == (tmp_path, ".txt", "old")
        part.write_text("new")
    assert path.read_text() == "new"
    with pytest.raises(TypeError), atomic_write(path) as part, part.open("w") as file:
        file.writelines(["half", None])
    assert (names_in(tmp_path), path.read_text()) == (["a.txt"], "new")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    with atomic_write(tmp_path / "link.txt") as part:
        part.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_a_device_is_written_to(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    write_json(f"/dev/fd/{writing}", {"a": 1})
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert json.load(pipe) == {"a": 1}


def test_a_missing_folder_is_named_as_it_was_given(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"create it first: .*no/a\.json'"):
        write_json(tmp_path / "no" / "a.json", {})


def test_nan_is_refused_where_asked(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [float("nan")])
    assert (tmp_path / "a.json").read_text() == "[\n  NaN\n]\n"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", [float("nan")], allow_nan=False)
    assert (tmp_path / "a.json").read_text() == "[\n  NaN\n]\n"


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "run") as part:
        (part / "one").write_text("1")
        assert not (tmp_path / "run").exists()
    with pytest.raises(OSError, match="run"), atomic_folder(tmp_path / "run") as part:
        (part / "two").write_text("2")
    assert names_in(tmp_path / "run") == ["one"]
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "run", replace=True) as part:
        _ = 1 / 0
    assert names_in(tmp_path / "run") == ["one"]
    with atomic_folder(tmp_path / "run", replace=True) as part:
        (part / "two").write_text("2")
    assert (names_in(tmp_path), names_in(tmp_path / "run")) == (["run"], ["two"])


def test_a_folder_that_cannot_be_moved_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "one").write_text("1")
    replace, moves = os.replace, []

    def fail_once(source: Path, target: Path) -> None:
        moves.append(target)
        if len(moves) == 2:
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(OSError, match="no"), atomic_folder(tmp_path / "run", replace=True):
        pass
    assert (names_in(tmp_path), names_in(tmp_path / "run")) == (["run"], ["one"])


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    (tmp_path / f".unfinished-{gone.pid}-abc").mkdir()
    (tmp_path / f".unfinished-{gone.pid}-abc.npz").write_text("")
    with atomic_folder(tmp_path / "run") as part:
        remove_unfinished(tmp_path)
        assert names_in(tmp_path) == [part.name]


@pytest.mark.parametrize("make", [atomic_folder, atomic_write])
def test_only_what_is_known_to_be_left_over_is_removed(make: Any, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    with make(tmp_path / "run") as part:
        part.mkdir(exist_ok=True) if make is atomic_folder else part.touch()
        _, own, rest = part.name.split("-", 2)
        machine = rest.rsplit("-", 1)[0]
        kept = [
            f".unfinished-{own}-{machine}-abc",
            f".unfinished-{gone.pid}-elsewhere-abc",
            f".replaced-{gone.pid}-{machine}-abc",
            f"unfinished-{gone.pid}-abc",
            ".unfinished-symphony",
        ]
        for name in (f".unfinished-{gone.pid}-{machine}-abc", f".unfinished-{gone.pid}-abc.keras", *kept):
            (tmp_path / name).mkdir()
            (tmp_path / name / "weights").write_text("half of them")
        with make(tmp_path / "other") as other:
            other.mkdir(exist_ok=True) if make is atomic_folder else other.touch()
            assert names_in(tmp_path) == sorted([*kept, part.name, other.name])
    assert names_in(tmp_path) == sorted([*kept, "other", "run"])


@pytest.mark.process
def test_a_process_killed_between_two_moves_leaves_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "one").write_text("1")
    killed = (
        "import os, signal, pathlib; from tfprune_init import files; move = os.replace\n"
        "def move_once(source, target):\n"
        "    move(source, target)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.os.replace = move_once\n"
        "with files.atomic_folder('run', replace=True): pass"
    )
    assert subprocess.run([sys.executable, "-c", killed], cwd=tmp_path, check=False).returncode == -signal.SIGKILL
    with atomic_write(tmp_path / "next") as part:
        part.touch()
    (old,) = [path for path in tmp_path.iterdir() if path.name.startswith(".replaced-")]
    assert (names_in(old), names_in(tmp_path)) == (["one"], [old.name, "next"])


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_integers(value: object) -> None:
    assert check_integer("steps", value, 1) == 3
    assert type(check_integer("steps", value, 1)) is int


@pytest.mark.parametrize(
    ("value", "least", "message"),
    [
        (0, 1, r"steps must be a positive integer\. Received: steps=0\."),
        (-1, 0, r"steps must be a non-negative integer\. Received: steps=-1\."),
        (2, 3, r"steps must be an integer of at least 3\. Received: steps=2\."),
        (True, 0, "Received: steps=True"),
        (np.True_, 0, "Received: steps=np.True_"),
        (1.0, 0, "Received: steps=1.0"),
        ("1", 0, "Received: steps='1'"),
        (None, 0, "Received: steps=None"),
    ],
)
def test_what_is_no_such_integer(value: object, least: int, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check_integer("steps", value, least)


def test_suggestions() -> None:
    assert suggest("fource", ["snip", "force"]) == "Did you mean 'force'?"
    assert suggest("head1", ["head1x", "head12"]) == "Did you mean 'head1x' or 'head12'?"
    assert suggest("fource", ["snip", "force"], list_all=True) == "Did you mean 'force'? There is: snip, force."
    assert suggest(None, "abc") == "There is: a, b, c."
    assert suggest("?", map(str, range(12))) == "There is: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."
    assert suggest("?", map(str, range(12)), list_all=True).endswith("10, 11.")
    assert suggest("?", []) == "There is none."


def test_progress_is_shown_where_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert (is_progress_shown(1), is_progress_shown(0), is_progress_shown("auto")) == (True, False, False)
    with pytest.raises(OptionError, match=r'0, 1 or "auto"\. Received: 2'):
        is_progress_shown(2)
    assert list(track([1, 2], "hidden", shown=False)) == [1, 2]
    assert capsys.readouterr() == ("", "")
    with make_progress(("{task.description}",), stays=True) as progress:
        progress.add_task("a name")
    out, err = capsys.readouterr()
    assert (out, "a name" in err) == ("", True)


def test_a_missing_package_is_an_import_error_of_ours() -> None:
    error = MissingDependencyError("A figure", "matplotlib", "viz")
    assert isinstance(error, PruningError)
    assert isinstance(error, ImportError)
    assert str(error) == 'A figure needs matplotlib. Try: pip install "tfprune_init[viz]"'
    other = MissingDependencyError("It", "one two", received="no one")
    assert str(other) == "It needs one and two. Received: no one. Try: pip install one two"
    assert [str(pickle.loads(pickle.dumps(one))) for one in (error, other)] == [str(error), str(other)]
