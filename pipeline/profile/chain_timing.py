"""Times the training chain, and builds chains of stages for other modules to time.

cpu_ms, wait_ms = time_chain(load_dataset(config), config)    # per image, of the whole chain
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from evenkeel.pipeline import build
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.profile.timing import Chain, time_per_image
from evenkeel.pipeline.reading.cache import cached_images
from evenkeel.pipeline.reading.tf_data_options import tf_data_options

BATCHES_IN_MEMORY = 1  # number of input batches of a stage that is timed alone


def time_chain(data: Dataset, config: DataConfig, seed: int = 0) -> tuple[float, float]:
    """Times the whole training chain; returns (ms of CPU per image, ms of waiting per image)."""
    wait = 0.0 if cached_images(data.train, config) is not None else time_waiting(data, config, seed)
    training = build.training_chain(data.train, config, seed, ReplicaShard(config.batch_size))
    chain: Chain = training.read.take
    for stage in training.stages.values():
        chain = append_stage(chain, stage)
    return time_per_image(with_options(chain, tf_data_options(config)), 1, config.batch_size).cpu, wait


def append_stage(chain: Chain, stage: Callable[[tf.data.Dataset], tf.data.Dataset]) -> Chain:
    return lambda n: stage(chain(n))


def with_options(chain: Chain, options: tf.data.Options) -> Chain:
    return lambda n: chain(n).with_options(options)


def time_waiting(data: Dataset, config: DataConfig, seed: int) -> float:
    """Measures how long a thread waits for the bytes of an image, in ms."""
    training = build.training_chain(data.train, config, seed, ReplicaShard(config.batch_size))
    assert training.source is not None
    read_bytes = training.source.read_bytes
    # There is a single thread: whenever it neither runs nor queues for a core, it waits.
    options = tf_data_options(dataclasses.replace(config, threads=1))
    options.autotune.enabled = False
    contents = lambda n: training.read.take(n).map(lambda *batch: batch[-1]).unbatch().map(read_bytes)  # noqa: E731
    return time_per_image(with_options(contents, options), config.batch_size, config.batch_size, rounds=1).wait
