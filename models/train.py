"""train(config, model_dir): the whole run in order; the one composer. Read this first.

summary = train(TrainConfig(epochs=3), "runs/first")
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import tensorflow as tf
from absl import logging

from evenkeel.models.callbacks import Attending, attend
from evenkeel.models.config import TrainConfig, config_hash
from evenkeel.models.distribute import strategy
from evenkeel.models.distribute.collective import (
    WorkerLost,
    agreed,
    check_alike,
    summed,
    together,
)
from evenkeel.models.distribute.io_errors import UNWRITTEN, reason
from evenkeel.models.errors import TrainingFailed
from evenkeel.models.preflight import preflight
from evenkeel.models.training import run_directory
from evenkeel.models.training.build_model import create_model, evaluate, set_up, steps_in_epoch
from evenkeel.models.training.checkpoints import Checkpoints, step_of, steps
from evenkeel.models.training.preemption import Interrupted, Interruption, LateValidation
from evenkeel.models.training.stable_model import StableModel
from evenkeel.models.training.summary import summarize
from evenkeel.pipeline import build, dataset, service
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.shuffle import ReplicaShard
from evenkeel.pipeline.reading.reader import evaluation_steps
from evenkeel.pipeline.system.atomic_write import write_text

STATISTICS_STEPS = 100  # an error of the mean of a tenth of what one batch has


def train(
    config: TrainConfig,
    model_dir: str,
    resume: bool = False,
    overwrite: bool = False,
    allow_config_change: bool = False,
) -> dict[str, Any]:
    """Trains as `config` says, in `model_dir`; returns what summary.json holds.

    `resume` goes on from the newest checkpoint that is whole; damaged ones are set aside. The configuration must be
    the one it was begun with, but for the devices, unless `allow_config_change`. `overwrite` begins anew.

    `status` is `completed`, `stopped_early`, `preempted` (a signal, named by `signal`, or another worker is gone) or
    `failed`.

    Raises:
      UsageError: bad input, here or of another worker; nothing has been written but what says so of a damaged
        checkpoint.
      WorkerLost: another worker has gone before training began.
    """
    devices = strategy.create(config.strategy)
    chief = strategy.is_chief(devices)
    with together(devices):
        check_alike(devices, [int(resume), *bytes.fromhex(config_hash(config))[:4]])
        with agreed(devices):
            if chief:  # the others may come when it has made the directory
                run_directory.check(model_dir, config, resume, overwrite, allow_config_change)
            share = strategy.share(devices, config.data.batch_size)
            set_up(config)
            if config.data.service:
                service.wait_for_workers(config.data)
            data = dataset.load_dataset(config.data)
            going_on = resume and bool(steps(os.path.join(model_dir, "checkpoints")))
            # Before anything is made of the seed. A resumed run was told; the other workers would say the same.
            wanted = config.preflight != "off" and chief and not going_on
            findings, of_images = preflight.before(config, data, devices) if wanted else ([], None)
        steps_per_epoch = steps_in_epoch(config, data)
        model = create_model(config, data, devices, steps_per_epoch)
        checkpoints = Checkpoints(os.path.join(model_dir, "checkpoints"), model, config.checkpoint.keep)
        state = restore(checkpoints, devices) if resume else None
        if state and preflight.is_pending(state) and chief:
            of_images = preflight.of_images(config, data)
        with agreed(devices):
            if chief:
                run_directory.create(model_dir, config, data.skipped, resume)
            images = first_images(config, data, share) if chief else None

    training, evaluation = batches(config, data, devices, share, start_step=model.step)
    validation_steps = evaluation_steps(data.validation, share)
    model.statistics_batches = statistics_batches(config, data, devices, share, steps_per_epoch)
    attending = attend(config, model_dir, checkpoints, data, steps_per_epoch, state, chief)
    if attending.board and images is not None:
        attending.board.write_start(model.step, images, config)
        preflight.tell(findings, attending.incidents)
        if of_images:
            attending.tell_of(of_images)
    interruption = Interruption(devices)
    callbacks = [*attending.in_order, interruption.callback]
    model.resume_at = epoch, step_of_epoch = divmod(model.trained_steps, steps_per_epoch)
    if state and state.get("validating") and not step_of_epoch:  # else a rollback at its end has made it unfinished
        callbacks.append(LateValidation(evaluation, validation_steps, epoch - 1, callbacks[:]))

    begun = time.perf_counter()
    fitting: dict[str, Any] = {
        "steps_per_epoch": steps_per_epoch,
        "epochs": epoch if attending.stopper.stopped else config.epochs,
        "validation_data": evaluation,
        "validation_steps": validation_steps,
        "callbacks": callbacks,
    }
    with interruption:
        status, final, extra = fitted(model, training, fitting, attending)
    wall, best = time.perf_counter() - begun, attending.checkpointer.best
    skipped = len(data.skipped)
    summary = summarize(config, status, model, steps_per_epoch, attending.meter, final, best, wall, skipped)
    summary.update(extra)
    if chief:
        try:
            write_text(os.path.join(model_dir, "summary.json"), json.dumps(summary, indent=2) + "\n")
        except UNWRITTEN as error:
            logging.error("summary.json could not be written in %s: %s", model_dir, reason(error))
    return summary


def fitted(
    model: StableModel, training: Any, fitting: dict[str, Any], attending: Attending
) -> tuple[str, dict[str, float] | None, dict[str, Any]]:
    """Runs `fit` to its end, whatever that is: (status, the last validation, what a summary says beside)."""
    devices, checkpointer = model.distribute_strategy, attending.checkpointer
    status, final, extra, gone = "completed", None, {}, ""
    try:
        with together(devices):
            try:
                history = model.fit(training, verbose=0, **fitting).history
                batches, count = fitting["validation_data"], fitting["validation_steps"]
                final = last_result(history) or evaluate(model, batches, count)
                if attending.stopper.stopped:
                    status = "stopped_early"
            except Interrupted as interrupted:
                attending.in_haste()
                checkpointer.save(interrupted.validating)
                status, extra = "preempted", {"signal": signal.Signals(interrupted.number).name}
    except TrainingFailed as failure:
        status, extra = "failed", {"reason": str(failure)}
    except WorkerLost as loss:
        status, gone = "preempted", str(loss)
    finally:
        attending.close()
    if gone:
        last = checkpointer.checkpoints.last() or "the start, as there is no checkpoint"
        return status, None, {"reason": f"{gone}: start all again with --resume; they go on from {last}."}
    status, more = written_by_all(status, attending, extra)
    return status, final, {**extra, **more}


def written_by_all(status: str, attending: Attending, extra: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(status, reason) where the last checkpoint could not be written, here or by another worker."""
    failure, checkpoints = attending.checkpointer.failure, attending.checkpointer.checkpoints
    devices = checkpoints.model.distribute_strategy
    try:
        with together(devices):
            (failed,) = summed(devices, [int(bool(failure))])
    except WorkerLost:  # all has been done, and it may have been quicker to end
        failed = bool(failure)
    if not failed:
        return status, {}
    before = f"{extra['reason']} And " if "reason" in extra else ""
    return (
        "preempted" if status == "preempted" else "failed",
        {"reason": f"{before}{unwritten(failure or 'by another worker: look at what it says', checkpoints)}"},
    )


