"""TFX's Trainer component: from what it hands over to a run, and to the SavedModel that it expects.

    Trainer(run_fn="models.export.export.run_fn", examples=..., train_args=..., eval_args=...,
            custom_config={"options": {"model.name": "resnet18", "data.image_size": 64}})

`fn_args` is any object with the fields of `tfx.components.FnArgs` that are used here. TFX itself is not needed.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

import tensorflow_datasets as tfds

from evenkeel.models.config import TrainConfig
from evenkeel.models.doctor.replay import changed
from evenkeel.models.export import tfrecords
from evenkeel.pipeline.errors import require

# What `fn_args` itself says; several workers would all push a model.
TAKEN = ("data.source", "data.train_split", "data.validation_split", "epochs", "strategy.")


class FnArgs(Protocol):
    """`train_files` and `eval_files` are patterns of TFRecord files, steps may be None."""

    train_files: list[str]
    eval_files: list[str]
    train_steps: int | None
    eval_steps: int | None
    serving_model_dir: str
    model_run_dir: str
    custom_config: dict[str, Any] | None


def configured(fn_args: FnArgs) -> TrainConfig:
    """The run that `fn_args` asks for; its records are prepared below `model_run_dir`.

    `custom_config` may hold `options` ({dotted name: value}, as in flags) and the names of the features, `image` and
    `label`; what else stands there is TFX's own. `train_steps` come to the nearest number of whole passes, one at
    least, and the images of `eval_steps` are validated.

    Raises:
      UsageError: a bad option, or records that cannot be read.
    """
    custom = fn_args.custom_config or {}
    options = custom.get("options") or {}
    taken = [name for name in options if name.startswith(TAKEN)]
    require(not taken, f"options {taken[:1]} of custom_config cannot be set: TFX gives files and steps.")
    for name in ("base_model", "hyperparameters"):
        require(not getattr(fn_args, name, None), f"{name} is given, and cannot be used: give options instead.")
    patterns = {"train": list(fn_args.train_files), "validation": list(fn_args.eval_files)}
    names = {name: custom[name] for name in ("image", "label") if name in custom}
    directory = tfrecords.prepare(patterns, os.path.join(fn_args.model_run_dir, "records"), **names)
    return _as_long(changed(TrainConfig(), {**options, "data.source": directory}), fn_args)


def _as_long(config: TrainConfig, fn_args: FnArgs) -> TrainConfig:
    splits = tfds.builder_from_directory(config.data.source).info.splits
    flags: dict[str, Any] = {}
    if fn_args.train_steps:
        in_a_pass = max(1, round(splits["train"].num_examples / config.data.batch_size))
        flags["epochs"] = max(1, round(fn_args.train_steps / in_a_pass))
    if fn_args.eval_steps:
        images = min(fn_args.eval_steps * config.data.batch_size, splits["validation"].num_examples)
        flags["data.validation_split"] = f"validation[:{images}]"
    return changed(config, flags)
