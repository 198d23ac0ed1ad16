"""Checkpoints of a run: written beside, sealed and renamed; the newest ones and the best are kept.

    checkpoints = Checkpoints(os.path.join(model_dir, "checkpoints"), model)
    checkpoints.save({"best": None})
    state = checkpoints.restore(checkpoints.newest())

A checkpoint is a directory `step-00000780` with the model's and the optimizer's variables, `state.json` and the
checksums of all of it. One that is not what was written is never used.
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
from evenkeel.models.distribute.collective import lost, summed
from evenkeel.models.distribute.io_errors import UNWRITTEN, reason
from evenkeel.models.training import checksums
from evenkeel.models.training.stable_model import StableModel
from evenkeel.pipeline.errors import UsageError

NAME = re.compile(r"step-(\d{8,})")
NOWHERE = "ram://not-kept"


class Checkpoints:
    """The checkpoints of one model under `directory`; every worker calls, the chief's are the ones that stay.

    The newest `keep` stay, and the best.
    """

    def __init__(self, directory: str, model: StableModel, keep: int = 3) -> None:
        self.directory, self.model, self._keep = directory, model, keep
        averages = {"averages": model.averages.variables} if model.averages else {}
        clocks = {name: getattr(model, name) for name in ("data_step", "lost_steps", "rate_cut", "rate_factor")}
        self._tracked = tf.train.Checkpoint(model=model, epoch=model.epoch_sums, **clocks, **averages)
        self._chief = strategy.is_chief(model.distribute_strategy)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._sealing: concurrent.futures.Future[None] | None = None
        self._best: int | None = None  # the step of the newest best one that is on disk

    def save(self, state: dict[str, Any]) -> None:
        """Writes the checkpoint of the model's step with `state`, which JSON can hold; drops old ones.

        `state["best"]`, where it is not None, names the step of the one to be kept as best. The values are those of
        now; bringing them to disk goes on in the background, see `finish`.

        Raises:
          OSError, tf.errors.OpError: this checkpoint cannot be written, or the one before could not be.
        """
        self.finish()
        if not self._chief:
            self._take_part()
            return
        step = self.model.step
        beside = os.path.join(self.directory, f"writing-{step:08d}")
        with self._removed_if_it_fails():
            self._make(beside)
            self._tracked.write(os.path.join(beside, "variables"))
            with tf.io.gfile.GFile(os.path.join(beside, "state.json"), "w") as file:
                file.write(json.dumps({**state, "step": step}))
        best = state["best"]["step"] if state.get("best") else None
        self._sealing = self._thread.submit(self._seal, beside, step, best)

    def _take_part(self) -> None:
        """Variables that are averaged over workers on reading need all of them, or the others wait for ever.

        Into memory: a disk that is full here would leave the chief waiting.
        """
        self._tracked.write(f"{NOWHERE}/variables")
        tf.io.gfile.rmtree(NOWHERE)

    def _make(self, beside: str) -> None:
        try:
            self._remove_leftovers()
            tf.io.gfile.makedirs(beside)
        except UNWRITTEN:
            if self.model.distribute_strategy.extended._in_multi_worker_mode():
                self._take_part()
            raise

    def _seal(self, beside: str, step: int, best: int | None) -> None:
        with self._removed_if_it_fails():
            checksums.seal(beside)
            self._name(beside, self.path(step))
        there = steps(self.directory)
        self._best = best if best in there else self._best
        for old in there[: -self._keep]:
            if old not in (best, self._best):
                self._remove(self.path(old))

    def _name(self, beside: str, final: str) -> None:
        """Gives a sealed one its name. Killed in between, `newest` does it."""
        if tf.io.gfile.exists(final):
            tf.io.gfile.rmtree(final)
        tf.io.gfile.rename(beside, final)
        checksums.flush(self.directory)

    def _remove(self, path: str) -> None:
        try:
            tf.io.gfile.rmtree(path)
        except UNWRITTEN as error:
            logging.warning("checkpoint %s is not needed any more and cannot be removed: %s", path, reason(error))

    def finish(self) -> None:
        """Waits until the last `save` is on disk.

        Raises:
          OSError, tf.errors.OpError: it could not be brought there.
        """
        sealing, self._sealing = self._sealing, None
        if sealing:
            sealing.result()

    @contextlib.contextmanager
    def _removed_if_it_fails(self) -> Iterator[None]:
        """Where there is no space left, the rest of a checkpoint takes what the summary needs."""
        try:
            yield
        except UNWRITTEN:
            self._remove_leftovers()
            raise

    def _remove_leftovers(self) -> None:
        """Of writers that were killed."""
        for name in self._names("writing-"):
            tf.io.gfile.rmtree(os.path.join(self.directory, name))

    def restore(self, path: str) -> dict[str, Any]:
        """Puts a checkpoint's values into the model and returns its state.

        Raises:
          UsageError: it is damaged, or of another model.
        """
        if wrong := checksums.fault(path):
            raise UsageError(f"checkpoint {path} is damaged ({wrong}): --resume goes on from the one before it.")
        try:
            self._tracked.read(os.path.join(path, "variables")).assert_existing_objects_matched()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            raise UsageError(
                f"checkpoint {path} does not fit this model ({reason(error)}): resume with the configuration it was"
                " made with."
            ) from error
        return read_state(path)

    def newest(self) -> str | None:
        """The newest one that is whole; damaged ones are named and set aside as `damaged-step-...`."""
        self.finish()
        if self._chief:
            for name in self._names("writing-"):
                path = os.path.join(self.directory, name)
                if not checksums.fault(path):
                    self._name(path, self.path(int(name.removeprefix("writing-"))))
        for step in reversed(steps(self.directory)):
            path = self.path(step)
            wrong = checksums.fault(path)
            if not wrong:
                return path
            logging.warning("checkpoint %s is damaged (%s): going on with the one before it", path, wrong)
            if self._chief:
                aside = os.path.join(self.directory, f"damaged-{os.path.basename(path)}")
                if tf.io.gfile.exists(aside):
                    tf.io.gfile.rmtree(aside)
                tf.io.gfile.rename(path, aside)
        return None

    def last(self) -> str | None:
        """The newest one, whole or not; None where there is none."""
        there = steps(self.directory)
        return self.path(there[-1]) if there else None

    def damaged(self) -> list[str]:
        """The names of those that were set aside."""
        return self._names("damaged-")

    def _names(self, prefix: str) -> list[str]:
        names = tf.io.gfile.listdir(self.directory) if tf.io.gfile.isdir(self.directory) else []
        return [name.rstrip("/") for name in names if name.startswith(prefix)]

    def path(self, step: int) -> str:
        return os.path.join(self.directory, f"step-{step:08d}")


def steps(directory: str) -> list[int]:
    """The steps of the complete checkpoints, ascending."""
    names = tf.io.gfile.listdir(directory) if tf.io.gfile.isdir(directory) else []
    return sorted(int(match[1]) for name in names if (match := NAME.fullmatch(name.rstrip("/"))))


def step_of(path: str) -> int:
    """The step in a checkpoint's name."""
    return int(os.path.basename(path).removeprefix("step-"))


