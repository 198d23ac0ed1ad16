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
import tf_keras as keras
from absl import logging

from models import averaging, losses, network, optimizers, run_directory, strategy
from models.agreement import LOST, summed, together
from models.callbacks import attend
from models.checkpoints import Checkpoints, step_of, steps
from models.clipping import Clipping
from models.config import AveragingConfig, TrainConfig
from models.failing import UNWRITTEN, reason
from models.interruption import Interrupted, Interruption, LateValidation
from models.preflight import preflight, tell
from models.schedules import Schedule
from models.stable_model import StableModel
from models.summary import TrainingFailed, summarize
from pipeline import build, opening, service
from pipeline.config import UsageError, require
from pipeline.opening import Data
from pipeline.order import Share
from pipeline.reader import evaluation_steps

STEPS_PER_EXECUTION = 20  # more hides no more dispatch, and a signal waits for the call to end
WATCH_EVERY = 20  # steps between looks at each layer; with the guard, 0.6% of the CPU time (benchmarks.observe)
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

    `status` is `completed`, `stopped_early`, `preempted` (a signal; `signal` holds its number) or `failed`.

    Raises:
      UsageError: bad input; nothing has been written but what says so of a damaged checkpoint.
    """
    devices = strategy.create(config.strategy)
    chief = strategy.is_chief(devices)
    if chief:  # the others may come when it has made the directory
        run_directory.check(model_dir, config, resume, overwrite, allow_config_change)
    share = strategy.share(devices, config.data.batch_size)
    set_up(config)
    if config.data.service:
        service.wait_for_workers(config.data)
    data = opening.open_data(config.data)
    steps_per_epoch = steps_in_epoch(config, data)
    going_on = resume and bool(steps(os.path.join(model_dir, "checkpoints")))
    # Before anything is made of the seed. A resumed run was told; the other workers would say the same.
    findings = preflight(config, data, devices) if config.preflight != "off" and chief and not going_on else []
    with together(devices):
        model = create_model(config, data, devices, steps_per_epoch)
        checkpoints = Checkpoints(os.path.join(model_dir, "checkpoints"), model, config.checkpoint.keep)
        state = restore(checkpoints, devices) if resume else None
    if chief:
        run_directory.create(model_dir, config, data.skipped, resume)

    training, evaluation = batches(config, data, devices, share, start_step=model.step)
    validation_steps = evaluation_steps(data.validation, share)
    model.statistics_batches = statistics_batches(config, data, devices, share, steps_per_epoch)
    attending = attend(config, model_dir, checkpoints, data, steps_per_epoch, state, chief)
    checkpointer, stopper = attending.checkpointer, attending.stopper
    if attending.board:
        attending.board.write_start(model.step, first_images(config, data, share), config)
        tell(findings, attending.incidents)
    interruption = Interruption(devices)
    callbacks = [*attending.in_order, interruption.callback]
    model.resume_at = epoch, step_of_epoch = divmod(model.trained_steps, steps_per_epoch)
    if state and state.get("validating") and not step_of_epoch:  # else a rollback at its end has made it unfinished
        callbacks.append(LateValidation(evaluation, validation_steps, epoch - 1, callbacks[:]))

    status, extra, begun = "completed", {}, time.perf_counter()
    with interruption:
        try:
            history = model.fit(
                training,
                steps_per_epoch=steps_per_epoch,
                epochs=epoch if stopper.stopped else config.epochs,
                validation_data=evaluation,
                validation_steps=validation_steps,
                callbacks=callbacks,
                verbose=0,
            )
            final = last_result(history.history) or evaluate(model, evaluation, validation_steps)
            if stopper.stopped:
                status = "stopped_early"
        except Interrupted as interrupted:
            checkpointer.save(interrupted.validating)
            status, final, extra = "preempted", None, {"signal": signal.Signals(interrupted.number).name}
        except TrainingFailed as failure:
            status, final, extra = "failed", None, {"reason": str(failure)}
        except LOST as error:
            if not strategy.of_several(devices):
                raise
            status, final, extra = "preempted", None, {"reason": lost(error, checkpoints)}
        finally:
            attending.close()
    wall = time.perf_counter() - begun
    summary = summarize(
        config, status, model, steps_per_epoch, attending.meter, final, checkpointer.best, wall, len(data.skipped)
    )
    summary.update(extra)
    if checkpointer.failure:
        before = f"{summary['reason']} And " if "reason" in summary else ""
        summary.update(unsaved(summary["status"], checkpointer.failure, checkpoints, before))
    if chief:
        try:
            run_directory.write(os.path.join(model_dir, "summary.json"), json.dumps(summary, indent=2))
        except UNWRITTEN as error:
            logging.error("summary.json could not be written in %s: %s", model_dir, reason(error))
    return summary


def steps_in_epoch(config: TrainConfig, data: Data) -> int:
    """Steps after which validation and a checkpoint come: those that make up a pass, to the nearest whole one."""
    return max(1, round(len(data.train) / config.data.batch_size))


def set_up(config: TrainConfig) -> None:
    """Precision and seeds, for the whole process."""
    keras.mixed_precision.set_global_policy(strategy.precision(config.precision))
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()


def create_model(config: TrainConfig, data: Data, devices: tf.distribute.Strategy, steps_per_epoch: int) -> StableModel:
    """The compiled model, its variables on the strategy's devices.

    Raises:
      UsageError: options that do not go together on these devices, or need tensorflow-addons where it is not.
    """
    size, channels, replicas = config.data.image_size, config.data.channels, devices.num_replicas_in_sync
    refuse_on_replicas(config, replicas)
    clip = config.optimizer
    with devices.scope():
        inner = network.create(config.model, (size, size, channels), len(data.classes))
        model = StableModel.wrap(inner, data.mean, data.std, config.seed)
        rate = Schedule(config.optimizer, config.data.batch_size, steps_per_epoch, config.epochs)
        model.compile(
            optimizers.create(config.optimizer, rate, model.trainable_variables),
            losses.create(config.loss, config.label_smoothing, config.focal_gamma),
            xla=strategy.use_xla(config.xla),
            clipping=Clipping(clip.clip_adaptive, clip.clip_value, clip.clip_norm),
            histograms_every=config.histograms_every,
            watch_every=WATCH_EVERY if config.guard != "off" else 0,
            guarded=config.guard == "act",
            accumulate=config.optimizer.accumulate,
            class_weights=losses.balanced_weights(data.class_counts) if config.class_weights == "balanced" else None,
            mixing=config.mixing,
            evaluate_flipped=config.evaluate_flipped,
            averaging=chosen_averaging(config.averaging, steps_per_epoch, config.epochs),
            steps_per_execution=config.steps_per_execution or automatic_steps(config, steps_per_epoch),
        )
    return model


def refuse_on_replicas(config: TrainConfig, replicas: int) -> None:
    """Raises `UsageError` for what so many replicas cannot do."""
    parts, batch = config.optimizer.accumulate, config.data.batch_size // replicas
    require(
        batch % parts == 0,
        f"optimizer.accumulate ({parts}) must divide a replica's batch ({batch}): change it or data.batch_size.",
    )
    if replicas == 1:
        return
    require(
        config.optimizer.name != "lookahead",
        f"optimizer.name=lookahead runs on one replica, and there are {replicas}: use --strategy.name=one or radam.",
    )
    require(
        config.model.norm != "sync_batch" or not strategy.use_xla(config.xla),
        "model.norm=sync_batch communicates in the forward pass, which XLA cannot: add --xla=off.",
    )
    require(
        config.model.norm != "sync_batch" or parts == 1,
        f"model.norm=sync_batch communicates in the forward pass, which optimizer.accumulate ({parts}) cannot: use 1.",
    )


def chosen_averaging(config: AveragingConfig, steps_per_epoch: int, epochs: int) -> averaging.Averaging | None:
    if config.name == "ema":
        return averaging.ema(config.decay)
    if config.name == "swa":
        first = max(1, round(config.start * epochs)) * steps_per_epoch
        return averaging.swa(first, every=steps_per_epoch)
    return None


def automatic_steps(config: TrainConfig, steps_per_epoch: int) -> int:
    """Steps per compiled call: no more than an epoch, or than lie between two histograms."""
    return min(STEPS_PER_EXECUTION, steps_per_epoch, config.histograms_every or STEPS_PER_EXECUTION)


def batches(config: TrainConfig, data: Data, devices: tf.distribute.Strategy, share: Share, start_step: int):
    """(training, evaluation) batches for the strategy's replicas, each fed its own rows.

    Not `experimental_distribute_dataset`: it would serialize the graph, and the mapped shards with it.
    """
    training = devices.distribute_datasets_from_function(
        lambda _: build.training_batches(data, config.data, config.seed, share, start_step)
    )
    evaluation = devices.distribute_datasets_from_function(
        lambda _: build.evaluation_batches(data.validation, config.data, share)
    )
    return training, evaluation


def statistics_batches(
    config: TrainConfig, data: Data, devices: tf.distribute.Strategy, share: Share, steps_per_epoch: int
) -> tuple[Any, int] | None:
    """Training batches to recompute BatchNorm's statistics with, and how many; None where nothing asks for them."""
    if config.averaging.name != "swa":
        return None
    training, _ = batches(config, data, devices, share, start_step=0)
    return training, min(steps_per_epoch, STATISTICS_STEPS)


