"""Saves and restores checkpoints of a run: keeps the newest ones and the best, and never uses a damaged one.

    checkpoints = Checkpoints(os.path.join(model_dir, "checkpoints"), model)
    checkpoints.save({"best": None})
    state = checkpoints.restore(checkpoints.newest_intact())

A checkpoint is a directory `step-00000780` with the variables of model and optimizer, `state.json` and the checksums of
both. It is written as `writing-00000780` and renamed when all its files are on disk.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import tensorflow as tf
import tf_keras as keras
from absl import logging

from evenkeel.models.config import CheckpointConfig
from evenkeel.models.distribute import strategy
from evenkeel.models.distribute.collective import all_reduce_sum, is_worker_loss
from evenkeel.models.distribute.io_errors import WRITE_ERRORS, summarize_error
from evenkeel.models.run import checksums
from evenkeel.models.training.stable_model import StableModel
from evenkeel.pipeline.errors import UsageError

CHECKPOINT_NAME = re.compile(r"step-(\d{8,})")
UNFINISHED_PREFIX, DAMAGED_PREFIX = "writing-", "damaged-"
DISCARDED = "ram://discarded-checkpoint"


class Checkpoints:
    """The checkpoints of one model under `directory`: the newest `keep`, and the best.

    Every worker of a cluster must call `save`; only the chief's files stay.
    """

    def __init__(self, directory: str, model: StableModel, keep: int = 3) -> None:
        self.directory, self.model, self._keep = directory, model, keep
        averages = {"averages": model.averages.variables} if model.averages else {}
        # These names are keys in the checkpoint files.
        counters = {"data_step": model.data_step, "lost_steps": model.lost_steps}
        scales = {"rate_cut": model.lr_scale_target, "rate_factor": model.lr_scale}
        self._tracked = tf.train.Checkpoint(model=model, epoch=model.epoch_sums, **counters, **scales, **averages)
        self._is_chief = strategy.is_chief(model.distribute_strategy)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._pending: concurrent.futures.Future[None] | None = None
        self._best_step: int | None = None  # step of the newest best checkpoint that is on disk

    def save(self, state: dict[str, Any]) -> None:
        """Writes a checkpoint of the model's step with `state`, and removes old ones.

        The files hold the values at the time of the call. Flushing them to disk continues in the background, see
        `finish`.

        Args:
          state: a dictionary of JSON values. If `state["best"]` is not None, `state["best"]["step"]` is the step of the
            checkpoint to keep as the best.

        Raises:
          OSError, tf.errors.OpError: this checkpoint cannot be written, or the previous one could not be flushed.
        """
        self.finish()
        if not self._is_chief:
            self._join_collective_reads()
            return
        step = self.model.step
        unfinished = os.path.join(self.directory, f"{UNFINISHED_PREFIX}{step:08d}")
        with self._remove_unfinished_on_failure():
            self._create(unfinished)
            self._tracked.write(os.path.join(unfinished, "variables"))
            with tf.io.gfile.GFile(os.path.join(unfinished, "state.json"), "w") as file:
                file.write(json.dumps({**state, "step": step}))
        best_step = state["best"]["step"] if state.get("best") else None
        self._pending = self._thread.submit(self._flush_and_publish, unfinished, step, best_step)

    def _create(self, unfinished: str) -> None:
        try:
            self._remove_unfinished()
            tf.io.gfile.makedirs(unfinished)
        except WRITE_ERRORS:
            if self.model.distribute_strategy.extended._in_multi_worker_mode():
                self._join_collective_reads()
            raise

    def _join_collective_reads(self) -> None:
        """Reads all variables as `write` does: some are averaged over the workers, which blocks until all take part.

        The method writes to memory, because on a full disk this worker would fail and the chief would wait forever.
        """
        self._tracked.write(f"{DISCARDED}/variables")
        tf.io.gfile.rmtree(DISCARDED)

    def _flush_and_publish(self, unfinished: str, step: int, best_step: int | None) -> None:
        with self._remove_unfinished_on_failure():
            checksums.write_checksums(unfinished)
            self._publish(unfinished, self.path(step))
        existing = checkpoint_steps(self.directory)
        self._best_step = best_step if best_step in existing else self._best_step
        for old in existing[: -self._keep]:
            if old not in (best_step, self._best_step):
                self._remove(self.path(old))

    def _publish(self, unfinished: str, path: str) -> None:
        """Renames a complete checkpoint; if the process is killed before the rename, `newest_intact` repeats it."""
        if tf.io.gfile.exists(path):
            tf.io.gfile.rmtree(path)
        tf.io.gfile.rename(unfinished, path)
        checksums.sync_to_disk(self.directory)

    def _remove(self, path: str) -> None:
        try:
            tf.io.gfile.rmtree(path)
        except WRITE_ERRORS as error:
            logging.warning("the old checkpoint %s cannot be removed: %s", path, summarize_error(error))

    def finish(self) -> None:
        """Waits until the last `save` is on disk.

        Raises:
          OSError, tf.errors.OpError: the checkpoint could not be flushed.
        """
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    @contextlib.contextmanager
    def _remove_unfinished_on_failure(self) -> Iterator[None]:
        """Removes an unfinished checkpoint if the block fails: on a full disk, summary.json needs its space."""
        try:
            yield
        except WRITE_ERRORS:
            self._remove_unfinished()
            raise

    def _remove_unfinished(self) -> None:
        for name in self._names(UNFINISHED_PREFIX):
            tf.io.gfile.rmtree(os.path.join(self.directory, name))

    def restore(self, path: str) -> dict[str, Any]:
        """Reads a checkpoint into the model and returns its state.

        Raises:
          UsageError: the checkpoint is damaged, or belongs to another model.
        """
        if damage := checksums.find_damage(path):
            raise UsageError(f"checkpoint {path} is damaged ({damage}): --resume goes on from the one before it.")
        try:
            self._tracked.read(os.path.join(path, "variables")).assert_existing_objects_matched()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise UsageError(
                f"checkpoint {path} does not fit this model ({summarize_error(error)}): resume with the configuration"
                " it was made with."
            ) from error
        return read_state(path)

    def newest_intact(self) -> str | None:
        """The path of the newest undamaged checkpoint; damaged newer ones are renamed to `damaged-step-...`."""
        self.finish()
        if self._is_chief:
            for name in self._names(UNFINISHED_PREFIX):
                path = os.path.join(self.directory, name)
                if not checksums.find_damage(path):
                    self._publish(path, self.path(int(name.removeprefix(UNFINISHED_PREFIX))))
        for step in reversed(checkpoint_steps(self.directory)):
            path = self.path(step)
            damage = checksums.find_damage(path)
            if not damage:
                return path
            logging.warning("checkpoint %s is damaged (%s): going on with the one before it", path, damage)
            if self._is_chief:
                self._set_aside(path)
        return None

    def _set_aside(self, path: str) -> None:
        aside = os.path.join(self.directory, f"{DAMAGED_PREFIX}{os.path.basename(path)}")
        if tf.io.gfile.exists(aside):
            tf.io.gfile.rmtree(aside)
        tf.io.gfile.rename(path, aside)

    def newest(self) -> str | None:
        """The path of the newest checkpoint, damaged or not; None if there is none."""
        existing = checkpoint_steps(self.directory)
        return self.path(existing[-1]) if existing else None

    def damaged_names(self) -> list[str]:
        """The names of damaged checkpoints that have been set aside."""
        return self._names(DAMAGED_PREFIX)

    def path(self, step: int) -> str:
        return os.path.join(self.directory, checkpoint_name(step))

    def _names(self, prefix: str) -> list[str]:
        names = tf.io.gfile.listdir(self.directory) if tf.io.gfile.isdir(self.directory) else []
        return [name.rstrip("/") for name in names if name.startswith(prefix)]


def checkpoint_name(step: int) -> str:
    """The name of a checkpoint's directory."""
    return f"step-{step:08d}"


