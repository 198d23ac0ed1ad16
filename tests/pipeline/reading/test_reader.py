"""Readers: the bytes of each row, mapped and streamed, for training and evaluation, on one worker and on several."""

from __future__ import annotations

import dataclasses
import io
import itertools
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from evenkeel.pipeline.build import training_chain
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index import shuffle
from evenkeel.pipeline.index.build_index import build_index
from evenkeel.pipeline.index.features import Features
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.reading import memory_map, reader
from evenkeel.pipeline.reading.byte_source import ByteSource

READERS = pytest.mark.parametrize("kind", ["mapped", "streaming"])
SHARDS = (7, 1, 0, 9, 13)  # records each: 30 in all
Batch = tuple[list[int], list[bytes]]  # rows and encoded images


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Thirty rows over shards of different lengths; row r holds `picture(r)`."""
    return write_shards(tmp_path_factory.mktemp("shards"))


def write_shards(directory: pathlib.Path) -> Index:
    seeds, lengths = itertools.count(), {}
    for number, length in enumerate(SHARDS):
        path = str(directory / f"shard-{number}")
        with tf.io.TFRecordWriter(path) as writer:
            for seed in itertools.islice(seeds, length):
                image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture(seed)]))
                label = tf.train.Feature(int64_list=tf.train.Int64List(value=[seed % 3]))
                features = tf.train.Features(feature={"photo": image, "kind": label})
                writer.write(tf.train.Example(features=features).SerializeToString())
        lengths[path] = length
    return index_of(lengths)


def index_of(lengths: dict[str, int]) -> Index:
    features = Features(image="photo", label="kind", filename=None, classes=("a", "b", "c"))
    columns, faults = build_index(lengths, features)
    sizes = tuple(pathlib.Path(path).stat().st_size for path in lengths)
    return Index(tuple(lengths), sizes, features, columns, faults)


def read_training(
    config: DataConfig, index: Index, seed: int, replica_shard: ReplicaShard, start_step: int, count: int
) -> list[Batch]:
    """The first `count` batches of the training chain's first stage."""
    chain = training_chain(index, config, seed, replica_shard, start_step)
    assert chain.source is not None
    return read_batches((chain.read, chain.source), count)


def read_batches(batches_and_source: tuple[tf.data.Dataset, ByteSource], count: int = -1) -> list[Batch]:
    """The first `count` batches, or all; the bytes are read inside tf.data, image by image."""
    ds, source = batches_and_source
    # A training batch begins with its number.
    ds = ds.map(lambda *batch: (batch[-2], tf.map_fn(source.read_bytes, batch[-1], fn_output_signature=tf.string)))
    return [(rows.tolist(), images.tolist()) for rows, images in ds.take(count).as_numpy_iterator()]


def concatenate(batches: list[Batch]) -> Batch:
    return [row for rows, _ in batches for row in rows], [image for _, images in batches for image in images]


def worker_shards(count: int, batch: int, local: int = 1) -> list[ReplicaShard]:
    return [ReplicaShard(batch, count * local, worker * local, local) for worker in range(count)]


def config(kind: str, **changes: Any) -> DataConfig:
    return DataConfig(reader=kind, shuffle_buffer=16, cache="none", **changes)


@READERS
def test_training_reads_the_bytes_of_its_rows(pictures: Index, kind: str) -> None:
    rows, images = concatenate(read_training(config(kind), pictures, 0, ReplicaShard(6), 0, 10))
    assert images == [picture(row) for row in rows]
    assert sorted(rows) == sorted([*range(30)] * 2)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "size"), [(1, 30), (2, 29), (3, 29), (3, 30)])
def test_mapped_rows_come_exactly_once_per_epoch_over_all_workers(pictures: Index, count: int, size: int) -> None:
    subset = pictures.take(np.arange(size))
    parts = [
        concatenate(read_training(config("mapped"), subset, 0, replica_shard, 0, 2 * size // count + 1))[0]
        for replica_shard in worker_shards(count, batch=count)
    ]
    sequence = [row for step in zip(*parts, strict=True) for row in step]
    assert sorted(sequence[:size]) == sorted(sequence[size : 2 * size]) == [*range(size)]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "size"), [(1, 30), (2, 29), (3, 29)])