def first_images(config: TrainConfig, data: Data, share: Share):
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


def unsaved(status: str, failure: str, checkpoints: Checkpoints, reason_before: str = "") -> dict[str, Any]:
    """What a summary says of a run whose last checkpoint could not be written; one that was preempted stays so."""
    last = checkpoints.newest()
    return {
        "status": "preempted" if status == "preempted" else "failed",
        "reason": f"{reason_before}the last checkpoint could not be written ({failure}): make room, then go on with"
        f" --resume from {last or 'the start, as there is none'}.",
    }


def lost(error: Exception, checkpoints: Checkpoints) -> str:
    """What a summary says of a run one of whose workers has gone."""
    there = steps(checkpoints.directory)
    last = checkpoints.path(there[-1]) if there else "the start, as there is no checkpoint"
    return f"another worker is gone ({reason(error)}): start all again with --resume; they go on from {last}."


def restore(checkpoints: Checkpoints, devices: tf.distribute.Strategy) -> dict[str, Any]:
    """Puts the newest checkpoint that is whole into the model; a run that was killed before its first begins again.

    Of several workers the chief looks for it, and the others take the same: they share the directory.

    Raises:
      UsageError: there were some, and none is whole.
    """
    found = checkpoints.newest() if strategy.is_chief(devices) else None
    known, millions, units = summed(devices, [int(bool(found)), *divmod(step_of(found) if found else 0, 10**6)])
    if known:
        return checkpoints.restore(checkpoints.path(millions * 10**6 + units))
    if checkpoints.damaged():
        raise UsageError(f"--resume: no checkpoint in {checkpoints.directory} is whole; use --overwrite.")
    logging.warning("--resume: there is no checkpoint in %s yet: beginning anew", checkpoints.directory)
    return {}


def last_result(history: dict[str, list[float]]) -> dict[str, float] | None:
    """Loss and accuracy on validation after the last epoch."""
    if "val_loss" not in history:
        return None
    return {"loss": history["val_loss"][-1], "accuracy": history["val_accuracy"][-1]}


def evaluate(model: StableModel, batches: Any, steps: int) -> dict[str, float]:
    """Loss and accuracy over all of `batches`; the confusion matrix is in `model.confusion_matrix`."""
    results = model.evaluate(batches, steps=steps, verbose=0, return_dict=True)
    return {"loss": results["loss"], "accuracy": results["accuracy"]}