def checkpoint_steps(directory: str) -> list[int]:
    """The steps of the complete checkpoints in `directory`, ascending."""
    names = tf.io.gfile.listdir(directory) if tf.io.gfile.isdir(directory) else []
    return sorted(int(match[1]) for name in names if (match := CHECKPOINT_NAME.fullmatch(name.rstrip("/"))))


def parse_step(path: str) -> int:
    """The step in the name of a checkpoint."""
    return int(os.path.basename(path).removeprefix("step-"))


def find_checkpoint(directory: str, which: str) -> str:
    """The path of the "best" or the "last" checkpoint in `directory`; damaged newest checkpoints are skipped.

    Raises:
      UsageError: there is no such checkpoint.
    """
    steps = checkpoint_steps(directory)
    while steps and (damage := checksums.find_damage(os.path.join(directory, checkpoint_name(steps[-1])))):
        logging.warning("checkpoint %s is damaged (%s): taking the one before it", checkpoint_name(steps.pop()), damage)
    if not steps:
        raise UsageError(f"{directory} holds no complete checkpoint: train first, or correct model_dir.")
    last = os.path.join(directory, checkpoint_name(steps[-1]))
    best = read_state(last)["best"] if which == "best" else None
    if best and best["step"] not in steps:
        raise UsageError(f"{directory} has lost the best checkpoint (step {best['step']}): use --checkpoint=last.")
    return os.path.join(directory, checkpoint_name(best["step"])) if best else last


