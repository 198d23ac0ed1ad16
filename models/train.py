"""Trains a whole run, from the configuration to summary.json. Read this module first.

summary = train(TrainConfig(epochs=3), "runs/first")
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import logging

from evenkeel.models.callbacks import RunCallbacks, build_callbacks
from evenkeel.models.config import TrainConfig, config_hash
from evenkeel.models.distribute import strategy
from evenkeel.models.distribute.collective import (
    WorkerLost,
    all_or_none,
    all_reduce_sum,
    check_equal,
    raise_on_worker_loss,
)
from evenkeel.models.distribute.io_errors import WRITE_ERRORS, summarize_error
from evenkeel.models.errors import TrainingFailed
from evenkeel.models.networks.users_network import read_files_again
from evenkeel.models.preflight import preflight
from evenkeel.models.run import run_directory
from evenkeel.models.run.checkpoints import Checkpoints, checkpoint_steps, parse_step
from evenkeel.models.run.preemption import Preempted, PreemptionHandler
from evenkeel.models.run.run_data import RunData, resume_data
from evenkeel.models.run.summary import summarize
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.models.training.batches import (
    count_steps_per_epoch,
    create_statistics_batches,
    distribute_evaluation,
    distribute_training,
    load_first_images,
)
from evenkeel.models.training.build_model import configure_process, create_model
from evenkeel.models.training.stable_model import StableModel
from evenkeel.models.training.validation import PendingValidation, evaluate
from evenkeel.pipeline import build, dataset, service
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.reading.reader import evaluation_steps
from evenkeel.pipeline.system.atomic_write import write_text


def train(
    config: TrainConfig,
    model_dir: str,
    resume: bool = False,
    overwrite: bool = False,
    allow_config_change: bool = False,
    allow_data_change: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict[str, Any]:
    """Trains as `config` says, with all files in `model_dir`; returns the contents of summary.json.

        summary = evenkeel.train(evenkeel.TrainConfig(epochs=3), "runs/first")
        print(summary["status"], summary["final"]["accuracy"])

    The summary's `status` is `completed`, `stopped_early`, `failed` or `preempted`. A run is preempted by a signal,
    which the entry `signal` names, or because another worker is gone.

    Args:
      config: what to train.
      model_dir: directory of the run.
      resume: continue from the newest undamaged checkpoint; newer damaged checkpoints are renamed. The configuration
        must be the one that the run was started with, except for the devices.
      overwrite: remove an earlier run in `model_dir` and start over.
      allow_config_change: resume with another configuration.
      allow_data_change: resume with other images; the run keeps its classes and its normalization.
      callbacks: your own Keras callbacks; Keras calls them after those of the run.

    Raises:
      UsageError: bad input, here or on another worker. No file has been written, but damaged checkpoints may have been
        renamed.
      WorkerLost: another worker was lost before training began.
    """
    read_files_again()
    run = start_run(config, model_dir, resume, overwrite, allow_config_change, allow_data_change)
    training = distribute_training(run.batches, run.devices)
    evaluation = distribute_evaluation(config, run.data, run.devices, run.shard)
    validation_steps = evaluation_steps(run.data.validation, run.shard)
    run.model.statistics_batches = create_statistics_batches(
        config, run.data, run.devices, run.shard, run.steps_per_epoch
    )
    run_callbacks = start_callbacks(run)
    preemption = PreemptionHandler(run.devices)
    in_order = [*run_callbacks.in_order, *callbacks, preemption.callback]
    epoch, step_of_epoch = run.model.resume_at = divmod(run.model.trained_steps, run.steps_per_epoch)
    # If a rollback at the end of the epoch moved training back into the epoch, validation runs when it ends again.
    if run.state and run.state.get("validating") and not step_of_epoch:
        in_order.append(PendingValidation(evaluation, validation_steps, epoch - 1, in_order[:]))
    fit_arguments: dict[str, Any] = {
        "steps_per_epoch": run.steps_per_epoch,
        "epochs": epoch if run_callbacks.early_stopping.stopped else config.epochs,
        "validation_data": evaluation,
        "validation_steps": validation_steps,
        "callbacks": in_order,
    }
    start = time.perf_counter()
    with preemption:
        outcome = fit(run.model, training, fit_arguments, run_callbacks)
    summary = summarize(
        config,
        outcome.status,
        run.model,
        run.steps_per_epoch,
        run_callbacks.meter,
        outcome.final,
        run_callbacks.checkpointer.best,
        time.perf_counter() - start,
        run.data,
    )
    summary.update(outcome.details)
    if run.chief:
        write_summary(summary, model_dir)
    return summary


@dataclasses.dataclass
class Run:
    """A run before its first step.

    Attributes:
      config, model_dir: as given to `train`.
      devices: the strategy.
      chief: whether this process writes the run's files.
      shard: this process's part of each global batch.
      data: the data set.
      steps_per_epoch: steps between two validations.
      model: the compiled model, restored if the run is resumed.
      checkpoints: the model's checkpoints.
      state: the state in the checkpoint that the run is resumed from, {} if there is none; None for a new run.
      findings: preflight's findings before training.
      image_checks: preflight's checks that run during training; None if there are none.
      batches: the training batches of this process from the model's step on.
      run_data: what `data` means; None on workers that write no files.
      first_images: augmented training images, uint8 [b, size, size, channels]; None on workers that write no files.
    """

    config: TrainConfig
    model_dir: str
    devices: tf.distribute.Strategy
    chief: bool
    shard: ReplicaShard
    data: Dataset
    steps_per_epoch: int
    model: StableModel
    checkpoints: Checkpoints
    state: dict[str, Any] | None
    findings: list[Finding]
    image_checks: preflight.ImageChecks | None
    batches: tf.data.Dataset
    run_data: RunData | None
    first_images: np.ndarray | None


def start_run(
    config: TrainConfig,
    model_dir: str,
    resume: bool,
    overwrite: bool,
    allow_config_change: bool,
    allow_data_change: bool,
) -> Run:
    """Checks everything, loads the data, builds or restores the model, and creates the directory last.

    Raises:
      UsageError, WorkerLost: see `train`.
    """
    devices = strategy.create_strategy(config.strategy)
    chief = strategy.is_chief(devices)
    checkpoint_directory = os.path.join(model_dir, "checkpoints")
    with raise_on_worker_loss(devices):
        check_equal(devices, [int(resume), *bytes.fromhex(config_hash(config))[:4]])
        with all_or_none(devices):
            if chief:  # other workers may get here after the chief has created the directory
                run_directory.check(model_dir, config, resume, overwrite, allow_config_change)
            shard = strategy.replica_shard(devices, config.data.batch_size)
            configure_process(config)
            if config.data.service:
                service.wait_for_workers(config.data)
            data = dataset.load_dataset(config.data)
            if resume:
                data = resume_data(model_dir, config.data, data, allow_data_change)
            findings: list[Finding] = []
            image_checks = None
            # These checks run before anything else uses the seed. A resumed run has reported its findings already, and
            # other workers would only repeat the chief's findings.
            if config.preflight != "off" and chief and not (resume and checkpoint_steps(checkpoint_directory)):
                findings, image_checks = preflight.run_early_checks(config, data, devices)
        steps_per_epoch = count_steps_per_epoch(config, data)
        model = create_model(config, data, devices, steps_per_epoch)
        checkpoints = Checkpoints(checkpoint_directory, model, config.checkpoint.keep)
        state = restore_newest(checkpoints, devices) if resume else None
        if state and preflight.is_pending(state) and chief:
            image_checks = preflight.defer_image_checks(config, data)
        run_data = None
        with all_or_none(devices):
            if chief:
                run_data = run_directory.create(model_dir, config, data, resume)
            # Built once: tracing a long augmentation takes longer than the first steps.
            batches = build.training_batches(data, config.data, config.seed, shard, start_step=model.step)
            first_images = load_first_images(batches, config.data) if chief else None
    return Run(
        config=config,
        model_dir=model_dir,
        devices=devices,
        chief=chief,
        shard=shard,
        data=data,
        steps_per_epoch=steps_per_epoch,
        model=model,
        checkpoints=checkpoints,
        state=state,
        findings=findings,
        image_checks=image_checks,
        batches=batches,
        run_data=run_data,
        first_images=first_images,
    )


def restore_newest(checkpoints: Checkpoints, devices: tf.distribute.Strategy) -> dict[str, Any]:
    """Reads the newest undamaged checkpoint into the model and returns its state; {} if there is no checkpoint yet.

    In a cluster the chief chooses the checkpoint, and all workers read the same one from the shared directory.

    Raises:
      UsageError: all checkpoints are damaged, or this worker cannot see the chief's checkpoint.
    """
    newest, damaged = None, []
    if strategy.is_chief(devices):
        newest, damaged = checkpoints.newest_intact(), checkpoints.damaged_names()
    step = parse_step(newest) if newest else 0
    # The step is sent as two numbers, because sums over the workers are exact only up to 2^24.
    found, unusable, millions, rest = all_reduce_sum(
        devices, [int(bool(newest)), int(bool(damaged)), *divmod(step, 10**6)]
    )
    if found:
        path = checkpoints.path(millions * 10**6 + rest)
        with all_or_none(devices):
            if not tf.io.gfile.exists(path):
                raise UsageError(f"the chief has {path}, but this worker does not: all workers must share model_dir.")
        return checkpoints.restore(path)
    if unusable:
        raise UsageError(
            f"--resume: every checkpoint in {checkpoints.directory} is damaged: start over with --overwrite."
        )
    if strategy.is_chief(devices):
        logging.warning(
            "--resume: there is no checkpoint in %s yet: starting from the beginning", checkpoints.directory
        )
    return {}


def start_callbacks(run: Run) -> RunCallbacks:
    """Creates the run's callbacks, and writes the first images and preflight's findings."""
    run_callbacks = build_callbacks(
        run.config, run.model_dir, run.checkpoints, run.data, run.steps_per_epoch, run.state, run.chief
    )
    if run.run_data:
        run_callbacks.checkpointer.stateful["data"] = run.run_data
    if run_callbacks.board and run.first_images is not None:
        run_callbacks.board.write_start(run.model.step, run.first_images, run.config)
        preflight.report_findings(run.findings, run_callbacks.incidents)
        if run.image_checks:
            run_callbacks.add_image_checks(run.image_checks)
    return run_callbacks


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How training ended.

    Attributes:
      status: see `train`.
      final: loss and accuracy of the last validation; None if `fit` was interrupted.
      details: further entries of the summary: `signal` or `reason`.
    """

    status: str
    final: dict[str, float] | None = None
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


