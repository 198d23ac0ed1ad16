"""The run function of TFX's Trainer component: trains on the pipeline's examples and leaves a SavedModel for serving.

    Trainer(run_fn="evenkeel.models.export.tfx.run_fn", examples=..., train_args=..., eval_args=...,
            custom_config={"options": {"model.name": "resnet18", "data.image_size": 64}})

TFX itself is not needed: `fn_args` is any object with the fields of `tfx.components.FnArgs` that are used here.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

import tensorflow as tf
import tensorflow_datasets as tfds

from evenkeel.models.config import TrainConfig, with_options
from evenkeel.models.errors import TrainingFailed
from evenkeel.models.export import export, tfrecords
from evenkeel.models.train import train
from evenkeel.pipeline.errors import require

# Options that `fn_args` sets, and the strategy: several workers would all export a model.
RESERVED_OPTIONS = ("data.source", "data.train_split", "data.validation_split", "epochs", "strategy.")


class FnArgs(Protocol):
    """The fields of `tfx.components.FnArgs` that are used.

    Attributes:
      train_files, eval_files: patterns of TFRecord files.
      train_steps, eval_steps: numbers of batches; None for one epoch, and for all validation images.
      serving_model_dir: where the SavedModel goes.
      model_run_dir: where prepared records, the run and exported versions go.
      custom_config: see `build_config`.
    """

    train_files: list[str]
    eval_files: list[str]
    train_steps: int | None
    eval_steps: int | None
    serving_model_dir: str
    model_run_dir: str
    custom_config: dict[str, Any] | None


def run_fn(fn_args: FnArgs) -> None:
    """Trains in `model_run_dir` and puts the SavedModel into `serving_model_dir`; TFX's Trainer calls it.

    When it is called again with the same `model_run_dir`, training continues from the newest checkpoint there.

    Raises:
      UsageError: something in `fn_args` cannot be used, see `build_config`.
      TrainingFailed: the run did not complete.
      ExportRefused: the probabilities of the exported model differ from the trained model's.
    """
    config = build_config(fn_args)
    run, versions = os.path.join(fn_args.model_run_dir, "run"), os.path.join(fn_args.model_run_dir, "exported")
    resume = tf.io.gfile.exists(os.path.join(run, "config.json"))
    summary = train(config, run, resume=resume)
    if summary["status"] not in ("completed", "stopped_early"):
        raise TrainingFailed(f"the run ended as {summary['status']}: {summary.get('reason', summary.get('signal'))}")
    exported = export.export(run, versions)
    with export.report_write_errors(fn_args.serving_model_dir):
        if tf.io.gfile.exists(fn_args.serving_model_dir):
            tf.io.gfile.rmtree(fn_args.serving_model_dir)
        tf.io.gfile.makedirs(os.path.dirname(fn_args.serving_model_dir))
        tf.io.gfile.rename(exported, fn_args.serving_model_dir)


def build_config(fn_args: FnArgs) -> TrainConfig:
    """Returns the configuration that `fn_args` asks for, and converts the records to a data set in `model_run_dir`.

    `custom_config` may have `options` ({dotted name: value}, as in flags) and the names of the features, `image` and
    `label`; other keys belong to TFX. `train_steps` is rounded to whole epochs, at least one; validation uses the
    images of `eval_steps` batches.

    Raises:
      UsageError: a wrong option, or records that cannot be read.
    """
    custom = fn_args.custom_config or {}
    options = custom.get("options") or {}
    reserved = [name for name in options if name.startswith(RESERVED_OPTIONS)]
    require(
        not reserved,
        f"option {''.join(reserved[:1])} cannot be set in custom_config, because run_fn reserves it: remove it.",
    )
    for name in ("base_model", "hyperparameters"):
        require(not getattr(fn_args, name, None), f"{name} is not supported: set options in custom_config instead.")
    patterns = {"train": list(fn_args.train_files), "validation": list(fn_args.eval_files)}
    features = {name: custom[name] for name in ("image", "label") if name in custom}
    directory = tfrecords.convert_records(patterns, os.path.join(fn_args.model_run_dir, "records"), **features)
    return _set_steps(with_options(TrainConfig(), {**options, "data.source": directory}), fn_args)


def _set_steps(config: TrainConfig, fn_args: FnArgs) -> TrainConfig:
    """Returns `config` with the epochs and the validation images that correspond to the steps of `fn_args`."""
    splits = tfds.builder_from_directory(config.data.source).info.splits
    options: dict[str, Any] = {}
    if fn_args.train_steps:
        steps_per_epoch = max(1, round(splits["train"].num_examples / config.data.batch_size))
        options["epochs"] = max(1, round(fn_args.train_steps / steps_per_epoch))
    if fn_args.eval_steps:
        images = min(fn_args.eval_steps * config.data.batch_size, splits["validation"].num_examples)
        options["data.validation_split"] = f"validation[:{images}]"
    return with_options(config, options)
