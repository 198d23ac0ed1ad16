"""The callbacks of a run, in the order in which they act, and what a checkpoint keeps of each.

attending = attend(config, model_dir, checkpoints, data, steps_per_epoch, state, chief)
model.fit(..., callbacks=attending.in_order)
attending.close()
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import tf_keras as keras

from evenkeel.models.config import TrainConfig
from evenkeel.models.preflight.preflight import OfImages, Telling
from evenkeel.models.stability.guard import StabilityGuard
from evenkeel.models.telemetry.incidents import Incidents
from evenkeel.models.telemetry.progress import Progress
from evenkeel.models.telemetry.tensorboard import Profiler, TensorBoard
from evenkeel.models.training.checkpoints import Checkpointer, Checkpoints, Stateful
from evenkeel.models.training.early_stopping import EarlyStopping
from evenkeel.models.training.summary import Meter
from evenkeel.pipeline.dataset import Dataset


@dataclasses.dataclass
class Attending:
    """`in_order`: what a step left is written before anything may end the run; `closing` is closed after it.

    `board` is None where this process writes nothing.
    """

    incidents: Incidents
    meter: Meter
    stopper: EarlyStopping
    checkpointer: Checkpointer
    board: TensorBoard | None
    in_order: list[keras.callbacks.Callback]
    closing: list[Any]
    telling: Telling | None = None

    def tell_of(self, of_images: OfImages) -> None:
        """Preflight's findings of the images, when they are there."""
        self.telling = Telling(of_images, self.incidents)
        self.checkpointer.beside["preflight"] = self.telling
        # First, as what is told goes to the board, which is flushed before a checkpoint.
        self.in_order.insert(0, self.telling)
        self.checkpointer.before_save.insert(0, self.telling.finish)

    def in_haste(self) -> None:
        """From now on nothing is waited for that a run which goes on can do again."""
        if self.telling:
            self.telling.in_haste = True

    def close(self) -> None:
        """Waits for the last checkpoint, and closes what is written beside it."""
        if self.telling:
            self.telling.finish()
        self.checkpointer.finish()
        for each in self.closing:
            each.close()


def attend(
    config: TrainConfig,
    model_dir: str,
    checkpoints: Checkpoints,
    data: Dataset,
    steps_per_epoch: int,
    state: dict[str, Any] | None,
    chief: bool,
) -> Attending:
    """What `config` asks for; with the `state` of the checkpoint that the run goes on from, None where it begins."""
    known, start = state or {}, checkpoints.model.step
    told = known.get("incidents", {"counts": {}, "lines": 0}) if state is not None else None
    incidents = Incidents(os.path.join(model_dir, "incidents.jsonl") if chief else None, told)
    meter = Meter(config.data.batch_size, incidents, known.get("meter"))
    stopper = EarlyStopping(config.early_stopping, known.get("early_stopping") if config.early_stopping else None)
    beside: dict[str, Stateful] = {"incidents": incidents, "meter": meter}
    checkpointer = Checkpointer(checkpoints, config.checkpoint, known.get("best"), beside)
    found = Attending(incidents, meter, stopper, checkpointer, None, [meter], [])
    if config.guard != "off":
        warmup = round(config.optimizer.warmup_epochs * steps_per_epoch)
        guard = StabilityGuard(config.guard == "act", incidents, warmup, known.get("guard"))
        checkpointer.beside["guard"] = guard
        found.in_order.append(guard)
    if chief:
        found.board = TensorBoard(model_dir, config.data.batch_size, data.classes, start)
        incidents.listeners.append(found.board.incident)
        checkpointer.before_save.append(found.board.flush)
        # Shards are mapped: one that is cut short while it is read ends the process, and this says where to look.
        trained_on = f"{len(data.train)} images of {os.path.dirname(data.train.shards[0])}"
        written: list[Any] = [found.board, Progress(config.data.batch_size, trained_on)]
        if config.profile.range:
            written.append(Profiler(os.path.join(model_dir, "train"), *config.profile.range))
        found.in_order += written
        found.closing += written
    if config.early_stopping:
        checkpointer.beside["early_stopping"] = stopper
        found.in_order.append(stopper)
    found.in_order.append(checkpointer)
    return found
