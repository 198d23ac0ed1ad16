"""Distributes the batches of a run to the replicas of its strategy, and counts the steps of an epoch.

training, evaluation = distribute_batches(config, data, devices, shard, start_step=model.step)
model.fit(training, steps_per_epoch=count_steps_per_epoch(config, data), validation_data=evaluation, ...)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from evenkeel.models.config import TrainConfig
from evenkeel.models.distribute import strategy
from evenkeel.pipeline import build
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.replica_shard import ReplicaShard

# A mean over 100 batches has a tenth of the standard error of one batch.
MAX_STATISTICS_STEPS = 100


def count_steps_per_epoch(config: TrainConfig, data: Dataset) -> int:
    """Steps between two validations: a pass over the training images, rounded to whole batches, at least 1."""
    return max(1, round(len(data.train) / config.data.batch_size))


def distribute_batches(
    config: TrainConfig, data: Dataset, devices: tf.distribute.Strategy, shard: ReplicaShard, start_step: int
) -> tuple[Any, Any]:
    """Returns (training batches from `start_step` on, evaluation batches); each replica reads its own rows.

    `experimental_distribute_dataset` is not used: it would serialize the graph, and the mapped shards with it.
    """
    # The training batches are endless in practice (2^62 of them). Without this assertion the workers agree before every
    # step that another batch exists.
    assert_endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    multi_worker = strategy.is_multi_worker(devices)

    def training_batches(_: tf.distribute.InputContext) -> tf.data.Dataset:
        ds = build.training_batches(data, config.data, config.seed, shard, start_step)
        return ds.apply(assert_endless) if multi_worker else ds

    training = devices.distribute_datasets_from_function(training_batches)
    evaluation = devices.distribute_datasets_from_function(
        lambda _: build.evaluation_batches(data.validation, config.data, shard)
    )
    return training, evaluation


def create_statistics_batches(
    config: TrainConfig, data: Dataset, devices: tf.distribute.Strategy, shard: ReplicaShard, steps_per_epoch: int
) -> tuple[Any, int] | None:
    """Returns (training batches, number of steps) to recompute BatchNorm's statistics for SWA; None without SWA."""
    if config.averaging.name != "swa":
        return None
    training, _ = distribute_batches(config, data, devices, shard, start_step=0)
    return training, min(steps_per_epoch, MAX_STATISTICS_STEPS)


def load_first_images(config: TrainConfig, data: Dataset, shard: ReplicaShard) -> np.ndarray:
    """The augmented images of this process's first batch, uint8 [b, size, size, channels].

    Raises:
      UsageError: the workers of `config.data.service` cannot read the shards.
    """
    batches = build.training_batches(data, config.data, config.seed, shard)
    try:
        return next(iter(batches))[0].numpy()
    except tf.errors.OpError as error:
        if not config.data.service:
            raise
        raise UsageError(
            f"data.service ({config.data.service}): {' '.join(error.message.split())}; the service's workers must be"
            " able to open the shards by the same paths as the trainer."
        ) from error
