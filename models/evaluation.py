"""Evaluation of a trained run: loss, accuracy and other scores, precision and recall per class, confusion matrix.

evaluation = evaluate_run("runs/first")
print(format_text(evaluation))
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
from absl import logging

from evenkeel.models.config import StrategyConfig, TrainConfig
from evenkeel.models.distribute import strategy
from evenkeel.models.run import run_data, run_directory
from evenkeel.models.run.checkpoints import Checkpoints, find_checkpoint, read_state
from evenkeel.models.telemetry.scores import precision_per_class, recall_per_class
from evenkeel.models.training.batches import count_steps_per_epoch, create_statistics_batches, distribute_evaluation
from evenkeel.models.training.build_model import configure_process, create_model
from evenkeel.models.training.stable_model import StableModel
from evenkeel.models.training.validation import evaluate
from evenkeel.pipeline import dataset
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.reading.reader import evaluation_steps


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of evaluating a checkpoint.

    Attributes:
      checkpoint: path of the evaluated checkpoint.
      loss: mean loss over the images.
      matrix: confusion matrix, counts [classes, classes]; rows are true classes, columns are predicted classes.
      classes: names of the classes.
      scores: {name: value}, see `scores.compute_scores`.
    """

    checkpoint: str
    loss: float
    matrix: np.ndarray
    classes: tuple[str, ...]
    scores: dict[str, float]

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.matrix, dtype=np.float64) / self.matrix.sum(dtype=np.float64))


@dataclasses.dataclass(frozen=True, eq=False)
class RestoredRun:
    """The model of a run, restored from a checkpoint, and the data to evaluate it on.

    Attributes:
      config: the run's configuration, with the requested split as validation split.
      checkpoint: path of the restored checkpoint.
      data: the data set.
      model: the compiled model.
      batches, steps: the evaluation batches and their number.
    """

    config: TrainConfig
    checkpoint: str
    data: Dataset
    model: StableModel
    batches: Any
    steps: int

    def evaluate(self) -> Evaluation:
        loss = evaluate(self.model, self.batches, self.steps)["loss"]
        return Evaluation(self.checkpoint, loss, self.model.confusion_matrix, self.data.classes, self.model.scores)


def evaluate_run(model_dir: str, checkpoint: str = "best", split: str = "") -> Evaluation:
    """Evaluates a checkpoint of a run; takes the arguments of `restore_run` and raises the same errors.

    Example:

        print(evenkeel.evaluate_run("runs/first").accuracy)
    """
    return restore_run(model_dir, checkpoint, split).evaluate()


def restore_run(model_dir: str, checkpoint: str = "best", split: str = "", one_replica: bool = False) -> RestoredRun:
    """Restores the model of a run.

    Args:
      model_dir: directory of the run.
      checkpoint: "best" or "last".
      split: the split to evaluate on; "" is the validation split of the run.
      one_replica: use one device instead of the devices that the run was trained on.

    Raises:
      UsageError: there is no such run, checkpoint or split, or the images have a class that the run does not know.
    """
    config = run_directory.read_config(model_dir)
    if split:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, validation_split=split, fold=""))
    if one_replica:
        config = dataclasses.replace(config, strategy=StrategyConfig(name="one"))
    path = find_checkpoint(os.path.join(model_dir, "checkpoints"), checkpoint)
    devices = strategy.create_strategy(config.strategy)
    shard = strategy.replica_shard(devices, config.data.batch_size)
    configure_process(config)
    data = load_run_images(model_dir, path, config, own_splits=not split)
    steps_per_epoch = count_steps_per_epoch(config, data)
    model = create_model(config, data, devices, steps_per_epoch)
    Checkpoints(os.path.dirname(path), model).restore(path)
    evaluation = distribute_evaluation(config, data, devices, shard)
    model.statistics_batches = create_statistics_batches(config, data, devices, shard, steps_per_epoch)
    return RestoredRun(config, path, data, model, evaluation, evaluation_steps(data.validation, shard))


def load_run_images(model_dir: str, checkpoint: str, config: TrainConfig, own_splits: bool) -> Dataset:
    """The images that lie at the run's source now, with the classes and the normalization of the checkpoint.

    Warns if the images are not those of the run; with `own_splits` off, only the classes are compared.

    Raises:
      UsageError: the images have a class that the run does not know.
    """
    data = dataset.load_dataset(config.data)
    state = read_state(checkpoint).get("data")
    stored = run_data.from_state(state) if state else run_data.read_run_data(model_dir)
    if stored is None:
        logging.warning("%s does not say what its classes are: those of the data as it is now are taken", model_dir)
        return data
    # Another split to evaluate leaves nothing held out of the training images, so neither split is the run's.
    uses = run_data.USES if own_splits else ()
    applied = stored.apply(data)
    for change in run_data.find_changes(model_dir, stored, config.data, data, uses):
        logging.warning("the data has changed since the run was trained: %s", change)
    return applied


def format_text(evaluation: Evaluation) -> str:
    """The evaluation as text for a terminal."""
    matrix, classes = evaluation.matrix, evaluation.classes
    name_width = max(5, *map(len, classes))
    lines = [
        f"{matrix.sum():.0f} images, {evaluation.checkpoint}",
        f"accuracy {evaluation.accuracy:.4f}  loss {evaluation.loss:.4f}",
        "  ".join(f"{name} {value:.4f}" for name, value in evaluation.scores.items()),
        "",
        f"{'class':<{name_width}}  precision  recall  images",
    ]
    rows = zip(classes, precision_per_class(matrix), recall_per_class(matrix), matrix.sum(axis=1), strict=True)
    lines += [
        f"{name:<{name_width}}  {precision:9.4f}  {recall:6.4f}  {count:6.0f}"
        for name, precision, recall, count in rows
    ]
    cell_width = max(4, *(len(f"{count:.0f}") for count in matrix.flat))
    lines += ["", "confusion matrix: a row per true class, a column per predicted class in the same order"]
    for name, row in zip(classes, matrix, strict=True):
        lines.append(f"{name:<{name_width}}  " + " ".join(f"{count:>{cell_width}.0f}" for count in row))
    return "\n".join(lines)
