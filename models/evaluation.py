"""How good a run's model is: accuracy and other scores, precision and recall per class, confusion matrix.

evaluation = evaluate_run("runs/first")
print(text(evaluation))
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
from absl import logging

from evenkeel.models.config import StrategyConfig, TrainConfig
from evenkeel.models.distribute import strategy
from evenkeel.models.telemetry.scores import precision, recall
from evenkeel.models.train import batches, statistics_batches
from evenkeel.models.training import checksums, run_directory
from evenkeel.models.training.build_model import create_model, evaluate, set_up, steps_in_epoch
from evenkeel.models.training.checkpoints import Checkpoints, read_state, steps
from evenkeel.models.training.stable_model import StableModel
from evenkeel.pipeline import dataset
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.reading.reader import evaluation_steps


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """`matrix`: counts [classes, classes] by true (row) and predicted class (column), `scores` what that comes to."""

    checkpoint: str
    loss: float
    matrix: np.ndarray
    classes: tuple[str, ...]
    scores: dict[str, float]

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.matrix, dtype=np.float64) / self.matrix.sum(dtype=np.float64))


@dataclasses.dataclass(frozen=True, eq=False)
class Restored:
    """A run's model as a checkpoint holds it, and the data it is evaluated on."""

    config: TrainConfig
    checkpoint: str
    data: Dataset
    model: StableModel
    batches: Any
    steps: int

    def evaluate(self) -> Evaluation:
        result = evaluate(self.model, self.batches, self.steps)
        matrix, scores = self.model.confusion_matrix, self.model.scores
        return Evaluation(self.checkpoint, result["loss"], matrix, self.data.classes, scores)


def restored(model_dir: str, checkpoint: str = "best", split: str = "", one_replica: bool = False) -> Restored:
    """The `best` or the `last` checkpoint of a run, with its validation split, or with `split`.

    On the devices that it was trained on, or on `one_replica`.

    Raises:
      UsageError: there is no such run, checkpoint or split.
    """
    config = run_directory.read_config(model_dir)
    if split:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, validation_split=split))
    if one_replica:
        config = dataclasses.replace(config, strategy=StrategyConfig(name="one"))
    path = chosen_checkpoint(os.path.join(model_dir, "checkpoints"), checkpoint)
    devices = strategy.create(config.strategy)
    share = strategy.share(devices, config.data.batch_size)
    set_up(config)
    data = dataset.load_dataset(config.data)
    model = create_model(config, data, devices, steps_in_epoch(config, data))
    Checkpoints(os.path.dirname(path), model).restore(path)
    _, evaluation = batches(config, data, devices, share, start_step=0)
    model.statistics_batches = statistics_batches(config, data, devices, share, steps_in_epoch(config, data))
    return Restored(config, path, data, model, evaluation, evaluation_steps(data.validation, share))


def evaluate_run(model_dir: str, checkpoint: str = "best", split: str = "") -> Evaluation:
    """Evaluates what `restored` restores, and raises what it does."""
    return restored(model_dir, checkpoint, split).evaluate()


def chosen_checkpoint(directory: str, which: str) -> str:
    """The path of the `best` or `last` checkpoint.

    Raises:
      UsageError: there is none.
    """
    found = steps(directory)
    while found and (wrong := checksums.fault(os.path.join(directory, f"step-{found[-1]:08d}"))):
        logging.warning("checkpoint step-%08d is damaged (%s): taking the one before it", found.pop(), wrong)
    if not found:
        raise UsageError(f"{directory} holds no complete checkpoint: train first, or look for the right model_dir.")
    last = os.path.join(directory, f"step-{found[-1]:08d}")
    best = read_state(last)["best"] if which == "best" else None
    if best and best["step"] not in found:
        raise UsageError(f"{directory} has lost the best checkpoint (step {best['step']}): use --checkpoint=last.")
    return os.path.join(directory, f"step-{best['step']:08d}") if best else last


def text(evaluation: Evaluation) -> str:
    """As a person reads it."""
    matrix, classes = evaluation.matrix, evaluation.classes
    wide = max(5, *map(len, classes))
    lines = [
        f"{matrix.sum():.0f} images, {evaluation.checkpoint}",
        f"accuracy {evaluation.accuracy:.4f}  loss {evaluation.loss:.4f}",
        "  ".join(f"{name} {value:.4f}" for name, value in evaluation.scores.items()),
        "",
        f"{'class':<{wide}}  precision  recall  images",
    ]
    rows = zip(classes, precision(matrix), recall(matrix), matrix.sum(axis=1), strict=True)
    lines += [
        f"{name:<{wide}}  {precision:9.4f}  {recall:6.4f}  {count:6.0f}" for name, precision, recall, count in rows
    ]
    cell = max(4, *(len(f"{count:.0f}") for count in matrix.flat))
    lines += ["", "confusion matrix: a row per true class, a column per predicted class in the same order"]
    for name, row in zip(classes, matrix, strict=True):
        lines.append(f"{name:<{wide}}  " + " ".join(f"{count:>{cell}.0f}" for count in row))
    return "\n".join(lines)
