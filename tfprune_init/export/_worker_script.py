"""Run scripts one after the other, each in a fork of this process, which has imported TensorFlow and LiteRT.

`python _worker_script.py parent` has one end of a `multiprocessing.Pipe` as its standard input. From there it takes the
path of a script, the folder that is its argument, and the seconds it may take; it answers with the script's exit code,
minus the signal if one ended it, or None when it took too long. What the script says goes to the file `stderr` in its
folder.

It ends when the other end of the pipe is closed or the process with the number `parent` has ended, and takes the script
along. It imports nothing of the package, which would cost the parent's imports once more.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import sys
import time
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from traceback import TracebackException
from typing import Any

from _interpret_script import find_interpreters

LOOKING_SECONDS = 1.0
"""Seconds between checks for the parent. The pipe is not enough: a fork of the parent keeps the other end open."""

FORK = multiprocessing.get_context("fork")


def main(parent: int) -> None:
    """Serve until the parent ends or closes the connection."""
    pipe = Connection(os.dup(0))
    # What a script reads is no message, and the end of the pipe is seen when this process ends, not with the script.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    with suppress(Exception):  # the script that needs a missing module reports it
        list(find_interpreters())
    gc.freeze()  # the converter collects garbage twice a file, and would go through all that was imported
    try:
        while True:
            wait_until_ready([pipe], parent, math.inf)
            script, folder, seconds = pipe.recv()
            pipe.send(fork(script, folder, seconds, pipe, parent))
    except (EOFError, ConnectionError):
        os._exit(0)  # skips TensorFlow's clean-up, which takes a second


def fork(script: str, folder: str, seconds: float, pipe: Connection, parent: int) -> int | None:
    """Run a script in a child.

    Returns:
        Its exit code, minus the signal that ended it; None when it took longer than `seconds`.

    Raises:
        EOFError: If the parent ended or closed the connection in the meantime.
    """
    child = FORK.Process(target=run, args=(script, folder, pipe))
    with warnings.catch_warnings():
        # Python warns of threads, of which a fork has but one: those of the imports are idle, and scripts start theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    done = []
    try:
        done = wait_until_ready([child.sentinel, pipe], parent, seconds)
        if pipe in done:  # no request is allowed before the answer, so this is the end of the pipe
            raise EOFError
    finally:
        if child.sentinel not in done:
            child.kill()
        child.join()
    return child.exitcode if done else None


def wait_until_ready(sources: list[Any], parent: int, seconds: float) -> list[Any]:
    """Wait until something can be read, or the process behind it has ended.

    Returns:
        The sources that are ready; none of them after so many seconds.

    Raises:
        EOFError: If the parent has ended.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if found := wait(sources, min(left, LOOKING_SECONDS)):
            return found
        if os.getppid() != parent:
            raise EOFError
    return []


def run(script: str, folder: str, pipe: Connection) -> None:
    """Run a script as `python script folder` does."""
    pipe.close()  # else the parent wouldn't see that the worker ended while this child runs
    said = os.open(Path(folder) / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.argv[:] = [script, folder]
    sys.path.insert(0, str(Path(script).parent))
    try:
        exec(compile(Path(script).read_bytes(), script, "exec"), {"__name__": "__main__", "__file__": script})
    except Exception as error:
        shown = TracebackException.from_exception(error)
        del shown.stack[0]  # this function
        raise SystemExit("".join(shown.format())) from error


if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules must not stand in for installed ones
    main(int(sys.argv[1]))
