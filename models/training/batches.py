"""Distributes the batches of a run to the replicas of its strategy, and counts the steps of an epoch.

batches = build.training_batches(data, config.data, config.seed, shard, start_step=model.step)
training, evaluation = distribute_training(batches, devices), distribute_evaluation(config, data, devices, shard)
model.fit(training, steps_per_epoch=count_steps_per_epoch(config, data), validation_data=evaluation, ...)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from evenkeel.models.config import TrainConfig
from evenkeel.models.distribute import strategy
from evenkeel.pipeline import build
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.replica_shard import ReplicaShard

# A mean over 100 batches has a tenth of the standard error of one batch.
MAX_STATISTICS_STEPS = 100


def count_steps_per_epoch(config: TrainConfig, data: Dataset) -> int:
    """Steps between two validations: a pass over the training images, rounded to whole batches, at least 1."""
    return max(1, round(len(data.train) / config.data.batch_size))


def distribute_training(batches: tf.data.Dataset, devices: tf.distribute.Strategy) -> Any:
    """Distributes `build.training_batches` of this process to its replicas; each replica reads its own rows.

    `experimental_distribute_dataset` is not used: it would serialize the graph, and the mapped shards with it.
    """
    if strategy.is_multi_worker(devices):
        # The training batches are endless in practice (2^62 of them). Without this assertion the workers agree before
        # every step that another batch exists.
        batches = batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return devices.distribute_datasets_from_function(lambda _: batches)


def distribute_evaluation(
    config: TrainConfig, data: Dataset, devices: tf.distribute.Strategy, shard: ReplicaShard
) -> Any:
    """Distributes the evaluation batches to the replicas of this process; each replica reads its own rows."""
    return devices.distribute_datasets_from_function(
        lambda _: build.evaluation_batches(data.validation, config.data, shard)
    )


def create_statistics_batches(
    config: TrainConfig, data: Dataset, devices: tf.distribute.Strategy, shard: ReplicaShard, steps_per_epoch: int
) -> tuple[Any, int] | None:
    """Returns (training batches, number of steps) to recompute BatchNorm's statistics for SWA; None without SWA."""
    if config.averaging.name != "swa":
        return None
    batches = build.training_batches(data, config.data, config.seed, shard)
    return distribute_training(batches, devices), min(steps_per_epoch, MAX_STATISTICS_STEPS)


def load_first_images(batches: tf.data.Dataset, config: DataConfig) -> np.ndarray:
    """The augmented images of the first of `build.training_batches`, uint8 [b, size, size, channels].

    Raises:
      UsageError: the workers of `config.service` cannot read the shards.
    """
    try:
        return next(iter(batches))[0].numpy()
    except tf.errors.OpError as error:
        if not config.service:
            raise
        raise UsageError(
            f"data.service ({config.service}): {' '.join(error.message.split())}; the service's workers must be"
            " able to open the shards by the same paths as the trainer."
        ) from error
