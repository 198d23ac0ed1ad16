"""Rows -> encoded bytes: mapped and streamed, for training and evaluation, on one worker and on several."""

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

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index import shuffle
from evenkeel.pipeline.index.build_index import build_index
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.features import Features
from evenkeel.pipeline.index.shuffle import ReplicaShard
from evenkeel.pipeline.reading import memory_map, reader

READERS = pytest.mark.parametrize("kind", ["mapped", "streaming"])
SHARDS = (7, 1, 0, 9, 13)  # records each: 30 in all
Element = tuple[list[int], list[bytes]]  # rows and encoded images


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Thirty rows over shards of different lengths; row r holds `picture(r)`."""
    return written(tmp_path_factory.mktemp("shards"))


def written(directory: pathlib.Path) -> Index:
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
    return indexed(lengths)


def indexed(lengths: dict[str, int]) -> Index:
    features = Features(image="photo", label="kind", filename=None, classes=("a", "b", "c"))
    columns, faults = build_index(lengths, features)
    sizes = tuple(pathlib.Path(path).stat().st_size for path in lengths)
    return Index(tuple(lengths), sizes, features, columns, faults)


def taken(made: reader.Reader, count: int = -1) -> list[Element]:
    """The first elements, or all: the payloads fetched inside tf.data, image by image."""
    ds, fetch = made
    # The number of the element comes first where there is one.
    ds = ds.map(lambda *of: (of[-2], tf.map_fn(fetch.read_bytes, of[-1], fn_output_signature=tf.string)))
    return [(rows.tolist(), images.tolist()) for rows, images in ds.take(count).as_numpy_iterator()]


def flat(elements: list[Element]) -> Element:
    return [row for rows, _ in elements for row in rows], [image for _, images in elements for image in images]


def workers(count: int, batch: int, local: int = 1) -> list[ReplicaShard]:
    return [ReplicaShard(batch, count * local, worker * local, local) for worker in range(count)]


def config(kind: str, **changes: Any) -> DataConfig:
    return DataConfig(reader=kind, shuffle_buffer=16, **changes)


@READERS
def test_training_fetches_the_bytes_of_the_rows_it_names(pictures: Index, kind: str) -> None:
    rows, images = flat(taken(reader.training_reader(config(kind), pictures, 0, ReplicaShard(6), start_step=0), 10))
    assert images == [picture(row) for row in rows]
    assert sorted(rows) == sorted([*range(30)] * 2)


@pytest.mark.parametrize(("count", "size"), [(1, 30), (2, 29), (3, 29), (3, 30)])
def test_mapped_all_workers_together_see_every_row_exactly_once_an_epoch(
    pictures: Index, count: int, size: int
) -> None:
    some = pictures.take(np.arange(size))
    parts = [
        flat(taken(reader.training_reader(config("mapped"), some, 0, replica_shard, 0), 2 * size // count + 1))[0]
        for replica_shard in workers(count, batch=count)
    ]
    sequence = [row for step in zip(*parts, strict=True) for row in step]
    assert sorted(sequence[:size]) == sorted(sequence[size : 2 * size]) == [*range(size)]


@pytest.mark.parametrize(("count", "size"), [(1, 30), (2, 29), (3, 29)])
def test_streamed_all_workers_together_see_every_row_exactly_once_an_epoch(
    pictures: Index, count: int, size: int
) -> None:
    some, epochs = pictures.take(np.arange(size)), ([], [])  # type: tuple[Index, tuple[list[int], list[int]]]
    for replica_shard in workers(count, batch=count):
        mine = len(range(replica_shard.first_replica, size, count))
        rows, _ = flat(taken(reader.training_reader(config("streaming"), some, 0, replica_shard, 0), 2 * mine))
        epochs[0].extend(rows[:mine])
        epochs[1].extend(rows[mine:])
    assert sorted(epochs[0]) == sorted(epochs[1]) == [*range(size)]


def test_mapped_rows_are_the_orders_at_the_shares_positions(pictures: Index) -> None:
    replica_shard = ReplicaShard(12, replicas=4, first_replica=2, local_replicas=2)
    elements = taken(reader.training_reader(config("mapped"), pictures, 5, replica_shard, start_step=3), 4)
    for element, (rows, _) in enumerate(elements, start=3 * 2):
        positions = replica_shard.positions(tf.constant(element, tf.int64))
        assert rows == shuffle.shuffled_rows(positions, 30, 5).numpy().tolist()


def test_mapped_a_late_step_is_reached_without_the_steps_before(pictures: Index) -> None:
    late = 10**13  # were it only counted, it would take days
    (rows, _), *_ = taken(reader.training_reader(config("mapped"), pictures, 0, ReplicaShard(6), late), 1)
    assert rows == shuffle.shuffled_rows(tf.range(6 * late, 6 * late + 6), 30, 0).numpy().tolist()


def test_streamed_a_later_start_leaves_out_the_steps_before(pictures: Index) -> None:
    straight = taken(reader.training_reader(config("streaming"), pictures, 0, ReplicaShard(6), start_step=0), 8)
    assert (
        taken(reader.training_reader(config("streaming"), pictures, 0, ReplicaShard(6), start_step=5), 3)
        == straight[5:]
    )


def test_streamed_orders_differ_by_epoch_and_seed_and_are_repeated_by_the_same_seed(pictures: Index) -> None:
    def rows(seed: int) -> list[int]:
        return flat(taken(reader.training_reader(config("streaming"), pictures, seed, ReplicaShard(30), 0), 2))[0]

    first, second, other = rows(0), rows(0), rows(1)
    assert first == second
    assert first[:30] != first[30:]
    assert first != other
    assert first[:30] != sorted(first[:30])


@READERS
@pytest.mark.parametrize(("count", "local"), [(1, 1), (1, 2), (2, 1), (3, 1)])
def test_evaluation_sees_every_row_once_and_fills_up_with_row_minus_1(
    pictures: Index, kind: str, count: int, local: int
) -> None:
    batch = 12  # 30 rows: three steps, six places left over
    parts = [taken(reader.evaluation_reader(config(kind), pictures, replica_shard)) for replica_shard in workers(count, batch, local)]
    assert {len(part) for part in parts} == {3 * local}
    by_step = [element for step in range(3) for part in parts for element in part[step * local : (step + 1) * local]]
    assert {len(rows) for rows, _ in by_step} == {batch // (count * local)}
    rows, images = flat(by_step)
    assert rows == [*range(30)] + [-1] * 6
    assert images[:30] == [picture(row) for row in range(30)]
    assert set(images[30:]) <= {picture(row) for row in range(30)}


@pytest.mark.parametrize(("batch", "steps"), [(30, 1), (31, 1), (29, 2), (1, 30), (100, 1)])
def test_evaluation_has_as_many_steps_as_it_takes(pictures: Index, batch: int, steps: int) -> None:
    assert reader.evaluation_steps(pictures, ReplicaShard(batch)) == steps
    assert reader.evaluation_reader(config("mapped"), pictures, ReplicaShard(batch))[0].cardinality() == steps


@READERS
def test_a_batch_larger_than_the_data_is_filled_up(pictures: Index, kind: str) -> None:
    ((rows, images),) = taken(reader.evaluation_reader(config(kind), pictures, ReplicaShard(100)))
    assert rows == [*range(30)] + [-1] * 70
    assert len(images) == 100


@READERS
def test_a_choice_of_rows_is_read_and_no_other(pictures: Index, kind: str) -> None:
    chosen = np.array([1, 6, 7, 8, 20, 29])
    rows, images = flat(taken(reader.evaluation_reader(config(kind), pictures.take(chosen), ReplicaShard(3))))
    assert rows == [*range(6)]
    assert images == [picture(row) for row in chosen]


@READERS
def test_rows_in_another_order_than_stored_keep_their_own_images(pictures: Index, kind: str) -> None:
    turned = pictures.take(np.arange(30)[::-1])
    rows, images = flat(taken(reader.evaluation_reader(config(kind), turned, ReplicaShard(5))))
    assert sorted(rows) == [*range(30)]
    assert images == [picture(29 - row) for row in rows]


def test_damaged_records_are_passed_over_where_mapped_and_refused_in_a_stream(tmp_path: pathlib.Path) -> None:
    sound = written(tmp_path)
    damaged = pathlib.Path(sound.shards[3])
    contents = bytearray(damaged.read_bytes())
    at = int(sound.columns["offset"][10])
    contents[at + 5] ^= 1
    damaged.write_bytes(contents)
    kept = indexed(dict(zip(sound.shards, SHARDS, strict=True))).kept_rows
    assert len(kept) == 29
    rows, images = flat(taken(reader.evaluation_reader(config("mapped"), kept, ReplicaShard(29))))
    assert images == [picture(row) for row in range(30) if row != 10]
    assert rows == [*range(29)]
    with pytest.raises(UsageError, match=r"checksum does not match.* cannot be streamed past that: prepare"):
        reader.evaluation_reader(config("streaming"), kept, ReplicaShard(29))


@READERS
def test_what_lies_behind_a_damaged_length_is_not_touched(tmp_path: pathlib.Path, kind: str) -> None:
    sound = written(tmp_path)
    damaged = pathlib.Path(sound.shards[4])
    damaged.write_bytes(damaged.read_bytes()[: int(sound.columns["offset"][25])])
    kept = indexed(dict(zip(sound.shards, SHARDS, strict=True))).kept_rows
    rows, images = flat(taken(reader.evaluation_reader(config(kind), kept, ReplicaShard(25))))
    assert rows == [*range(25)]
    assert images == [picture(row) for row in range(25)]


def test_a_shard_cut_short_after_indexing_is_named(pictures: Index) -> None:
    grown = dataclasses.replace(pictures, sizes=(*pictures.sizes[:-1], pictures.sizes[-1] + 1))
    with pytest.raises(UsageError, match=f"^{pictures.shards[-1]} holds {pictures.sizes[-1]} bytes, its index says"):
        reader.training_reader(config("mapped"), grown, 0, ReplicaShard(6), 0)


def test_local_shards_are_mapped_unless_streaming_is_asked_for(pictures: Index) -> None:
    kinds = ("auto", "mapped", "streaming")
    assert [reader.use_memory_map(config(kind), pictures) for kind in kinds] == [True, True, False]


def test_remote_shards_are_streamed_and_cannot_be_mapped(pictures: Index) -> None:
    remote = dataclasses.replace(pictures, shards=("gs://bucket/pets/a.tfrecord", *pictures.shards[1:]))
    assert not reader.use_memory_map(config("auto"), remote)
    with pytest.raises(UsageError) as raised:
        reader.training_reader(config("mapped"), remote, 0, ReplicaShard(6), start_step=0)
    assert str(raised.value) == (
        "data.reader=mapped needs local shards on Linux, and gs://bucket/pets/a.tfrecord is not:"
        " copy the data set to a local disk or use data.reader=streaming."
    )
    with pytest.raises(UsageError, match=r"^data\.reader=mapped needs local shards"):
        reader.evaluation_reader(config("mapped"), remote, ReplicaShard(6))


def test_where_nothing_can_be_mapped_it_is_streamed(pictures: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_map, "available", False)
    assert not reader.use_memory_map(config("auto"), pictures)
    with pytest.raises(UsageError, match=r"^data\.reader=mapped needs local shards on Linux"):
        reader.use_memory_map(config("mapped"), pictures)
