"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import io
import json
import lzma
import os
import platform
import re
import shutil
import struct
import tokenize
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

# What reading a damaged zip archive or array can raise.
_DAMAGE = (
    *(OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, MemoryError, SyntaxError),
    *(OverflowError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError),
)

_UNFINISHED = ".unfinished-"
_REPLACED = ".replaced-"
_MACHINE = platform.node() or "localhost"
_MADE_BY = re.compile(r"\.unfinished-(?P<process>\d+)-(?:(?P<machine>.+)-)?[^-]+")


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that atomically replaces `path` on success.

    What processes that were killed left in the same folder is removed first.

    Args:
        path: The file to write; its folder must exist. What a symbolic link points to is replaced, not the link.

    Yields:
        A path in the same folder, with the same suffix. What is no regular file, such as /dev/stdout, is yielded
        itself.

    Raises:
        FileNotFoundError: If the folder doesn't exist.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from tfprune_init.files import atomic_write
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic_write(folder / "a.txt") as part:
        ...     _ = part.write_text("all of it")
        >>> [path.name for path in folder.iterdir()]
        ['a.txt']
    """
    given = Path(path)
    if given.exists() and not given.is_file() and not given.is_dir():
        yield given
        return
    final = Path(os.path.realpath(given))
    if not final.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "The folder doesn't exist; create it first", os.fspath(path))
    remove_unfinished(final.parent)
    part = _find_free_name(final)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, final)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that takes the name `path` on success.

    What processes that were killed left beside it is removed first.

    Args:
        path: The folder to make; its parent must exist.
        replace: Whether to replace a folder that has something in it. It stays where it is until the new one is
            complete, and if anything fails. A process killed in the moment between the two leaves it whole, under a
            name that begins with `.replaced-`, which nothing removes.

    Raises:
        OSError: If there is a file of that name, or a folder that is not empty and not to be replaced.
    """
    final = Path(os.path.realpath(path))
    remove_unfinished(final.parent)
    part, old = _find_free_name(final), _find_free_name(final, _REPLACED)
    part.mkdir()
    try:
        yield part
        if replace and final.is_dir():
            os.replace(final, old)
        try:
            os.replace(part, final)
        except OSError:
            if old.exists():
                os.replace(old, final)
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    if old.exists():
        # From here on it may be removed by others: the new folder is in its place.
        os.replace(old, part)
        shutil.rmtree(part, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes of this machine that were killed left unfinished in a folder.

    Left alone is what belongs to a process that runs, or to a process of another machine that shares the folder, of
    which nothing is known here.
    """
    for left in folder.glob(f"{_UNFINISHED}*"):
        made = _MADE_BY.fullmatch(left.name)
        if made is None or made["machine"] not in (None, _MACHINE) or _is_running(int(made["process"])):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file; nothing in it is unpickled.

    Checksums are compared before anything is made of the bytes. No array is larger than its bytes in the file.

    Returns:
        The arrays by name, read-only.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no .npz file, or is truncated or damaged.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from tfprune_init.files import read_npz
        >>> path = Path(tempfile.mkdtemp()) / "a.npz"
        >>> np.savez(path, first=np.arange(3))
        >>> {name: array.tolist() for name, array in read_npz(path).items()}
        {'first': [0, 1, 2]}
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy"): _read_array(archive.read(name)) for name in archive.namelist()}
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _read_array(stored: bytes) -> np.ndarray:
    """Read the bytes of an .npy file."""
    file = io.BytesIO(stored)
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, by_columns, dtype = np.lib.format.read_array_header_2_0(file)
    # frombuffer refuses objects, and reshape another number of values.
    values = np.frombuffer(stored, dtype, offset=file.tell())
    return values.reshape(shape, order="F" if by_columns else "C")


def write_json(path: str | os.PathLike[str], value: Any, *, allow_nan: bool = True) -> None:
    """Write a value as JSON, indented by two, atomically.

    Args:
        path: The file to write; its folder must exist.
        value: Dicts, lists and plain values.
        allow_nan: Whether NaN and Inf may be in it, which are no JSON by its standard.

    Raises:
        FileNotFoundError: If the folder doesn't exist.
        ValueError: If there is a NaN or Inf and none may be.
    """
    text = json.dumps(value, indent=2, allow_nan=allow_nan) + "\n"
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def _find_free_name(path: Path, prefix: str = _UNFINISHED) -> Path:
    return path.with_name(f"{prefix}{os.getpid()}-{_MACHINE}-{uuid.uuid4().hex[:8]}{path.suffix}")


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OverflowError:  # no process has such a number
        return False
    except PermissionError:
        return True
    return True