def read_state(path: str) -> dict[str, Any]:
    """Reads the state that was passed to `Checkpoints.save`, with `step` added.

    Raises:
      UsageError: state.json cannot be read.
    """
    try:
        with tf.io.gfile.GFile(os.path.join(path, "state.json")) as file:
            return json.loads(file.read())
    except (ValueError, tf.errors.OpError) as error:
        raise UsageError(f"checkpoint {path} is damaged (state.json cannot be read): remove this directory.") from error


class Stateful(Protocol):
    """An object with a state that checkpoints hold."""

    def state(self) -> dict[str, Any]:
        """Returns the state as JSON values."""
        ...


class Checkpointer(keras.callbacks.Callback):
    """Saves checkpoints as often as `config` says, at the end, and whenever validation is the best so far.

    A validation is better if its accuracy is higher or, at equal accuracy, its loss is lower. If a checkpoint cannot be
    written, an error is logged and training continues.

    Attributes:
      best: {loss, accuracy, step} of the best validation; None before the first.
      stateful: objects whose states are saved, by their key in state.json.
      before_save: functions that are called before each save.
      failure: why the last checkpoint could not be written; "" if it was written.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        config: CheckpointConfig,
        best: dict[str, float] | None = None,
        stateful: dict[str, Stateful] | None = None,
    ) -> None:
        super().__init__()
        self.checkpoints, self.config, self.best, self.stateful = checkpoints, config, best, stateful or {}
        self.failure = ""
        self.before_save: list[Callable[[], None]] = []
        self._last_saved: tuple[int, bool] | None = None  # (step, validating) of the last checkpoint

    def on_train_begin(self, logs: Any = None) -> None:
        self._saved_step, self._saved_time = self.model.step, time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch + 1 < self.params["steps"] and self._is_due():  # the last step's checkpoint waits for validation
            self.save()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        improved = False
        if "val_accuracy" in logs:
            result = {"loss": logs["val_loss"], "accuracy": logs["val_accuracy"], "step": self.model.step}
            improved = self.best is None or _rank(result) > _rank(self.best)
            if improved:
                self.best = result
        last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        if improved or last or (epoch + 1) % self.config.every_epochs == 0 or self._is_due():
            self.save()

    def _is_due(self) -> bool:
        steps, minutes = self.config.every_steps, self.config.every_minutes
        steps_passed = bool(steps) and self.model.step >= self._saved_step + steps
        return steps_passed or (bool(minutes) and time.monotonic() >= self._saved_time + 60 * minutes)

    def save(self, validating: bool = False) -> None:
        """Saves a checkpoint, except if the last one was written with the same step and the same `validating`.

        `validating` means that a signal interrupted the validation of the epoch that has just ended.
        """
        self.finish()
        # All workers must know if one of them failed, because all take part in writing a checkpoint.
        (failed,) = all_reduce_sum(self.model.distribute_strategy, [int(bool(self.failure))])
        if self._last_saved == (self.model.step, validating) and not failed:
            return
        for prepare in self.before_save:
            prepare()
        states = {name: stateful.state() for name, stateful in self.stateful.items()}
        self._saved_step, self._saved_time, self.failure = self.model.step, time.monotonic(), ""
        self._last_saved = self.model.step, validating
        self._try(lambda: self.checkpoints.save({"best": self.best, "validating": validating, **states}))

    def finish(self) -> None:
        """Waits until the last checkpoint is on disk."""
        self._try(self.checkpoints.finish)

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except WRITE_ERRORS as error:
            if is_worker_loss(error, self.checkpoints.model.distribute_strategy):
                raise
            self.failure = summarize_error(error)
            logging.error(
                "a checkpoint could not be written under %s (%s): training goes on",
                self.checkpoints.directory,
                self.failure,
            )


def _rank(result: dict[str, float]) -> tuple[float, float]:
    return result["accuracy"], -result["loss"]
