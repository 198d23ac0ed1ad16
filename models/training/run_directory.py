"""A run's directory: whether it can be used, and what lies in it."""

from __future__ import annotations

import json
import os

import tensorflow as tf
from absl import logging

from evenkeel.models.config import (
    TrainConfig,
    config_json,
    flat,
    from_dict,
)
from evenkeel.models.distribute.io_errors import reason
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.system.atomic_write import write_text

CONTENTS = (
    "config.json",
    "checkpoints",
    "train",
    "validation",
    "incidents.jsonl",
    "skipped.txt",
    "summary.json",
    "report.html",
    "diagnosis.json",
)


def check(
    model_dir: str, config: TrainConfig, resume: bool, overwrite: bool, allow_config_change: bool = False
) -> None:
    """Whether `config` may run in `model_dir`; writes nothing.

    On which devices a run goes on is free. So is all else with `allow_config_change`.

    Raises:
      UsageError: it holds another run, the same run without `resume` or `overwrite`, or nothing to resume.
    """
    if not tf.io.gfile.exists(os.path.join(model_dir, "config.json")):
        if resume:
            raise UsageError(f"--resume: model_dir ({model_dir}) holds no run; leave --resume out to start one.")
        return
    if overwrite:
        return
    there, here = flat(read_config(model_dir)), flat(config)
    differing = [
        f"{name} is {there[name]} there, {here[name]} here"
        for name in here
        if there[name] != here[name] and not name.startswith("strategy.")
    ]
    if differing and resume and allow_config_change:
        logging.warning("going on with another configuration: %s", "; ".join(differing))
        return
    ways = (
        f"go on with --resume --config={os.path.join(model_dir, 'config.json')},"
        " start over with --overwrite, or choose another --model_dir."
    )
    if differing:
        raise UsageError(
            f"model_dir ({model_dir}) holds a run with another configuration: {'; '.join(differing)}: {ways}"
            + (" --allow_config_change goes on with the new one." if resume else "")
        )
    if not resume:
        raise UsageError(f"model_dir ({model_dir}) holds this run already: {ways}")


def create(model_dir: str, config: TrainConfig, skipped: tuple[str, ...], resume: bool) -> None:
    """Makes the directory with config.json; without `resume`, an earlier run's files go first."""
    if not resume:
        for name in CONTENTS:
            path = os.path.join(model_dir, name)
            if tf.io.gfile.isdir(path):
                tf.io.gfile.rmtree(path)
            elif tf.io.gfile.exists(path):
                tf.io.gfile.remove(path)
    try:
        tf.io.gfile.makedirs(model_dir)
        write_text(os.path.join(model_dir, "config.json"), config_json(config) + "\n")
    except (OSError, tf.errors.OpError) as error:
        raise UsageError(f"model_dir ({model_dir}) cannot be written to: {reason(error)}; choose another.") from error
    if skipped:
        write_text(os.path.join(model_dir, "skipped.txt"), "\n".join(skipped) + "\n")


def read_config(model_dir: str) -> TrainConfig:
    """The configuration a run was started with.

    Raises:
      UsageError: there is none, or it is not one.
    """
    path = os.path.join(model_dir, "config.json")
    try:
        with tf.io.gfile.GFile(path) as file:
            return from_dict(TrainConfig, json.loads(file.read()))
    except tf.errors.OpError as error:
        raise UsageError(f"model_dir ({model_dir}) holds no run: there is no config.json in it.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not JSON ({error}): restore it or start over in another --model_dir.") from error