def fit(model: StableModel, training: Any, fit_arguments: dict[str, Any], run_callbacks: RunCallbacks) -> Outcome:
    """Runs `model.fit` and closes the callbacks, whether training completes, stops, fails or is preempted."""
    devices, checkpointer = model.distribute_strategy, run_callbacks.checkpointer
    worker_loss = None
    try:
        with raise_on_worker_loss(devices):
            try:
                history = model.fit(training, verbose=0, **fit_arguments).history
                final = last_validation(history) or evaluate(
                    model, fit_arguments["validation_data"], fit_arguments["validation_steps"]
                )
                outcome = Outcome("stopped_early" if run_callbacks.early_stopping.stopped else "completed", final)
            except Preempted as preempted:
                run_callbacks.hurry()
                checkpointer.save(preempted.validating)
                outcome = Outcome("preempted", details={"signal": signal.Signals(preempted.number).name})
    except TrainingFailed as failure:
        outcome = Outcome("failed", details={"reason": str(failure)})
    except WorkerLost as error:
        worker_loss = error
    finally:
        run_callbacks.close()
    if worker_loss:
        newest = checkpointer.checkpoints.newest() or "the start, as there is no checkpoint"
        reason = f"{worker_loss}: start all workers again with --resume; they go on from {newest}."
        return Outcome("preempted", details={"reason": reason})
    return check_last_checkpoint(outcome, run_callbacks)


