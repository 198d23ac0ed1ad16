"""The training chain, whole or up to a stage, as something whose cost can be taken.

cpu, wait = taken(open_data(config), config)    # ms an image, of the whole chain
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from evenkeel.pipeline import build
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.index.shuffle import ReplicaShard
from evenkeel.pipeline.profile.cost import Chain, cost
from evenkeel.pipeline.reading import reader

KEPT = 1  # batches held in memory before a stage, to run it alone


def taken(data: Dataset, config: DataConfig, seed: int = 0) -> tuple[float, float]:
    """ms of CPU and of waiting that one image takes in the whole chain."""
    wait = 0.0 if build.cached(data.train, config) is not None else waiting(data, config, seed)
    (_, read), *rest = build.training_stages(data, config, seed, ReplicaShard(config.batch_size))
    chain: Chain = lambda n: read().take(n)  # noqa: E731
    for _, stage in rest:
        chain = then(chain, stage)
    return cost(under(chain, build.options(config)), 1, config.batch_size).cpu, wait


def then(chain: Chain, stage: Callable[[tf.data.Dataset], tf.data.Dataset]) -> Chain:
    return lambda n: stage(chain(n))


def under(chain: Chain, options: tf.data.Options) -> Chain:
    return lambda n: chain(n).with_options(options)


def waiting(data: Dataset, config: DataConfig, seed: int) -> float:
    """ms per image that a thread waits for its bytes."""
    payloads, fetch = reader.training_reader(config, data.train, seed, ReplicaShard(config.batch_size), 0)
    # One thread, so that what neither runs nor queues for a core waits.
    options = build.options(dataclasses.replace(config, threads=1))
    options.autotune.enabled = False
    contents = lambda n: payloads.take(n).map(lambda *of: of[-1]).unbatch().map(fetch.encoded)  # noqa: E731
    return cost(under(contents, options), config.batch_size, config.batch_size, rounds=1).wait
