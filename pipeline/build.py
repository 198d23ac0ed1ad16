"""The input pipeline in run order: row numbers -> batches of images. Read this file first.

    data = load_dataset(config)
    replica_shard = ReplicaShard(global_batch_size=128)
    for images, labels in training_batches(data, config, seed=0, replica_shard=replica_shard): ...             # endless
    for images, labels, weights in evaluation_batches(data.validation, config, replica_shard): ...    # every image once

Images are uint8 [b, height, width, channels]; the first layer of the model normalizes them. A batch of b images is for
one replica and has a number: batch n of a worker belongs to step n // local_replicas.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from evenkeel.pipeline import service
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.reading import byte_source, reader
from evenkeel.pipeline.reading.augmenter import make_batch_augmenter, make_copying_augmenter
from evenkeel.pipeline.reading.byte_source import ByteSource
from evenkeel.pipeline.reading.cache import cached_images
from evenkeel.pipeline.reading.crop_plan import make_evaluation_planner, make_training_planner
from evenkeel.pipeline.reading.decoder import make_batch_decoder
from evenkeel.pipeline.reading.small_images import SmallImages
from evenkeel.pipeline.reading.tf_data_options import tf_data_options

AUTOTUNE = tf.data.AUTOTUNE
Stage = Callable[[tf.data.Dataset], tf.data.Dataset]


# AutoGraph is off: no function of the pipeline has Python's `if` or `for` over tensors, and converting all of them
# takes 3 CPU seconds.
@tf.autograph.experimental.do_not_convert
def training_batches(
    data: Dataset, config: DataConfig, seed: int, replica_shard: ReplicaShard, start_step: int = 0
) -> tf.data.Dataset:
    """Endless training batches (images uint8 [b, h, w, c], labels int64 [b]), one per local replica and step.

        shard = evenkeel.ReplicaShard(config.batch_size)
        for images, labels in evenkeel.training_batches(data, config, seed=0, replica_shard=shard).take(100): ...

    With memory-mapped shards a batch depends only on (seed, step), not on the number of threads, the start step or the
    cache. There is one exception: a random resized crop of a cached image is interpolated in integers, which changes
    some pixels by one level. Streamed shards give batches of the same shapes in a different order. A tf.data service
    gives the batches of mapped shards in the order in which its workers finish them; `service` says which batches are
    lost when a worker fails.
    """
    chain = training_chain(data.train, config, seed, replica_shard, start_step)
    ds = chain.read
    for stage in chain.stages.values():
        ds = stage(ds)
    ds = ds.with_options(tf_data_options(config))
    return service.distribute(ds, config) if config.service else ds


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingChain:
    """The training chain as a list of stages, so that the profiler can time each of them.

    Attributes:
      read: the data set of the first stage, `read`.
      source: turns the payloads of `read` into bytes or pixels; None if the cache holds images of the model's size.
      stages: {name: function from data set to data set} of the stages after `read`, in run order.
    """

    read: tf.data.Dataset
    source: ByteSource | None
    stages: dict[str, Stage]


@tf.autograph.experimental.do_not_convert
def training_chain(
    index: Index, config: DataConfig, seed: int, replica_shard: ReplicaShard, start_step: int = 0
) -> TrainingChain:
    """The stages of `training_batches`, in run order."""
    first = start_step * replica_shard.local_replicas
    shuffle_seed, crop_seed, augment_seed = range(3 * seed, 3 * seed + 3)  # one for each use of random numbers
    cache = cached_images(index, config)  # None: images are decoded for every batch
    source: ByteSource | None

    # SHUFFLE, REPEAT AND BATCH: one stateless function maps a batch number to (batch number, row numbers int64 [b]). It
    # has no buffer, so training can start at any step.
    numbers = reader.batch_numbers(config, first)
    shuffle = reader.make_row_shuffler(index, config, shuffle_seed, replica_shard)

    # READ: (number, rows) -> (number, rows, payloads [b]). A payload is the row number if the image is in memory,
    # otherwise the encoded image.
    if isinstance(cache, SmallImages):  # the cache holds images of the model's size: nothing is read
        source = None
        ds = numbers.map(shuffle)
    elif cache is not None:  # the cache holds whole decoded images
        index, source = cache.index, cache.source
        ds = numbers.map(shuffle).map(lambda number, rows: (number, rows, rows))
    elif config.service:  # this chain runs on a worker, which reads single records
        source = byte_source.STREAMED
        ds = numbers.interleave(
            reader.make_service_reader(index, shuffle, replica_shard),
            cycle_length=reader.SERVICE_PARALLEL_BATCHES,
            num_parallel_calls=reader.SERVICE_PARALLEL_BATCHES,
        )
    elif reader.use_memory_map(config, index):  # the kernel is asked for the bytes some batches in advance
        source = byte_source.mapped_source(index)
        ds = numbers.map(shuffle).map(reader.make_readahead(index, replica_shard))
        ds = ds.prefetch(reader.readahead_batches(replica_shard))
        ds = ds.map(lambda number, rows: (number, rows, rows))
    else:  # a stream has no random access: a buffer shuffles it, and a start at a later step skips the earlier batches
        source = byte_source.STREAMED
        ds = reader.stream_training_images(index, config, replica_shard)
        ds = ds.shuffle(config.shuffle_buffer, seed=shuffle_seed, reshuffle_each_iteration=True)
        ds = ds.repeat()  # after the shuffle: before the shuffle, it would mix images of two epochs
        ds = ds.batch(replica_shard.batch_size, drop_remainder=True).skip(first).enumerate(first)
        ds = ds.map(lambda number, batch: (number, *batch))

    stages: dict[str, Stage] = {}
    if isinstance(cache, SmallImages):  # (number, rows) -> a batch copied from the cache
        augment = make_copying_augmenter(cache, index, config, augment_seed, replica_shard)
    else:
        assert source is not None
        # PLAN: chooses the crop of each image, the part of the file to decode, and whether the image is mirrored.
        plan = make_training_planner(index, config, source, crop_seed, augment_seed, replica_shard)
        stages["plan"] = lambda ds: ds.map(plan)

        # DECODE: payloads and regions -> (numbers, images uint8 [b, h, w, c], labels int64 [b]).
        decode = make_batch_decoder(index, config, source, replica_shard)
        stages["decode"] = lambda ds: ds.map(decode, num_parallel_calls=AUTOTUNE)
        augment = make_batch_augmenter(config, augment_seed, replica_shard)

    # AUGMENT: -> (images, labels). This is the last operation on the host and a map, so with a GPU its output lies in
    # pinned memory.
    stages["augment"] = lambda ds: ds.map(augment, num_parallel_calls=AUTOTUNE)
    stages["prefetch"] = lambda ds: ds.prefetch(AUTOTUNE)
    return TrainingChain(ds, source, stages)


@tf.autograph.experimental.do_not_convert
def evaluation_batches(index: Index, config: DataConfig, replica_shard: ReplicaShard) -> tf.data.Dataset:
    """Evaluation batches: every row once, in order, without augmentation.

        shard = evenkeel.ReplicaShard(config.batch_size)
        for images, labels, weights in evenkeel.evaluation_batches(data.validation, config, shard): ...

    Each batch is (images uint8 [b, h, w, c], labels int64 [b], weights float32 [b]). Padding with weight 0 fills up the
    last global batch; there are ceil(rows / global batch size) steps.
    """
    ds, source = reader.evaluation_reader(config, index, replica_shard)
    ds = ds.map(make_evaluation_planner(index, config, source))
    ds = ds.map(make_batch_decoder(index, config, source, replica_shard), num_parallel_calls=AUTOTUNE)
    ds = ds.map(
        lambda rows, images, labels: (images, tf.maximum(labels, 0), tf.cast(labels >= 0, tf.float32)),
        num_parallel_calls=AUTOTUNE,
    )
    ds = ds.prefetch(AUTOTUNE)
    return ds.with_options(tf_data_options(config))