def check_last_checkpoint(outcome: Outcome, run_callbacks: RunCallbacks) -> Outcome:
    """Returns `outcome`, with a reason added if this or another worker could not write the last checkpoint.

    In that case the status is `failed`, or stays `preempted`.
    """
    failure, checkpoints = run_callbacks.checkpointer.failure, run_callbacks.checkpointer.checkpoints
    devices = checkpoints.model.distribute_strategy
    try:
        with raise_on_worker_loss(devices):
            (failed,) = all_reduce_sum(devices, [int(bool(failure))])
    except WorkerLost:  # training is over: another worker may simply have ended first
        failed = bool(failure)
    if not failed:
        return outcome
    newest = checkpoints.newest() or "the start, as there is none"
    reason = (
        f"the last checkpoint could not be written ({failure or 'on another worker: see its output'}): make room, then"
        f" go on with --resume from {newest}."
    )
    if "reason" in outcome.details:
        reason = f"{outcome.details['reason']} And {reason}"
    status = "preempted" if outcome.status == "preempted" else "failed"
    return Outcome(status, outcome.final, {**outcome.details, "reason": reason})


def last_validation(history: dict[str, list[float]]) -> dict[str, float] | None:
    """Loss and accuracy of the validation after the last epoch; None if `fit` did not validate."""
    if "val_loss" not in history:
        return None
    return {"loss": history["val_loss"][-1], "accuracy": history["val_accuracy"][-1]}


def write_summary(summary: dict[str, Any], model_dir: str) -> None:
    """Writes summary.json; if this fails, an error is logged."""
    try:
        write_text(os.path.join(model_dir, "summary.json"), json.dumps(summary, indent=2) + "\n")
    except WRITE_ERRORS as error:
        logging.error("summary.json could not be written in %s: %s", model_dir, summarize_error(error))