def test_streamed_rows_come_exactly_once_per_epoch_over_all_workers(pictures: Index, count: int, size: int) -> None:
    subset, epochs = pictures.take(np.arange(size)), ([], [])  # type: tuple[Index, tuple[list[int], list[int]]]
    for replica_shard in worker_shards(count, batch=count):
        local_rows = len(range(replica_shard.first_replica, size, count))
        rows, _ = concatenate(read_training(config("streaming"), subset, 0, replica_shard, 0, 2 * local_rows))
        epochs[0].extend(rows[:local_rows])
        epochs[1].extend(rows[local_rows:])
    assert sorted(epochs[0]) == sorted(epochs[1]) == [*range(size)]


def test_mapped_rows_are_those_at_the_positions_of_the_replica_shard(pictures: Index) -> None:
    replica_shard = ReplicaShard(12, replicas=4, first_replica=2, local_replicas=2)
    batches = read_training(config("mapped"), pictures, 5, replica_shard, 3, 4)
    for number, (rows, _) in enumerate(batches, start=3 * 2):
        positions = replica_shard.positions(tf.constant(number, tf.int64))
        assert rows == shuffle.shuffled_rows(positions, 30, 3 * 5).numpy().tolist()


def test_mapped_training_can_start_at_a_late_step(pictures: Index) -> None:
    late = 10**13  # counting so many steps would take days
    (rows, _), *_ = read_training(config("mapped"), pictures, 0, ReplicaShard(6), late, 1)
    assert rows == shuffle.shuffled_rows(tf.range(6 * late, 6 * late + 6), 30, 0).numpy().tolist()


def test_streamed_training_that_starts_later_skips_the_steps_before(pictures: Index) -> None:
    straight = read_training(config("streaming"), pictures, 0, ReplicaShard(6), 0, 8)
    assert read_training(config("streaming"), pictures, 0, ReplicaShard(6), 5, 3) == straight[5:]


def test_streamed_order_depends_on_epoch_and_seed_and_is_reproducible(pictures: Index) -> None:
    def rows(seed: int) -> list[int]:
        return concatenate(read_training(config("streaming"), pictures, seed, ReplicaShard(30), 0, 2))[0]

    first, second, other = rows(0), rows(0), rows(1)
    assert first == second
    assert first[:30] != first[30:]
    assert first != other
    assert first[:30] != sorted(first[:30])


