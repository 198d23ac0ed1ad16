"""Builds the compiled model that a configuration describes, on the devices of a strategy.

    configure_process(config)
    model = create_model(config, data, devices, steps_per_epoch)

Only the classes, class counts, mean and std of `data` are used; no image is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import AveragingConfig, TrainConfig
from evenkeel.models.distribute import strategy
from evenkeel.models.networks import factory
from evenkeel.models.optim import averaging, losses, optimizers
from evenkeel.models.optim.clipping import Clipping
from evenkeel.models.optim.schedules import Schedule
from evenkeel.models.training.stable_model import StableModel
from evenkeel.models.training.step_options import StepOptions
from evenkeel.pipeline.errors import require

if TYPE_CHECKING:
    from evenkeel.pipeline.dataset import Dataset

# More steps would not hide more dispatch overhead, and a signal has to wait until a call ends.
MAX_STEPS_PER_EXECUTION = 20
# Lookahead's slow weights, and the product of the momentum schedule of Keras's Nadam, are updated by every replica.
ONE_REPLICA_OPTIMIZERS = ("lookahead", "nadam")
LAYER_STATS_EVERY = 20  # steps; with the guard this costs 0.6% of the CPU time (benchmarks.speed.observe)


def configure_process(config: TrainConfig) -> None:
    """Sets precision policy, random seeds and op determinism for the whole process."""
    keras.mixed_precision.set_global_policy(strategy.precision_policy(config.precision))
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()


def create_model(
    config: TrainConfig, data: Dataset, devices: tf.distribute.Strategy, steps_per_epoch: int
) -> StableModel:
    """Creates the compiled model, with its variables on the strategy's devices.

    Raises:
      UsageError: these devices do not support the options together, or tensorflow-addons is needed but missing.
    """
    check_replica_support(config, devices.num_replicas_in_sync)
    with devices.scope():
        model = wrap_network(config, data)
        schedule = Schedule(config.optimizer, config.data.batch_size, steps_per_epoch, config.epochs)
        model.compile(
            optimizers.create_optimizer(config.optimizer, schedule, model.trainable_variables),
            losses.create_loss(config.loss, config.label_smoothing, config.focal_gamma),
            create_step_options(config, data, steps_per_epoch),
            steps_per_execution=config.steps_per_execution or automatic_steps_per_execution(config, steps_per_epoch),
        )
    return model


def create_step_options(config: TrainConfig, data: Dataset, steps_per_epoch: int) -> StepOptions:
    balanced = config.class_weights == "balanced"
    return StepOptions(
        xla=strategy.use_xla(config.xla),
        clipping=create_clipping(config),
        accumulate=config.optimizer.accumulate,
        class_weights=losses.balanced_class_weights(data.class_counts) if balanced else None,
        mixing=config.mixing,
        guarded=config.guard == "act",
        histograms_every=config.histograms_every,
        layer_stats_every=LAYER_STATS_EVERY if config.guard != "off" else 0,
        averaging=create_averaging(config.averaging, steps_per_epoch, config.epochs),
        evaluate_flipped=config.evaluate_flipped,
    )


def create_clipping(config: TrainConfig) -> Clipping:
    optimizer = config.optimizer
    return Clipping(optimizer.clip_adaptive, optimizer.clip_value, optimizer.clip_norm)


def create_averaging(config: AveragingConfig, steps_per_epoch: int, epochs: int) -> averaging.AveragingRule | None:
    if config.name == "ema":
        return averaging.ema(config.decay)
    if config.name == "swa":
        first_step = max(1, round(config.start * epochs)) * steps_per_epoch
        return averaging.swa(first_step, steps_per_epoch)
    return None


def automatic_steps_per_execution(config: TrainConfig, steps_per_epoch: int) -> int:
    """Steps in one compiled call: at most an epoch, and at most the steps between two histograms."""
    return min(MAX_STEPS_PER_EXECUTION, steps_per_epoch, config.histograms_every or MAX_STEPS_PER_EXECUTION)


def wrap_network(config: TrainConfig, data: Dataset) -> StableModel:
    """Creates a model, not compiled, of the normalization of `data` and the network that `config` names."""
    shape = (*config.data.image_shape, config.data.channels)
    network = factory.create_network(config.model, shape, len(data.classes))
    return StableModel.wrap(network, data.mean, data.std, config.seed, config.data.standardize)


def check_replica_support(config: TrainConfig, replicas: int) -> None:
    """Raises `UsageError` for options that do not work on this number of replicas."""
    parts, replica_batch = config.optimizer.accumulate, config.data.batch_size // replicas
    require(
        replica_batch % parts == 0,
        f"optimizer.accumulate ({parts}) must divide a replica's batch ({replica_batch}): change it or"
        " data.batch_size.",
    )
    if replicas == 1:
        return
    require(
        config.optimizer.name not in ONE_REPLICA_OPTIMIZERS,
        f"optimizer.name={config.optimizer.name} runs on one replica, and there are {replicas}: use --strategy.name=one"
        " or --optimizer.name=radam.",
    )
    require(
        config.model.norm != "sync_batch" or not strategy.use_xla(config.xla),
        "model.norm=sync_batch communicates in the forward pass, which XLA does not support: add --xla=off.",
    )
    require(
        config.model.norm != "sync_batch" or parts == 1,
        "model.norm=sync_batch communicates in the forward pass, which gradient accumulation"
        f" (optimizer.accumulate={parts}) does not support: set optimizer.accumulate to 1.",
    )
