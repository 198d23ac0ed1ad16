"""Measures the time per image of each stage of the training chain.

for stage in time_stages(load_dataset(config), config, seed=0):
    print(stage.name, stage.cpu_ms)

The chain is run up to each stage, and each stage is run alone on a batch that the previous stage made.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from evenkeel.pipeline import build
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.profile.chain_timing import BATCHES_IN_MEMORY, append_stage, time_waiting, with_options
from evenkeel.pipeline.profile.timing import ROUNDS, Chain, time_per_image
from evenkeel.pipeline.reading.byte_source import ByteSource
from evenkeel.pipeline.reading.cache import cached_images
from evenkeel.pipeline.reading.tf_data_options import tf_data_options

STAGE_KINDS = {"read": "read", "plan": "read", "decode": "decode", "augment": "augment"}
AUTOTUNE_SECONDS = 1.0  # time for autotuning to settle


@dataclasses.dataclass(frozen=True)
class StageTiming:
    """The cost of one stage.

    Attributes:
      name: read, plan, decode, augment or prefetch.
      kind: the bound that the stage belongs to: read, decode or augment.
      cpu_ms: ms of CPU per image.
      wait_ms: ms per image that a thread waits.
      share: fraction of the thread time per image of the whole chain.
      images_per_second: rate of the chain up to this stage, by wall time.
      bytes_per_image: bytes per image of the output of this stage.
      parallelism: parallel calls chosen by autotuning; None if the stage has no such parameter.
      buffer: buffer size chosen by autotuning; None if the stage has no such parameter.
    """

    name: str
    kind: str
    cpu_ms: float
    wait_ms: float
    share: float
    images_per_second: float
    bytes_per_image: float
    parallelism: int | None
    buffer: int | None


def time_stages(data: Dataset, config: DataConfig, seed: int) -> tuple[StageTiming, ...]:
    """Times the stages, in order.

    The CPU time of the whole chain is divided in proportion to the times of the stages alone.
    """
    batch, options = config.batch_size, tf_data_options(config)
    training = build.training_chain(data.train, config, seed, ReplicaShard(batch))
    # Waiting is measured first, while the page cache is as cold as training finds it.
    is_cached = cached_images(data.train, config) is not None
    wait = 0.0 if is_cached else time_waiting(data, config, seed)
    chain: Chain = training.read.take
    cumulative = {"read": time_per_image(with_options(chain, options), 1, batch)}
    alone_ms = {"read": cumulative["read"].cpu}
    *_, last = training.stages
    for name, stage in training.stages.items():
        batches = chain(BATCHES_IN_MEMORY).cache()
        images = BATCHES_IN_MEMORY * batch
        before = time_per_image(with_options(batches.repeat, options), BATCHES_IN_MEMORY, images).cpu
        if name == "decode" and not is_cached:
            # The decode stage fetches the bytes of the images, which counts as reading.
            fetch_ms = _time_fetching(batches, training.source, config)
            alone_ms["read"] += fetch_ms
            before += fetch_ms
        with_stage = append_stage(batches.repeat, stage)
        alone = time_per_image(with_options(with_stage, options), BATCHES_IN_MEMORY, images)
        alone_ms[name] = max(0.0, alone.cpu - before)
        chain = append_stage(chain, stage)
        is_last = name == last
        cumulative[name] = time_per_image(with_options(chain, options), 1, batch, rounds=ROUNDS if is_last else 1)
    whole = cumulative[last].cpu
    scale = whole / max(sum(alone_ms.values()), 1e-9)
    autotuned = _autotuned_parameters(build.training_batches(data, config, seed, ReplicaShard(batch)))
    pixels, encoded = math.prod(config.image_shape) * config.channels, float(np.mean(data.train.columns["length"]))

    def stage_timing(name: str) -> StageTiming:
        cpu_ms, wait_ms = alone_ms[name] * scale, wait if name == "read" else 0.0
        return StageTiming(
            name=name,
            kind=STAGE_KINDS.get(name, "augment"),
            cpu_ms=cpu_ms,
            wait_ms=wait_ms,
            share=(cpu_ms + wait_ms) / max(whole + wait, 1e-9),  # the total can be 0 with a few small images
            images_per_second=1000 / max(cumulative[name].wall, 1e-6),
            bytes_per_image=encoded if name in ("read", "plan") else pixels,
            parallelism=autotuned.get(name, {}).get("parallelism"),
            buffer=autotuned.get(name, {}).get("buffer_size"),
        )

    return tuple(stage_timing(name) for name in alone_ms)


def _time_fetching(planned: tf.data.Dataset, source: ByteSource | None, config: DataConfig) -> float:
    """Measures ms of CPU to fetch the bytes of an image, for batches (..., payloads, crops) of the plan stage."""
    assert source is not None
    options, images = tf_data_options(config), BATCHES_IN_MEMORY * config.batch_size

    def time_map(function: Callable[..., Any]) -> float:
        apply = lambda number, row, payload, crop: function(payload, crop["regions"])  # noqa: E731
        chain = lambda n: planned.unbatch().repeat(n).map(apply, num_parallel_calls=tf.data.AUTOTUNE)  # noqa: E731
        return time_per_image(with_options(chain, options), images, images).cpu

    return max(0.0, time_map(source.read_bytes) - time_map(lambda payload, region: (payload, payload)))


def _autotuned_parameters(ds: tf.data.Dataset) -> dict[str, dict[str, int]]:
    """Runs `ds`; returns {stage: {parallelism, buffer_size}} that autotuning chose, read from its model of `ds`."""
    iterator, deadline = iter(ds), time.perf_counter() + AUTOTUNE_SECONDS
    next(iterator)
    while time.perf_counter() < deadline:
        next(iterator)
    model = tf.data.experimental.get_model_proto(iterator)
    # The model is traversed from the last stage to the first.
    expected = [("prefetch", "Prefetch"), ("augment", "ParallelMap"), ("decode", "ParallelMap")]
    parameters: dict[str, dict[str, int]] = {}
    number = model.output
    while number and expected:
        node = model.nodes[number]
        stage, node_type = expected[0]
        if node.name.startswith(node_type):
            parameters[stage] = {parameter.name: int(parameter.value) for parameter in node.parameters}
            expected.pop(0)
        number = node.inputs[0] if node.inputs else 0
    return parameters
