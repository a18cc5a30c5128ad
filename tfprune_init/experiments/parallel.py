"""Runs in processes of their own, several at a time."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import tensorflow as tf

from tfprune_init.errors import OptionError, PruningError
from tfprune_init.experiments.one_run import Laboratory, run
from tfprune_init.experiments.results import Run
from tfprune_init.experiments.setting import Setting
from tfprune_init.experiments.sources import data_of

_laboratory: Laboratory


def run_in_processes(laboratory: Laboratory, settings: list[Setting], processes: int) -> Iterator[Run]:
    """Run settings in spawned processes, and give each row as it is finished.

    Args:
        laboratory: What all runs share, its data as the caller of `compare` gave them.
        settings: What to run.
        processes: How many at a time; each takes its share of the cores.

    Raises:
        OptionError: If something cannot be sent to a process.
        PruningError: If a process was killed.
    """
    try:
        sent = pickle.dumps(laboratory)
        pickle.dumps(settings)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise OptionError(
            f"With processes={processes} everything is sent to other processes, and this cannot be: {error}. Define "
            "build_model and optimizer at the top of a module, and give the data as arrays or as such a function."
        ) from error
    threads = max(1, (os.cpu_count() or 1) // processes)
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start, (sent, threads))
    with pool:
        waiting = [pool.submit(_run, setting) for setting in settings]
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BrokenProcessPool as error:
            raise PruningError(
                "A process of the comparison died, perhaps for want of memory: try fewer processes. Finished runs "
                "are stored; the same call goes on from there. A script must guard its call with "
                "`if __name__ == '__main__':`."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start(sent: bytes, threads: int) -> None:
    global _laboratory
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    given = pickle.loads(sent)
    _laboratory = replace(given, data=data_of(given.data))


def _run(setting: Setting) -> Run:
    return run(_laboratory, setting)
