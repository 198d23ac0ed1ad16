"""Checkpoints of a run: written beside and renamed, the newest and the best kept.

    checkpoints = Checkpoints(os.path.join(model_dir, "checkpoints"), model)
    checkpoints.save({"best": None})
    state = checkpoints.restore(checkpoints.newest())

A checkpoint is a directory `step-00000780` with the model's and the optimizer's variables and `state.json`.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from typing import Any

import tensorflow as tf
import tf_keras as keras

from models import strategy
from models.stable_model import StableModel
from pipeline.config import UsageError

KEEP = 3
NAME = re.compile(r"step-(\d{8,})")


class Checkpoints:
    """The checkpoints of one model under `directory`; every worker calls, the chief's are the ones that stay."""

    def __init__(self, directory: str, model: StableModel) -> None:
        self.directory, self.model = directory, model
        averages = {"averages": model.averages.variables} if model.averages else {}
        clocks = {"data_step": model.data_step, "rate_cut": model.rate_cut, "lost_steps": model.lost_steps}
        self._tracked = tf.train.Checkpoint(model=model, **clocks, **averages)

    def save(self, state: dict[str, Any]) -> None:
        """Writes the checkpoint of the model's step with `state`, which JSON can hold; drops old ones.

        `state["best"]`, where it is not None, names the step of the one to be kept as best.
        """
        if not strategy.is_chief(self.model.distribute_strategy):
            # Variables that are averaged over workers on reading need all of them to take part.
            with tempfile.TemporaryDirectory() as scratch:
                self._tracked.write(os.path.join(scratch, "variables"))
            return
        step = self.model.step
        final = os.path.join(self.directory, f"step-{step:08d}")
        beside = os.path.join(self.directory, f"writing-{step:08d}")
        for leftover in (beside, final):
            if tf.io.gfile.exists(leftover):
                tf.io.gfile.rmtree(leftover)
        tf.io.gfile.makedirs(beside)
        self._tracked.write(os.path.join(beside, "variables"))
        with tf.io.gfile.GFile(os.path.join(beside, "state.json"), "w") as file:
            file.write(json.dumps({**state, "step": step}))
        tf.io.gfile.rename(beside, final)
        best = state["best"]["step"] if state.get("best") else None
        for old in self._steps()[:-KEEP]:
            if old != best:
                tf.io.gfile.rmtree(os.path.join(self.directory, f"step-{old:08d}"))

    def restore(self, path: str) -> dict[str, Any]:
        """Puts a checkpoint's values into the model and returns its state.

        Raises:
          UsageError: it is of another model.
        """
        try:
            self._tracked.read(os.path.join(path, "variables")).assert_existing_objects_matched()
        except (AssertionError, IndexError, ValueError, tf.errors.OpError) as error:  # IndexError: cut short
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"checkpoint {path} does not fit this model ({reason}): resume with the configuration it was made with."
            ) from error
        return read_state(path)

    def _steps(self) -> list[int]:
        return steps(self.directory)

    def newest(self) -> str | None:
        found = self._steps()
        return os.path.join(self.directory, f"step-{found[-1]:08d}") if found else None


def steps(directory: str) -> list[int]:
    """The steps of the complete checkpoints, ascending."""
    names = tf.io.gfile.listdir(directory) if tf.io.gfile.isdir(directory) else []
    return sorted(int(match[1]) for name in names if (match := NAME.fullmatch(name.rstrip("/"))))


def read_state(path: str) -> dict[str, Any]:
    with tf.io.gfile.GFile(os.path.join(path, "state.json")) as file:
        return json.loads(file.read())


class Checkpointer(keras.callbacks.Callback):
    """Saves every so many epochs, at the end, and whenever validation accuracy (then loss) is the best so far.

    `best` is {loss, accuracy, step} on validation, None before the first evaluation.
    """

    def __init__(self, checkpoints: Checkpoints, every_epochs: int, best: dict[str, float] | None = None) -> None:
        super().__init__()
        self.checkpoints, self.every_epochs, self.best = checkpoints, every_epochs, best

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        improved = False
        if "val_accuracy" in logs:
            now = {"loss": logs["val_loss"], "accuracy": logs["val_accuracy"], "step": self.model.step}
            rank = lambda result: (result["accuracy"], -result["loss"])  # noqa: E731
            improved = self.best is None or rank(now) > rank(self.best)
            if improved:
                self.best = now
        if improved or (epoch + 1) % self.every_epochs == 0 or epoch + 1 == self.params["epochs"]:
            self.save()

    def save(self) -> None:
        self.checkpoints.save({"best": self.best})