def batches(config: TrainConfig, data: Dataset, devices: tf.distribute.Strategy, share: ReplicaShard, start_step: int):
    """(training, evaluation) batches for the strategy's replicas, each fed its own rows.

    Not `experimental_distribute_dataset`: it would serialize the graph, and the mapped shards with it.
    """
    # Said to be endless, as it is (2^62 batches): else workers tell each other before every step that there is one.
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    several = strategy.of_several(devices)

    def own(_: tf.distribute.InputContext) -> tf.data.Dataset:
        ds = build.training_batches(data, config.data, config.seed, share, start_step)
        return ds.apply(endless) if several else ds

    training = devices.distribute_datasets_from_function(own)
    evaluation = devices.distribute_datasets_from_function(
        lambda _: build.evaluation_batches(data.validation, config.data, share)
    )
    return training, evaluation


def statistics_batches(
    config: TrainConfig, data: Dataset, devices: tf.distribute.Strategy, share: ReplicaShard, steps_per_epoch: int
) -> tuple[Any, int] | None:
    """Training batches to recompute BatchNorm's statistics with, and how many; None where nothing asks for them."""
    if config.averaging.name != "swa":
        return None
    training, _ = batches(config, data, devices, share, start_step=0)
    return training, min(steps_per_epoch, STATISTICS_STEPS)


def first_images(config: TrainConfig, data: Dataset, share: ReplicaShard):
    """The augmented images of this process's first batch, uint8 [b, s, s, c].

    Raises:
      UsageError: the workers of `config.data.service` cannot make it.
    """
    batches = build.training_batches(data, config.data, config.seed, share)
    try:
        return next(iter(batches))[0].numpy()
    except tf.errors.OpError as error:
        if not config.data.service:
            raise
        raise UsageError(
            f"data.service ({config.data.service}): {' '.join(error.message.split())}; its workers open the shards by"
            " the same paths as the trainer."
        ) from error


def unwritten(failure: str, checkpoints: Checkpoints) -> str:
    """What a summary says of a run whose last checkpoint could not be written."""
    last = checkpoints.last() or "the start, as there is none"
    return f"the last checkpoint could not be written ({failure}): make room, then go on with --resume from {last}."


def restore(checkpoints: Checkpoints, devices: tf.distribute.Strategy) -> dict[str, Any]:
    """Puts the newest checkpoint that is whole into the model; a run that was killed before its first begins again.

    Of several workers the chief looks for it, and the others take the same: they share the directory.

    Raises:
      UsageError: there were some, and none is whole; or another worker does not see what the chief sees.
    """
    found, damaged = (checkpoints.newest(), checkpoints.damaged()) if strategy.is_chief(devices) else (None, [])
    step = step_of(found) if found else 0
    known, unusable, *digits = summed(devices, [int(bool(found)), int(bool(damaged)), *divmod(step, 10**6)])
    if known:
        path = checkpoints.path(digits[0] * 10**6 + digits[1])
        with agreed(devices):
            if not tf.io.gfile.exists(path):
                raise UsageError(f"there is no {path} here, and the chief has it: all workers must share model_dir.")
        return checkpoints.restore(path)
    if unusable:
        raise UsageError(f"--resume: no checkpoint in {checkpoints.directory} is whole; use --overwrite.")
    if strategy.is_chief(devices):
        logging.warning("--resume: there is no checkpoint in %s yet: beginning anew", checkpoints.directory)
    return {}


def last_result(history: dict[str, list[float]]) -> dict[str, float] | None:
    """Loss and accuracy on validation after the last epoch."""
    if "val_loss" not in history:
        return None
    return {"loss": history["val_loss"][-1], "accuracy": history["val_accuracy"][-1]}
