"""The loop over epochs and batches, which continues after an interruption."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.progress import Progress, TaskID

from tfprune_init.backend import compat
from tfprune_init.backend.optimizers import get_optimizer_variables
from tfprune_init.backend.replicas import find_replicas
from tfprune_init.distribute.callbacks import Callbacks
from tfprune_init.distribute.checkpoints import Checkpoint
from tfprune_init.distribute.sharding import ShardedEpochs
from tfprune_init.distribute.step import Steps
from tfprune_init.errors import DataError

Logs = dict[str, Any]


class Trainer:
    """One training: its parts and its progress.

    Args:
        model: A model that was built by `build`.
        train: Its batches.
        validation: Those it is validated on, or None.
        hooks: Its callbacks.
        progress: Display of the progress.
        saved: Checkpoint that is written, or None.
        every: Steps within an epoch after which it is written, or None.
    """

    def __init__(
        self,
        model: Any,
        train: ShardedEpochs,
        validation: ShardedEpochs | None,
        hooks: Callbacks,
        progress: Progress,
        saved: Checkpoint | None,
        every: int | None,
    ):
        self._model = model
        self._train = train
        self._validation = validation
        self._hooks = hooks
        self._progress = progress
        self._saved = saved
        self._every = every
        self._steps = Steps(model)
        self._replicas = find_replicas(model)
        self._epoch = self._step = 0
        self._stopped = False

    def run(self, initial_epoch: int, epochs: int) -> dict[str, list[Any]]:
        """Train from the checkpoint on, or else from one epoch to another; return the history."""
        model, hooks = self._model, self._hooks
        before = None if self._saved is None else self._saved.read()
        self._epoch = initial_epoch
        if before is not None:
            self._epoch, self._step, self._stopped = before["epoch"], before["step"], before["stopped"]
        self._check_places()
        if before is not None and self._saved is not None:
            self._saved.restore()
            hooks.continue_files()
        self._check_weights()
        self._train.pass_over(self._epoch - initial_epoch)
        model.stop_training = False
        hooks.on_train_begin()
        if before is not None:
            hooks.remember(before["callbacks"], before["history"])
        logs: Logs = {}
        try:
            while self._epoch < epochs and not self._stopped:
                logs = self._run_epoch(epochs)
        finally:
            model.train_function = None  # that of Keras is another
        if self._epoch > initial_epoch:
            model.optimizer.finalize_variable_values(model.trainable_variables)
        hooks.on_train_end(logs)
        return hooks.history

    def _run_epoch(self, epochs: int) -> Logs:
        epoch, name = self._epoch, f"epoch {self._epoch + 1}/{epochs}"
        task = self._progress.add_task(name, total=self._train.steps(epoch), completed=self._step)
        self._hooks.on_epoch_begin(epoch)
        self._take_steps(task)
        logs = self._steps.results()
        if self._validation is not None:
            logs |= {f"val_{key}": value for key, value in self._validate(self._validation).items()}
        self._hooks.on_epoch_end(epoch, logs)
        self._epoch, self._step, self._stopped = epoch + 1, 0, self._model.stop_training
        self._save()
        self._progress.remove_task(task)
        shown = [f"{key} {value:.4g}" for key, value in logs.items() if isinstance(value, float)]
        self._progress.console.print(f"{name}: {', '.join(shown)}", highlight=False)
        return logs

    def _take_steps(self, task: TaskID) -> None:
        """Train on the rest of the epoch."""
        model, hooks = self._model, self._hooks
        if self._step == 0:
            model.reset_metrics()
        iterator = iter(self._train.of(self._epoch))
        for _ in zip(range(self._step), iterator, strict=False):
            pass  # these were taken before the interruption
        total, began = self._train.steps(self._epoch), self._step
        while self._step != total and not model.stop_training:
            hooks.on_train_batch_begin(self._step)
            done, mark = self._steps.train(iterator, model.steps_per_execution)
            if done == 0:
                break
            if self._step == began:
                self._check_batches(mark)
            self._step += done
            hooks.on_train_batch_end(self._step - 1, self._steps.results() if hooks.follow_batches else {})
            self._progress.update(task, completed=self._step)
            if self._every is not None and self._step % self._every < done:
                self._save()
        if self._step == 0 and not model.stop_training:
            raise DataError(f"Epoch {self._epoch + 1} is empty: the data gave no batch. Check its source and filters.")

    def _validate(self, validation: ShardedEpochs) -> Logs:
        self._hooks.on_test_begin()
        self._model.reset_metrics()
        iterator, batches = iter(validation.of(self._epoch)), 0
        while done := self._steps.test(iterator, self._model.steps_per_execution):
            batches += done
        if batches == 0:
            raise DataError("validation_data is empty: it gave no batch.")
        logs = self._steps.results()
        self._hooks.on_test_end(logs)
        return logs

    def _save(self) -> None:
        if self._saved is not None:
            progress = {"epoch": self._epoch, "step": self._step, "stopped": self._stopped}
            memory = {"callbacks": self._hooks.memory(), "history": self._hooks.history}
            self._saved.save({**progress, **memory})

    def _check_places(self) -> None:
        place = [np.array([self._epoch, self._step])]
        self._replicas.check_identical(place, "checkpoints", "checkpoint= must be a folder that all of them see.")

    def _check_weights(self) -> None:
        variables = [*self._model.variables, *get_optimizer_variables(self._model.optimizer)]
        self._replicas.check_identical(
            (compat.get_tf_variable(variable).numpy() for variable in variables),
            "weights",
            "Build the model in the same way on all of them, and find masks with the same data and seed.",
        )

    def _check_batches(self, mark: int) -> None:
        self._replicas.check_identical(
            [np.array(mark)],
            f"batches in epoch {self._epoch + 1}",
            "Give all of them the same data in the same order: shuffle with a seed, or give a dataset that "
            "strategy.experimental_distribute_dataset made.",
        )
