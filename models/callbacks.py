"""Builds the callbacks of a run in their order, and restores their states from a checkpoint.

run_callbacks = build_callbacks(config, model_dir, checkpoints, data, steps_per_epoch, state, chief)
model.fit(..., callbacks=run_callbacks.in_order)
run_callbacks.close()
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import tf_keras as keras

from evenkeel.models.config import TrainConfig
from evenkeel.models.preflight.preflight import BackgroundPreflight, ImageChecks
from evenkeel.models.run.checkpoints import Checkpointer, Checkpoints, Stateful
from evenkeel.models.run.summary import RunMeter
from evenkeel.models.stability.guard import StabilityGuard
from evenkeel.models.telemetry.incidents import Incidents
from evenkeel.models.telemetry.progress import Progress
from evenkeel.models.telemetry.tensorboard import Profiler, TensorBoard
from evenkeel.models.training.validation import EarlyStopping
from evenkeel.pipeline.dataset import Dataset


@dataclasses.dataclass
class RunCallbacks:
    """The callbacks of a run.

    Attributes:
      incidents: the run's incidents.
      meter: measures throughput.
      early_stopping: in `in_order` only if the configuration asks for it.
      checkpointer: saves checkpoints.
      in_order: all callbacks, in the order in which Keras calls them; early stopping comes after the writers.
      closeables: the writers that `close` closes after training.
      board: TensorBoard; None on workers that write no files.
      preflight: checks the images during training; None if the images are not checked or were checked before.
    """

    incidents: Incidents
    meter: RunMeter
    early_stopping: EarlyStopping
    checkpointer: Checkpointer
    in_order: list[keras.callbacks.Callback]
    closeables: list[Any] = dataclasses.field(default_factory=list)
    board: TensorBoard | None = None
    preflight: BackgroundPreflight | None = None

    def add_image_checks(self, checks: ImageChecks) -> None:
        """Runs preflight's checks of the images in the background of the training."""
        self.preflight = BackgroundPreflight(checks, self.incidents)
        self.checkpointer.stateful["preflight"] = self.preflight
        # First: its findings go to TensorBoard, which is flushed before each checkpoint.
        self.in_order.insert(0, self.preflight)
        self.checkpointer.before_save.insert(0, self.preflight.finish)

    def hurry(self) -> None:
        """Makes `close` and later checkpoints not wait for the image checks, which a resumed run can repeat."""
        if self.preflight:
            self.preflight.no_wait = True

    def close(self) -> None:
        """Waits for the image checks and the last checkpoint, then closes the files."""
        if self.preflight:
            self.preflight.finish()
        self.checkpointer.finish()
        for closeable in self.closeables:
            closeable.close()


def build_callbacks(
    config: TrainConfig,
    model_dir: str,
    checkpoints: Checkpoints,
    data: Dataset,
    steps_per_epoch: int,
    state: dict[str, Any] | None,
    chief: bool,
) -> RunCallbacks:
    """Returns the callbacks that `config` asks for.

    Args:
      config, data: the run's configuration and data set.
      model_dir: directory of the run's files; only the `chief` writes them.
      checkpoints: the run's checkpoints; the step of their model is the step at which the run starts.
      steps_per_epoch: number of steps in an epoch; converts the warm-up from epochs to steps.
      state: the state in the checkpoint that the run is resumed from ({} if there is none); None for a new run.
      chief: whether this process writes the run's files.
    """
    states = state or {}
    new_incidents = {"counts": {}, "lines": 0}
    incidents = Incidents(
        os.path.join(model_dir, "incidents.jsonl") if chief else None,
        None if state is None else states.get("incidents", new_incidents),
    )
    meter = RunMeter(config.data.batch_size, incidents, states.get("meter"))
    early_stopping = EarlyStopping(
        config.early_stopping, states.get("early_stopping") if config.early_stopping else None
    )
    stateful: dict[str, Stateful] = {"incidents": incidents, "meter": meter}
    checkpointer = Checkpointer(checkpoints, config.checkpoint, states.get("best"), stateful)
    run_callbacks = RunCallbacks(incidents, meter, early_stopping, checkpointer, in_order=[meter])
    if config.guard != "off":
        warmup_steps = round(config.optimizer.warmup_epochs * steps_per_epoch)
        guard = StabilityGuard(
            config.guard == "act", incidents, warmup_steps, states.get("guard"), config.data.batch_size
        )
        checkpointer.stateful["guard"] = guard
        run_callbacks.in_order.append(guard)
    if chief:
        _add_writers(run_callbacks, config, model_dir, data)
    if config.early_stopping:
        checkpointer.stateful["early_stopping"] = early_stopping
        run_callbacks.in_order.append(early_stopping)
    run_callbacks.in_order.append(checkpointer)
    return run_callbacks


def _add_writers(run_callbacks: RunCallbacks, config: TrainConfig, model_dir: str, data: Dataset) -> None:
    """Adds TensorBoard, the progress on the terminal, and the profiler if `config` asks for it."""
    checkpointer = run_callbacks.checkpointer
    start_step = checkpointer.checkpoints.model.step
    run_callbacks.board = board = TensorBoard(model_dir, config.data.batch_size, data.classes, start_step)
    run_callbacks.incidents.listeners.append(board.write_incident)
    checkpointer.before_save.append(board.flush)
    # The shards are memory-mapped: if one is truncated during the run, the process dies without a message, and this
    # line tells the user where to look.
    source, directory = config.data.source, os.path.dirname(data.train.shards[0])
    description = f"{len(data.train)} images of {source}"
    if os.path.realpath(source) != os.path.realpath(directory):
        description += f", read from {directory}"
    writers: list[Any] = [board, Progress(config.data.batch_size, description)]
    if config.profile.step_range:
        writers.append(Profiler(os.path.join(model_dir, "train"), *config.profile.step_range))
    run_callbacks.in_order += writers
    run_callbacks.closeables += writers
