"""Rows -> bytes: out of mapped memory in an exact order, or streamed where nothing can be mapped.

ds, fetch = training_reader(config, index, seed=0, share=share, start_step=0)
element, rows, payloads = next(iter(ds))
contents = fetch.encoded(payloads[0])
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import logging

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError, require
from evenkeel.pipeline.index import shuffle
from evenkeel.pipeline.index.index import DAMAGED, Index
from evenkeel.pipeline.index.shuffle import ReplicaShard
from evenkeel.pipeline.reading import byte_source, memory_map, readahead
from evenkeel.pipeline.reading.byte_source import Fetch

FOREVER = 2**62  # elements: training is one endless sequence
# Images announced before they are read, and at least a batch: slow storage then sees many requests at once. Announcing
# takes 3 us of CPU where the bytes are in memory already.
AHEAD = 64
START_RANGE = 2**40  # of the elements where a worker that deals out everything may start
READS = 4  # batches that a service worker reads at a time; each is in memory, encoded
AROUND = 256  # bytes of an example around its image: label, file name


def use_mapping(config: DataConfig, index: Index) -> bool:
    """Whether the shards are read out of mapped memory; `data.reader` decides, `auto` by what the storage can do.

    Raises:
      UsageError: `data.reader=mapped` where that cannot be.
    """
    local = memory_map.available and not any("://" in shard for shard in index.shards)
    if config.reader == "mapped" and not local:
        raise UsageError(
            f"data.reader=mapped needs local shards on Linux, and {index.shards[0]} is not:"
            " copy the data set to a local disk or use data.reader=streaming."
        )
    return local and config.reader != "streaming"


# A data set of (rows int64 [batch_size], payloads [batch_size]), a batch for one replica at a time, and what fetches.
# For training the number of the element (int64 []) comes first: on a tf.data service no worker sees them all.
Reader = tuple[tf.data.Dataset, Fetch]


def training_reader(config: DataConfig, index: Index, seed: int, share: ReplicaShard, start_step: int) -> Reader:
    """Rows in shuffled order, for ever, from `start_step` on; every row exactly once an epoch, or every
    class equally often."""
    first = start_step * share.local_replicas
    rows_of = chosen_order(config, index, seed)
    if config.service:
        read = stored_images(index)

        def batch(element: tf.Tensor) -> tf.data.Dataset:
            rows = rows_of(share.positions(element))
            return read(rows).batch(share.batch_size).map(lambda images: (element, rows, images))

        return dealt_elements(config, first).interleave(batch, READS, num_parallel_calls=READS), byte_source.STREAMED
    if use_mapping(config, index):
        rows = _announced(training_rows(config, index, seed, share, start_step), index, share)
        return rows.map(lambda element, rows: (element, rows, rows)), byte_source.mapped(index)
    require(
        config.balance == "none",
        f"data.balance={config.balance} needs mapped shards, and these are streamed: copy the data set to a local disk"
        " or use --data.balance=none.",
    )
    logging.info("streaming: the order of examples depends on data.shuffle_buffer (%d)", config.shuffle_buffer)
    workers, worker = share.replicas // share.local_replicas, share.first_replica // share.local_replicas
    stream = _stream(index, parallel=16).filter(lambda row, image: row % workers == worker)
    # Shuffle, then repeat: the other way round blurs epochs into each other.
    stream = stream.shuffle(config.shuffle_buffer, seed=seed, reshuffle_each_iteration=True).repeat()
    # No position to jump to: starting later reads over what came before.
    batches = stream.batch(share.batch_size, drop_remainder=True).skip(first).enumerate(first)
    return batches.map(lambda element, batch: (element, *batch)), byte_source.STREAMED


def training_rows(config: DataConfig, index: Index, seed: int, share: ReplicaShard, start_step: int) -> tf.data.Dataset:
    """Elements (int64 []) and their rows (int64 [batch_size]) in exact order, wherever the images come from."""
    rows_of = chosen_order(config, index, seed)
    elements = tf.data.Dataset.range(start_step * share.local_replicas, FOREVER)
    return elements.map(lambda element: (element, rows_of(share.positions(element))))


def dealt_elements(config: DataConfig, first: int) -> tf.data.Dataset:
    """Numbers (int64 []) of the elements that one worker of a tf.data service makes, from `first` on.

    The element is what is dealt out: whoever makes it reads the same rows and draws the same random numbers, so that
    no two workers augment alike and all together make what one process would.
    """
    elements = tf.data.Dataset.range(first, FOREVER)
    if config.service_sharding == "static":
        hint = tf.data.experimental.SHARD_HINT  # the worker puts in the number of workers and its own
        return elements.shard(hint, hint)
    if config.service_sharding == "off":
        # Drawn by each worker for itself: seeds of 0 mean that the kernel takes one from the operating system.
        drawn = tf.data.Dataset.from_tensors(np.int64(START_RANGE)).map(
            lambda end: tf.raw_ops.RandomUniformInt(shape=tf.constant([], tf.int32), minval=np.int64(0), maxval=end)
        )
        return drawn.flat_map(lambda start: tf.data.Dataset.range(start, FOREVER))
    return elements


def chosen_order(config: DataConfig, index: Index, seed: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """int64 positions [n] of the endless training sequence -> rows (int64 [n])."""
    if config.balance == "classes":
        return shuffle.balanced_rows(index.columns["label"], seed)
    return lambda positions: shuffle.rows_at(positions, len(index), seed)


def evaluation_reader(config: DataConfig, index: Index, share: ReplicaShard) -> Reader:
    """All rows once, in order. Then row r comes as -1 - r, with its payload, to fill up the last global batch."""
    size = share.global_batch_size
    if use_mapping(config, index):
        elements = tf.data.Dataset.range(evaluation_steps(index, share) * share.local_replicas)
        positions = elements.map(share.positions)
        padded = positions.map(lambda p: (tf.where(p < len(index), p, -1), tf.where(p < len(index), p, 0)))
        return padded, byte_source.mapped(index)
    stream = _stream(index, parallel=1)
    padding = stream.take(1).repeat(-len(index) % size).map(lambda row, image: (-1 - row, image))
    first, last = share.first_replica, share.first_replica + share.local_replicas
    stream = stream.concatenate(padding).enumerate()
    stream = stream.filter(lambda p, _: (first <= p % size // share.batch_size) & (p % size // share.batch_size < last))
    return stream.map(lambda _, pair: pair).batch(share.batch_size, drop_remainder=True), byte_source.STREAMED


def evaluation_steps(index: Index, share: ReplicaShard) -> int:
    return -(-len(index) // share.global_batch_size)


def _announced(rows: tf.data.Dataset, index: Index, share: ReplicaShard) -> tf.data.Dataset:
    """The same as `training_rows`, `AHEAD` images after the kernel was told to read their bytes."""
    columns = index.columns
    begin = tf.constant(memory_map.addresses(index.shards, index.sizes)[columns["shard"]] + columns["offset"])
    lengths = tf.constant(columns["length"])

    def announced(element: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        readahead.announce(tf.gather(begin, rows), tf.gather(lengths, rows))
        return element, tf.ensure_shape(rows, [share.batch_size])

    # A buffer between the announcement and the reading.
    return rows.map(announced).prefetch(-(-AHEAD // share.batch_size))


def stored_images(index: Index) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """A function (rows int64 [n]) -> data set of their encoded images (string []): each record read where it stands.

    Any row at any time, as from the mapping, in a graph that can be sent elsewhere. Checksums are checked. CPU of an
    image: 0.03 ms at 1 KB and 0.10 at 100, less than streaming whole shards (0.07 and 0.19).
    """
    columns, paths = index.columns, tf.constant(index.shards)
    shards, starts = tf.constant(columns["shard"]), tf.constant(columns["start"])
    # An example is little more than its image, so this reads it at once, or in two.
    buffers = tf.constant(columns["offset"] - columns["start"] + columns["length"] + AROUND)
    feature = {index.features.image: tf.io.FixedLenFeature([], tf.string)}

    def record(row: tf.Tensor) -> tf.data.Dataset:
        found = tf.raw_ops.TFRecordDatasetV2(
            filenames=paths[shards[row]][None],
            compression_type="",
            buffer_size=buffers[row],
            byte_offsets=starts[row][None],
        )
        return tf.data.experimental.from_variant(found, tf.TensorSpec([], tf.string)).take(1)

    def images(rows: tf.Tensor) -> tf.data.Dataset:
        examples = tf.data.Dataset.from_tensor_slices(rows).flat_map(record)
        return examples.map(lambda example: tf.io.parse_single_example(example, feature)[index.features.image])

    return images


def _stream(index: Index, parallel: int) -> tf.data.Dataset:
    """(row, encoded image) of every row once, from `parallel` shards at a time."""
    # The row of (shard, record), one shard behind the other; -1 where that record is not in the index.
    shard, record = index.columns["shard"], index.columns["record"]
    counts = np.zeros(len(index.shards), np.int64)
    np.maximum.at(counts, shard, record + 1)
    first = np.cumsum(counts) - counts
    for (of, number), fault in index.faults.items():
        if fault.endswith(DAMAGED) and number < counts[of]:
            raise UsageError(
                f"{fault}, and a shard cannot be streamed past that: prepare the data set anew,"
                " or copy it to a local disk and use data.reader=mapped."
            )
    rows = np.full(counts.sum(), -1, np.int64)
    rows[first[shard] + record] = np.arange(len(index))
    row_of, feature = tf.constant(rows), {index.features.image: tf.io.FixedLenFeature([], tf.string)}

    def read(path: tf.Tensor, count: tf.Tensor, start: tf.Tensor) -> tf.data.Dataset:
        # Behind the last record that is wanted may lie damage.
        return tf.data.TFRecordDataset(path).take(count).enumerate(start)

    def parse(place: tf.Tensor, example: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return row_of[place], tf.io.parse_single_example(example, feature)[index.features.image]

    shards = tf.data.Dataset.from_tensor_slices((list(index.shards), counts, first))
    stream = shards.interleave(read, cycle_length=parallel, num_parallel_calls=tf.data.AUTOTUNE)
    return stream.filter(lambda place, _: row_of[place] >= 0).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
