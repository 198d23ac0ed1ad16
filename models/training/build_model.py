"""A configuration -> the compiled model on a strategy's devices.

    set_up(config)
    model = create_model(config, data, devices, steps_per_epoch)

Of `data` it wants to know classes, their counts, mean and std; it opens nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import AveragingConfig, TrainConfig
from evenkeel.models.distribute import strategy
from evenkeel.models.networks import factory
from evenkeel.models.optim import averaging, losses, optimizers
from evenkeel.models.optim.clipping import Clipping
from evenkeel.models.optim.schedules import Schedule
from evenkeel.models.training.stable_model import StableModel
from evenkeel.pipeline.errors import require

if TYPE_CHECKING:
    from evenkeel.pipeline.dataset import Dataset

STEPS_PER_EXECUTION = 20  # more hides no more dispatch, and a signal waits for the call to end
WATCH_EVERY = 20  # steps between looks at each layer; with the guard, 0.6% of the CPU time (benchmarks.speed.observe)


def set_up(config: TrainConfig) -> None:
    """Precision and seeds, for the whole process."""
    keras.mixed_precision.set_global_policy(strategy.precision(config.precision))
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()


def create_model(
    config: TrainConfig, data: Dataset, devices: tf.distribute.Strategy, steps_per_epoch: int
) -> StableModel:
    """The compiled model, its variables on the strategy's devices.

    Raises:
      UsageError: options that do not go together on these devices, or need tensorflow-addons where it is not.
    """
    refuse_on_replicas(config, devices.num_replicas_in_sync)
    clip = config.optimizer
    with devices.scope():
        model = behind_normalization(config, data)
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


def behind_normalization(config: TrainConfig, data: Dataset) -> StableModel:
    """The network that `config` names, on pixels as `data` has them; not compiled."""
    size, channels = config.data.image_size, config.data.channels
    made = factory.create(config.model, (size, size, channels), len(data.classes))
    return StableModel.wrap(made, data.mean, data.std, config.seed, config.data.standardize)


def steps_in_epoch(config: TrainConfig, data: Dataset) -> int:
    """Steps after which validation and a checkpoint come: those that make up a pass, to the nearest whole one."""
    return max(1, round(len(data.train) / config.data.batch_size))


def evaluate(model: StableModel, batches: Any, steps: int) -> dict[str, float]:
    """Loss and accuracy over all of `batches`; the confusion matrix is in `model.confusion_matrix`."""
    results = model.evaluate(batches, steps=steps, verbose=0, return_dict=True)
    return {"loss": results["loss"], "accuracy": results["accuracy"]}
