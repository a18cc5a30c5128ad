"""Runs in separate processes, several at a time."""

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
from tfprune_init.experiments.results import Run
from tfprune_init.experiments.run_config import RunConfig
from tfprune_init.experiments.runner import ExperimentContext, run_one
from tfprune_init.training.inputs import prepare_data

_context: ExperimentContext


def run_in_processes(context: ExperimentContext, configs: list[RunConfig], processes: int) -> Iterator[Run]:
    """Run configurations in spawned processes, and yield each row when it is finished.

    Args:
        context: Shared by all runs; its data is in the form given to `compare`.
        configs: The runs to do.
        processes: Number of processes; each takes its share of the cores.

    Raises:
        OptionError: If something cannot be sent to a process.
        PruningError: If a process was killed.
    """
    try:
        sent = pickle.dumps(context)
        pickle.dumps(configs)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise OptionError(
            f"With processes={processes} everything is sent to other processes, and this cannot be: {error}. Define "
            "build_model and optimizer at the top of a module, and give the data as arrays or as such a function."
        ) from error
    threads = max(1, (os.cpu_count() or 1) // processes)
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start, (sent, threads))
    with pool:
        waiting = [pool.submit(_run, config) for config in configs]
        try:
            for future in as_completed(waiting):
                yield future.result()
        except BrokenProcessPool as error:
            raise PruningError(
                "A process of the comparison died, perhaps because memory ran out: try fewer processes. Finished runs "
                "are stored; the same call continues from there. A script must guard its call with "
                "`if __name__ == '__main__':`."
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start(sent: bytes, threads: int) -> None:
    global _context
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    given = pickle.loads(sent)
    _context = replace(given, data=prepare_data(given.data))


def _run(config: RunConfig) -> Run:
    return run_one(_context, config)