def read_state(path: str) -> dict[str, Any]:
    """What `save` was given, and the `step`.

    Raises:
      UsageError: it cannot be read.
    """
    try:
        with tf.io.gfile.GFile(os.path.join(path, "state.json")) as file:
            return json.loads(file.read())
    except (ValueError, tf.errors.OpError) as error:
        raise UsageError(f"checkpoint {path} is damaged (state.json cannot be read): remove it.") from error


class Stateful(Protocol):
    """What goes on from where a checkpoint left it; its state is what JSON can hold."""

    def state(self) -> dict[str, Any]: ...


class Checkpointer(keras.callbacks.Callback):
    """Saves as `config` says, at the end, and whenever validation accuracy (then loss) is the best so far.

    `best` is {loss, accuracy, step} on validation, None before the first evaluation; `beside` what else a checkpoint
    holds the state of, by name; `before_save` is called before each. A checkpoint that cannot be written is an error in
    the log, and training goes on: `failure` is what the last one failed for, empty where it did not.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        config: CheckpointConfig,
        best: dict[str, float] | None = None,
        beside: dict[str, Stateful] | None = None,
    ) -> None:
        super().__init__()
        self.checkpoints, self.config, self.best, self.beside = checkpoints, config, best, beside or {}
        self.failure = ""
        self.before_save: list[Callable[[], None]] = []
        self._held: tuple[int, bool] | None = None  # the step of the last one, and whether it is `validating`

    def on_train_begin(self, logs: Any = None) -> None:
        self._saved, self._saved_at = self.model.step, time.monotonic()

    def _due(self) -> bool:
        steps, minutes = self.config.every_steps, self.config.every_minutes
        by_steps = bool(steps) and self.model.step >= self._saved + steps
        return by_steps or (bool(minutes) and time.monotonic() >= self._saved_at + 60 * minutes)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch + 1 < self.params["steps"] and self._due():  # else after validation
            self.save()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        improved = False
        if "val_accuracy" in logs:
            now = {"loss": logs["val_loss"], "accuracy": logs["val_accuracy"], "step": self.model.step}
            rank = lambda result: (result["accuracy"], -result["loss"])  # noqa: E731
            improved = self.best is None or rank(now) > rank(self.best)
            if improved:
                self.best = now
        last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        if improved or last or (epoch + 1) % self.config.every_epochs == 0 or self._due():
            self.save()

    def save(self, validating: bool = False) -> None:
        """`validating`: a signal came in the validation of the epoch that has just ended."""
        self.finish()
        # Of one worker's failure all have to know: a checkpoint is written by all of them.
        (failed,) = summed(self.model.distribute_strategy, [int(bool(self.failure))])
        if self._held == (self.model.step, validating) and not failed:
            return
        for each in self.before_save:
            each()
        state = {name: each.state() for name, each in self.beside.items()}
        self._saved, self._saved_at, self.failure = self.model.step, time.monotonic(), ""
        self._held = self.model.step, validating
        self._try(lambda: self.checkpoints.save({"best": self.best, "validating": validating, **state}))

    def finish(self) -> None:
        """Waits until the last checkpoint is on disk."""
        self._try(self.checkpoints.finish)

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except UNWRITTEN as error:
            if lost(error, self.checkpoints.model.distribute_strategy):
                raise
            self.failure = reason(error)
            logging.error(
                "a checkpoint could not be written under %s (%s): training goes on",
                self.checkpoints.directory,
                self.failure,
            )
