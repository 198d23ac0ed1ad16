"""Readers: batches of rows -> payloads, from memory-mapped shards, record by record, or as a stream of whole shards.

numbers = batch_numbers(config, first=0)                                         # 0, 1, 2, ... without end
batches = numbers.map(make_row_shuffler(index, config, seed, replica_shard))     # (batch number, rows int64 [b])
evaluation, source = evaluation_reader(config, index, replica_shard)             # (rows int64 [b], payloads [b])

A batch is for one replica. A payload is what a `ByteSource` needs to find the bytes of an image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import logging

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError, require
from evenkeel.pipeline.index import shuffle
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.index.tfrecord import DAMAGED_RECORD
from evenkeel.pipeline.reading import byte_source, memory_map, readahead
from evenkeel.pipeline.reading.byte_source import ByteSource

ENDLESS_BATCHES = 2**62  # training is one endless sequence
# The bytes of so many images, but of at least one batch, are requested before they are read, so that slow storage gets
# many requests at once. A request takes 3 us of CPU if the bytes are in memory already.
READAHEAD_IMAGES = 64
MAX_RANDOM_START = 2**40  # batch number below which a service worker without sharding starts
SERVICE_PARALLEL_BATCHES = 4  # batches that a service worker reads at a time and keeps in memory, encoded
EXAMPLE_OVERHEAD_BYTES = 256  # bytes of an example besides its image: label, file name
STREAMED_SHARDS = 16  # shards that training streams at a time


def use_memory_map(config: DataConfig, index: Index) -> bool:
    """Whether the shards are memory-mapped, as `data.reader` says; `auto` maps local shards.

    Raises:
      UsageError: `data.reader=mapped`, and the shards cannot be mapped.
    """
    local = memory_map.available and not any("://" in shard for shard in index.shards)
    if config.reader == "mapped" and not local:
        raise UsageError(
            f"data.reader=mapped needs local shards on Linux, but {index.shards[0]} cannot be mapped:"
            " copy the data set to a local disk or use data.reader=streaming."
        )
    return local and config.reader != "streaming"


def batch_numbers(config: DataConfig, first: int) -> tf.data.Dataset:
    """A data set of the numbers (int64 []) of the batches that this process makes, from `first` on, without end.

    A tf.data service divides these numbers among its workers. The rows and the random numbers of a batch depend on its
    number alone. So no two workers repeat random numbers, and all workers together make the batches that one process
    would make.
    """
    numbers = tf.data.Dataset.range(first, ENDLESS_BATCHES)
    if not config.service or config.service_sharding == "dynamic":
        return numbers
    if config.service_sharding == "static":
        hint = tf.data.experimental.SHARD_HINT  # each worker replaces it by the number of workers, or by its own number
        return numbers.shard(hint, hint)
    # Each worker draws its own start, because with seeds of 0 the kernel takes a seed from the operating system.
    start = tf.data.Dataset.from_tensors(np.int64(MAX_RANDOM_START)).map(
        lambda end: tf.raw_ops.RandomUniformInt(shape=tf.constant([], tf.int32), minval=np.int64(0), maxval=end)
    )
    return start.flat_map(lambda start: tf.data.Dataset.range(start, ENDLESS_BATCHES))


def make_row_shuffler(
    index: Index, config: DataConfig, seed: int, replica_shard: ReplicaShard
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """A function (batch number int64 []) -> (batch number, rows int64 [b]) of the endless shuffled sequence.

    Each epoch holds every row once, in a new order; with `data.balance=classes` every class is equally frequent.
    """
    if config.balance == "classes":
        rows_at = shuffle.balanced_rows(index.columns["label"], seed)
    else:
        rows_at = lambda positions: shuffle.shuffled_rows(positions, len(index), seed)  # noqa: E731
    return lambda number: (number, rows_at(replica_shard.positions(number)))


def make_readahead(
    index: Index, replica_shard: ReplicaShard
) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """A function that passes on (batch number, rows) and requests the bytes of the rows from the kernel."""
    columns = index.columns
    file_starts = memory_map.file_addresses(index.shards, index.sizes)
    addresses = tf.constant(file_starts[columns["shard"]] + columns["offset"])
    lengths = tf.constant(columns["length"])

    def request_rows(number: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        readahead.request(tf.gather(addresses, rows), tf.gather(lengths, rows))
        return number, tf.ensure_shape(rows, [replica_shard.batch_size])

    return request_rows


def readahead_batches(replica_shard: ReplicaShard) -> int:
    """How many batches in advance bytes are requested."""
    return -(-READAHEAD_IMAGES // replica_shard.batch_size)


def make_service_reader(
    index: Index, shuffle_rows: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]], replica_shard: ReplicaShard
) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """A function (batch number) -> data set of one batch (batch number, rows int64 [b], encoded images string [b])."""
    read_records = make_record_reader(index)

    def read_batch(number: tf.Tensor) -> tf.data.Dataset:
        number, rows = shuffle_rows(number)
        return read_records(rows).batch(replica_shard.batch_size).map(lambda images: (number, rows, images))

    return read_batch


def make_record_reader(index: Index) -> Callable[[tf.Tensor], tf.data.Dataset]:
    """A function (rows int64 [n]) -> data set of their encoded images (string []), read by random access to the shards.

    Unlike mapped memory, the function works in a graph that is sent to another machine. Checksums are verified. An
    image takes 0.03 ms of CPU at 1 KB and 0.10 ms at 100 KB; streaming whole shards takes 0.07 and 0.19 ms.
    """
    columns, paths = index.columns, tf.constant(index.shards)
    shards, starts = tf.constant(columns["shard"]), tf.constant(columns["start"])
    # An example is little larger than its image, so one or two reads with a buffer of this size are enough.
    buffer_sizes = tf.constant(columns["offset"] - columns["start"] + columns["length"] + EXAMPLE_OVERHEAD_BYTES)
    feature = {index.features.image: tf.io.FixedLenFeature([], tf.string)}

    def read_record(row: tf.Tensor) -> tf.data.Dataset:
        records = tf.raw_ops.TFRecordDatasetV2(
            filenames=paths[shards[row]][None],
            compression_type="",
            buffer_size=buffer_sizes[row],
            byte_offsets=starts[row][None],
        )
        return tf.data.experimental.from_variant(records, tf.TensorSpec([], tf.string)).take(1)

    def read_images(rows: tf.Tensor) -> tf.data.Dataset:
        examples = tf.data.Dataset.from_tensor_slices(rows).flat_map(read_record)
        return examples.map(lambda example: tf.io.parse_single_example(example, feature)[index.features.image])

    return read_images


def stream_training_images(index: Index, config: DataConfig, replica_shard: ReplicaShard) -> tf.data.Dataset:
    """A data set (row int64 [], encoded image string []) of this worker's rows, each once, in the order of the shards.

    Raises:
      UsageError: `data.balance` needs an exact order, or a record is damaged.
    """
    require(
        config.balance == "none",
        f"data.balance={config.balance} needs memory-mapped shards, but the shards are streamed: copy the data set to a"
        " local disk or use --data.balance=none.",
    )
    logging.info("streaming: the order of examples depends on data.shuffle_buffer (%d)", config.shuffle_buffer)
    workers = replica_shard.replicas // replica_shard.local_replicas
    worker = replica_shard.first_replica // replica_shard.local_replicas
    return _stream_images(index, STREAMED_SHARDS).filter(lambda row, image: row % workers == worker)


def evaluation_reader(
    config: DataConfig, index: Index, replica_shard: ReplicaShard
) -> tuple[tf.data.Dataset, ByteSource]:
    """Returns a data set (rows int64 [b], payloads [b]) of all rows once, in order, and the source of their bytes.

    Padding fills up the last global batch: padding row -1 - r has the payload of row r.
    """
    global_batch_size = replica_shard.global_batch_size
    if use_memory_map(config, index):
        numbers = tf.data.Dataset.range(evaluation_steps(index, replica_shard) * replica_shard.local_replicas)
        positions = numbers.map(replica_shard.positions)
        padded = positions.map(lambda p: (tf.where(p < len(index), p, -1), tf.where(p < len(index), p, 0)))
        return padded, byte_source.mapped_source(index)
    if _is_in_stored_order(index):
        stream = _stream_images(index, parallel_shards=1)
    else:
        rows = tf.data.Dataset.range(len(index))
        stream = tf.data.Dataset.zip(rows, make_record_reader(index)(tf.range(len(index), dtype=tf.int64)))
    padding = stream.take(1).repeat(-len(index) % global_batch_size).map(lambda row, image: (-1 - row, image))
    first = replica_shard.first_replica
    end = first + replica_shard.local_replicas

    replica_of = lambda position: position % global_batch_size // replica_shard.batch_size  # noqa: E731
    stream = stream.concatenate(padding).enumerate()
    stream = stream.filter(lambda position, _: (first <= replica_of(position)) & (replica_of(position) < end))
    stream = stream.map(lambda position, element: element)
    return stream.batch(replica_shard.batch_size, drop_remainder=True), byte_source.STREAMED


def _is_in_stored_order(index: Index) -> bool:
    """Whether the rows follow each other in the shards; not so in a folder to which images were added."""
    shard, record = index.columns["shard"].astype(np.int64), index.columns["record"]
    return bool(((np.diff(shard) > 0) | ((np.diff(shard) == 0) & (np.diff(record) > 0))).all())


def evaluation_steps(index: Index, replica_shard: ReplicaShard) -> int:
    """The number of steps that show every row once: ceil(rows / global batch size)."""
    return -(-len(index) // replica_shard.global_batch_size)


def _stream_images(index: Index, parallel_shards: int) -> tf.data.Dataset:
    """A data set (row int64 [], encoded image string []) of every row once, from `parallel_shards` shards at a time.

    Raises:
      UsageError: a record before the last row of its shard is damaged.
    """
    # Records are numbered over all shards, but in each shard only up to its last row: later records may be damaged.
    shard, record = index.columns["shard"], index.columns["record"]
    counts = np.zeros(len(index.shards), np.int64)
    np.maximum.at(counts, shard, record + 1)
    first = np.cumsum(counts) - counts
    for (fault_shard, fault_record), fault in index.faults.items():
        if fault.endswith(DAMAGED_RECORD) and fault_record < counts[fault_shard]:
            raise UsageError(
                f"{fault}; streaming cannot continue after this record: prepare the data set again,"
                " or copy it to a local disk and use data.reader=mapped."
            )
    rows = np.full(counts.sum(), -1, np.int64)  # -1: the index does not contain the record
    rows[first[shard] + record] = np.arange(len(index))
    row_of_record, feature = tf.constant(rows), {index.features.image: tf.io.FixedLenFeature([], tf.string)}

    def read_shard(path: tf.Tensor, count: tf.Tensor, start: tf.Tensor) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(path).take(count).enumerate(start)

    def parse(number: tf.Tensor, example: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return row_of_record[number], tf.io.parse_single_example(example, feature)[index.features.image]

    shards = tf.data.Dataset.from_tensor_slices((list(index.shards), counts, first))
    stream = shards.interleave(read_shard, cycle_length=parallel_shards, num_parallel_calls=tf.data.AUTOTUNE)
    return stream.filter(lambda number, _: row_of_record[number] >= 0).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
