"""The directory of a run: checks whether a configuration may run in it, creates it, and reads its config.json."""

from __future__ import annotations

import json
import os

import tensorflow as tf
from absl import logging

from evenkeel.models.config import TrainConfig, config_json, flatten, from_dict
from evenkeel.models.distribute.io_errors import WRITE_ERRORS, summarize_error
from evenkeel.models.run import run_data
from evenkeel.models.run.run_data import RunData
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.system.atomic_write import write_text

RUN_FILES = (
    "config.json",
    run_data.DATA_FILE,
    run_data.CONTENTS_FILE,
    "checkpoints",
    "train",
    "validation",
    "incidents.jsonl",
    "skipped.txt",
    "summary.json",
    "test.json",
    "report.html",
    "diagnosis.json",
)


def check(
    model_dir: str, config: TrainConfig, resume: bool, overwrite: bool, allow_config_change: bool = False
) -> None:
    """Checks that `config` may run in `model_dir`; writes nothing.

    A run may always be resumed on other devices (`strategy.*`). With `allow_config_change` any option may differ.

    Raises:
      UsageError: the directory holds a run with another configuration; or it holds this run, and neither `resume` nor
        `overwrite` is set; or there is no run to resume.
    """
    if not tf.io.gfile.exists(os.path.join(model_dir, "config.json")):
        if resume:
            raise UsageError(f"--resume: model_dir ({model_dir}) holds no run; leave --resume out to start one.")
        return
    if overwrite:
        return
    differences = _differences(read_config(model_dir), config)
    if differences and resume and allow_config_change:
        logging.warning("resuming with another configuration: %s", differences)
        return
    remedies = (
        f"go on with --resume --config={os.path.join(model_dir, 'config.json')},"
        " start over with --overwrite, or choose another --model_dir."
    )
    if differences:
        raise UsageError(
            f"model_dir ({model_dir}) holds a run with another configuration: {differences}: {remedies}"
            + (" --allow_config_change goes on with the new one." if resume else "")
        )
    if not resume:
        raise UsageError(f"model_dir ({model_dir}) already holds a run: {remedies}")


def _differences(stored: TrainConfig, given: TrainConfig) -> str:
    """Lists the options in which the configurations differ, except the devices; "" if they are equal."""
    there, here = flatten(stored), flatten(given)
    return "; ".join(
        f"{name} is {there[name]} in the run, {here[name]} now"
        for name in here
        if there[name] != here[name] and not name.startswith("strategy.")
    )


def create(model_dir: str, config: TrainConfig, data: Dataset, resume: bool) -> RunData:
    """Creates the directory with config.json and what describes `data`; returns the description of `data`.

    Without `resume` it first removes the files of an earlier run. The images that cannot be used are listed in
    skipped.txt.

    Raises:
      UsageError: the directory cannot be written to.
    """
    if not resume:
        for name in RUN_FILES:
            path = os.path.join(model_dir, name)
            if tf.io.gfile.isdir(path):
                tf.io.gfile.rmtree(path)
            elif tf.io.gfile.exists(path):
                tf.io.gfile.remove(path)
    description = run_data.describe_data(config.data, data)
    try:
        tf.io.gfile.makedirs(model_dir)
        write_text(os.path.join(model_dir, "config.json"), config_json(config) + "\n")
        run_data.write_run_data(model_dir, description, data)
    except WRITE_ERRORS as error:
        raise UsageError(
            f"model_dir ({model_dir}) cannot be written to: {summarize_error(error)}; choose another."
        ) from error
    if data.skipped:
        write_text(os.path.join(model_dir, "skipped.txt"), "\n".join(data.skipped) + "\n")
    return description


def read_config(model_dir: str) -> TrainConfig:
    """The configuration that the run in `model_dir` was started with.

    Raises:
      UsageError: there is no config.json, or it does not hold a configuration.
    """
    path = os.path.join(model_dir, "config.json")
    try:
        with tf.io.gfile.GFile(path) as file:
            return from_dict(TrainConfig, json.loads(file.read()))
    except tf.errors.OpError as error:
        raise UsageError(
            f"model_dir ({model_dir}) holds no run: there is no config.json in it; choose another."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not JSON ({error}): restore it or start over in another --model_dir.") from error