@pytest.mark.slow
@READERS
@pytest.mark.parametrize(("count", "local"), [(1, 1), (1, 2), (2, 1), (3, 1)])
def test_evaluation_reads_every_row_once_and_pads_with_row_minus_1(
    pictures: Index, kind: str, count: int, local: int
) -> None:
    size = 12  # 30 rows: three steps, the last one with six padding rows
    parts = [
        read_batches(reader.evaluation_reader(config(kind), pictures, replica_shard))
        for replica_shard in worker_shards(count, size, local)
    ]
    assert {len(part) for part in parts} == {3 * local}
    by_step = [batch for step in range(3) for part in parts for batch in part[step * local : (step + 1) * local]]
    assert {len(rows) for rows, _ in by_step} == {size // (count * local)}
    rows, images = concatenate(by_step)
    assert rows == [*range(30)] + [-1] * 6
    assert images[:30] == [picture(row) for row in range(30)]
    assert set(images[30:]) <= {picture(row) for row in range(30)}


@pytest.mark.parametrize(("batch", "steps"), [(30, 1), (31, 1), (29, 2), (1, 30), (100, 1)])
def test_evaluation_steps_cover_all_rows(pictures: Index, batch: int, steps: int) -> None:
    assert reader.evaluation_steps(pictures, ReplicaShard(batch)) == steps
    assert reader.evaluation_reader(config("mapped"), pictures, ReplicaShard(batch))[0].cardinality() == steps


@READERS
def test_a_batch_larger_than_the_data_set_is_padded(pictures: Index, kind: str) -> None:
    ((rows, images),) = read_batches(reader.evaluation_reader(config(kind), pictures, ReplicaShard(100)))
    assert rows == [*range(30)] + [-1] * 70
    assert len(images) == 100


@READERS
def test_only_selected_rows_are_read(pictures: Index, kind: str) -> None:
    selected = np.array([1, 6, 7, 8, 20, 29])
    rows, images = concatenate(
        read_batches(reader.evaluation_reader(config(kind), pictures.take(selected), ReplicaShard(3)))
    )
    assert rows == [*range(6)]
    assert images == [picture(row) for row in selected]


@READERS
def test_rows_in_reverse_order_are_read_in_that_order_with_their_own_images(pictures: Index, kind: str) -> None:
    reverse = pictures.take(np.arange(30)[::-1])
    rows, images = concatenate(read_batches(reader.evaluation_reader(config(kind), reverse, ReplicaShard(5))))
    assert rows == [*range(30)]
    assert images == [picture(29 - row) for row in rows]


def test_damaged_records_are_skipped_if_mapped_and_refused_if_streamed(tmp_path: pathlib.Path) -> None:
    intact = write_shards(tmp_path)
    damaged = pathlib.Path(intact.shards[3])
    contents = bytearray(damaged.read_bytes())
    offset = int(intact.columns["offset"][10])
    contents[offset + 5] ^= 1
    damaged.write_bytes(contents)
    kept = index_of(dict(zip(intact.shards, SHARDS, strict=True))).kept_rows
    assert len(kept) == 29
    rows, images = concatenate(read_batches(reader.evaluation_reader(config("mapped"), kept, ReplicaShard(29))))
    assert images == [picture(row) for row in range(30) if row != 10]
    assert rows == [*range(29)]
    with pytest.raises(
        UsageError, match=r"checksum does not match.*; streaming cannot continue after this record: prepare"
    ):
        reader.evaluation_reader(config("streaming"), kept, ReplicaShard(29))


@READERS
def test_nothing_after_a_damaged_length_is_read(tmp_path: pathlib.Path, kind: str) -> None:
    intact = write_shards(tmp_path)
    damaged = pathlib.Path(intact.shards[4])
    damaged.write_bytes(damaged.read_bytes()[: int(intact.columns["offset"][25])])
    kept = index_of(dict(zip(intact.shards, SHARDS, strict=True))).kept_rows
    rows, images = concatenate(read_batches(reader.evaluation_reader(config(kind), kept, ReplicaShard(25))))
    assert rows == [*range(25)]
    assert images == [picture(row) for row in range(25)]


def test_a_shard_truncated_after_indexing_is_named(pictures: Index) -> None:
    grown = dataclasses.replace(pictures, sizes=(*pictures.sizes[:-1], pictures.sizes[-1] + 1))
    with pytest.raises(UsageError, match=f"^{pictures.shards[-1]} has {pictures.sizes[-1]} bytes, but its index says"):
        training_chain(grown, config("mapped"), 0, ReplicaShard(6))


def test_local_shards_are_mapped_unless_data_reader_is_streaming(pictures: Index) -> None:
    kinds = ("auto", "mapped", "streaming")
    assert [reader.use_memory_map(config(kind), pictures) for kind in kinds] == [True, True, False]


def test_remote_shards_are_streamed_and_cannot_be_mapped(pictures: Index) -> None:
    remote = dataclasses.replace(pictures, shards=("gs://bucket/pets/a.tfrecord", *pictures.shards[1:]))
    assert not reader.use_memory_map(config("auto"), remote)
    with pytest.raises(UsageError) as raised:
        training_chain(remote, config("mapped"), 0, ReplicaShard(6))
    assert str(raised.value) == (
        "data.reader=mapped needs local shards on Linux, but gs://bucket/pets/a.tfrecord cannot be mapped:"
        " copy the data set to a local disk or use data.reader=streaming."
    )
    with pytest.raises(UsageError, match=r"^data\.reader=mapped needs local shards"):
        reader.evaluation_reader(config("mapped"), remote, ReplicaShard(6))


def test_shards_are_streamed_if_the_system_cannot_map(pictures: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_map, "available", False)
    assert not reader.use_memory_map(config("auto"), pictures)
    with pytest.raises(UsageError, match=r"^data\.reader=mapped needs local shards on Linux"):
        reader.use_memory_map(config("mapped"), pictures)
