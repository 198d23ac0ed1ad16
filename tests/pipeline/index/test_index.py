"""The index: every record checked, every image measured, what is lost named; stored once and found again."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import pathlib
import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.images import decode
from evenkeel.pipeline.images.header import FORMATS
from evenkeel.pipeline.index import index
from evenkeel.pipeline.index.index import Index, open_index
from evenkeel.pipeline.index.pixel_sums import measure

CLASSES = ("cat", "dog", "eel")
Example = dict[str, Any]


def picture(seed: int, file_format: str = "PNG") -> bytes:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(3, 12, 2)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(file, file_format)
    return file.getvalue()


def examples(count: int, first: int = 0) -> list[Example]:
    return [
        {"image": picture(seed), "label": seed % 3, "filename": f"picture_{seed}.png"}
        for seed in range(first, first + count)
    ]


def prepared(directory: pathlib.Path, splits: dict[str, list[Example]], shards: int = 3) -> Any:
    """A TFDS directory with the examples in this order, `shards` to a split."""
    known = {
        "image": tfds.features.Image(shape=(None, None, None)),
        "label": tfds.features.ClassLabel(names=CLASSES),
        "filename": tfds.features.Text(),
    }
    names = next(iter(splits.values()))[0]
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name="pictures",
        version="1.0.0",
        features=tfds.features.FeaturesDict({name: known[name] for name in names}),
        split_datasets={split: list(enumerate(rows)) for split, rows in splits.items()},
        data_dir=directory,
        file_format="tfrecord",
        download_config=tfds.download.DownloadConfig(num_shards=shards),
        disable_shuffling=True,
    )
    return tfds.builder_from_directory(str(builder.data_dir))


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """50 examples `train`, 20 `validation`, three shards each. Not to be written to."""
    return prepared(tmp_path_factory.mktemp("pictures"), {"train": examples(50), "validation": examples(20, first=50)})


@pytest.fixture(scope="module")
def whole(builder: Any) -> Index:
    return open_index(builder, "unused")


@pytest.fixture
def fresh(tmp_path: pathlib.Path) -> Any:
    """12 examples `train` in two shards, to be damaged."""
    return prepared(tmp_path / "data", {"train": examples(12)}, shards=2)


def stored_bytes(found: Index) -> list[bytes]:
    """The encoded image of every row, read from the shards by its offset."""
    contents = [pathlib.Path(shard).read_bytes() for shard in found.shards]
    places = zip(*(found.columns[name].tolist() for name in ("shard", "offset", "length")), strict=True)
    return [contents[shard][offset : offset + length] for shard, offset, length in places]


def by_tfds(builder: Any, split: str) -> tuple[list[bytes], list[int]]:
    read = tfds.ReadConfig(interleave_cycle_length=1)
    ds = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()}, read_config=read)
    rows = list(ds.as_numpy_iterator())
    return [row["image"] for row in rows], [int(row["label"]) for row in rows]


def layout(path: str) -> Iterator[tuple[int, int]]:
    """(where a record begins, length of its data) of a sound TFRecord file."""
    contents, start = pathlib.Path(path).read_bytes(), 0
    while start < len(contents):
        (length,) = struct.unpack("<Q", contents[start : start + 8])
        yield start, length
        start += 16 + length


def flip(path: str, at: int) -> None:
    contents = bytearray(pathlib.Path(path).read_bytes())
    contents[at] ^= 1
    pathlib.Path(path).write_bytes(contents)


def test_every_image_stands_where_its_row_says(builder: Any, whole: Index) -> None:
    images, labels = by_tfds(builder, "train+validation")
    assert len(images) == len(whole) == 70
    assert stored_bytes(whole.split(builder, "train+validation")) == images
    assert whole.split(builder, "train+validation").columns["label"].tolist() == labels


def test_sizes_and_kinds_are_those_of_the_images(whole: Index) -> None:
    assert whole.columns["keep"].all()
    assert not whole.columns["kind"].any()
    assert (whole.columns["format"] == FORMATS.index("PNG")).all()
    for row, contents in enumerate(stored_bytes(whole)):
        image = Image.open(io.BytesIO(contents))
        assert (whole.columns["width"][row], whole.columns["height"][row]) == image.size


@pytest.mark.parametrize(
    "split",
    [
        "train", "validation", "train[:90%]", "train[90%:]", "train[10:20]", "train[16:18]", "train[-7:]",
        "train+validation", "validation+train[3:40]", "train[:5]+train[45:]", "train[33%:66%]", "train[5%:15%]",
    ],
)  # fmt: skip
def test_a_split_holds_the_rows_tfds_reads(builder: Any, whole: Index, split: str) -> None:
    images, labels = by_tfds(builder, split)
    found = whole.split(builder, split)
    assert stored_bytes(found) == images
    assert found.columns["label"].tolist() == labels


@pytest.mark.parametrize("split", ["trian", "train[:x]", "train[", "", "train[60:70]", "train[::2]", "train[:200%]"])
def test_what_is_no_split_is_named_with_the_splits_there_are(builder: Any, whole: Index, split: str) -> None:
    with pytest.raises(UsageError) as raised:
        whole.split(builder, split)
    assert str(raised.value) == (
        f"split {split!r} does not exist in pictures/1.0.0, which has train (50), validation (20);"
        " a part of one is written train[:90%]."
    )


def test_an_empty_split_is_refused(builder: Any, whole: Index) -> None:
    with pytest.raises(UsageError, match=r"split 'train\[:0%\]' of pictures/1.0.0 is empty: choose a larger part\.$"):
        whole.split(builder, "train[:0%]")


def test_channel_statistics_are_numpys(builder: Any, whole: Index) -> None:
    rows = whole.split(builder, "train[:30]")
    pixels = [np.asarray(Image.open(io.BytesIO(contents))).reshape(-1, 3) for contents in stored_bytes(rows)]
    mean, std = rows.channel_statistics(channels=3)
    np.testing.assert_allclose(mean, np.concatenate(pixels).mean(axis=0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(std, np.concatenate(pixels).std(axis=0, dtype=np.float64), rtol=1e-9)


def test_statistics_of_one_channel_are_those_of_the_gray_pixels(whole: Index) -> None:
    gray = [decode.decode_whole(tf.constant(contents), channels=1).numpy().ravel() for contents in stored_bytes(whole)]
    mean, std = whole.channel_statistics(channels=1)
    np.testing.assert_allclose(mean, [np.concatenate(gray).mean(dtype=np.float64)], rtol=1e-9)
    np.testing.assert_allclose(std, [np.concatenate(gray).std(dtype=np.float64)], rtol=1e-9)


def test_images_of_a_single_colour_have_a_deviation_of_1(tmp_path: pathlib.Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (10, 20, 255)).save(file, "PNG")
    black = prepared(tmp_path, {"train": [{"image": file.getvalue(), "label": 0}] * 2}, shards=1)
    assert open_index(black, "unused").channel_statistics(3) == ([10, 20, 255], [1, 1, 1])


def test_sums_of_a_large_image_do_not_overflow() -> None:
    """3000 x 3000 white pixels: the squares sum to 5.9e11."""
    file = io.BytesIO()
    Image.new("RGB", (3000, 3000), (255, 255, 255)).save(file, "PNG")
    size, sums, squares, _, _ = measure(tf.io.decode_image(file.getvalue()))
    assert size.numpy().tolist() == [3000, 3000]
    assert sums.numpy().tolist() == [255 * 3000 * 3000] * 4
    assert squares.numpy().tolist() == [255 * 255 * 3000 * 3000] * 4


def test_equal_bytes_at_two_places_of_a_record_are_found(tmp_path: pathlib.Path) -> None:
    twice = prepared(tmp_path, {"train": [{"filename": picture(0), "image": picture(0), "label": 1}]}, shards=1)
    assert stored_bytes(open_index(twice, "unused")) == [picture(0)]


def test_one_flipped_byte_loses_that_record_and_no_other(fresh: Any, tmp_path: pathlib.Path) -> None:
    shards = [str(path) for path in fresh.info.splits["train"].filepaths]
    start, length = list(layout(shards[1]))[2]
    flip(shards[1], start + 12 + length // 2)
    found = open_index(fresh, str(tmp_path))
    assert len(found) == 12
    assert len(found.kept) == 11
    assert found.skipped == [f"{shards[1]} record 2: the checksum does not match: the record is damaged"]
    kept = [example["image"] for number, example in enumerate(examples(12)) if number != 8]
    assert stored_bytes(found.kept) == kept


@pytest.mark.parametrize("at", [0, 9], ids=["length", "checksum of the length"])
def test_behind_a_damaged_length_the_rest_of_the_shard_is_named_as_lost(
    fresh: Any, tmp_path: pathlib.Path, at: int
) -> None:
    shards = [str(path) for path in fresh.info.splits["train"].filepaths]
    start, _ = list(layout(shards[0]))[4]
    flip(shards[0], start + at)
    found = open_index(fresh, str(tmp_path))
    size = os.path.getsize(shards[0])
    reason = f"lost behind byte {start} of its shard, which holds {size}: damaged or cut short there"
    assert found.skipped == [f"{shards[0]} record {record}: {reason}" for record in (4, 5)]
    assert stored_bytes(found.kept) == [e["image"] for n, e in enumerate(examples(12)) if n not in (4, 5)]


@pytest.mark.parametrize("cut", ["in the header", "in the data", "in the checksum", "between records", "at the start"])
def test_a_truncated_shard_keeps_what_stands_before_the_cut(fresh: Any, tmp_path: pathlib.Path, cut: str) -> None:
    shard = str(fresh.info.splits["train"].filepaths[1])
    start, length = list(layout(shard))[3]
    ends = {"in the header": 7, "in the data": 12 + length // 2, "in the checksum": 14 + length, "between records": 0}
    end = start + ends[cut] if cut in ends else 0
    os.truncate(shard, end)
    found = open_index(fresh, str(tmp_path))
    lost = range(3 if end else 0, 6)
    assert [line.split(":")[0] for line in found.skipped] == [f"{shard} record {record}" for record in lost]
    whole = start if end else 0
    assert all(f"behind byte {whole} of its shard, which holds {end}:" in line for line in found.skipped)
    assert stored_bytes(found.kept) == [example["image"] for example in examples(12)[: 6 + lost.start]]


def spoilt(contents: dict[int, Example], count: int = 8) -> list[Example]:
    return [{**example, **contents.get(number, {})} for number, example in enumerate(examples(count))]


def test_corrupt_images_are_named_by_their_file_name(tmp_path: pathlib.Path) -> None:
    broken: dict[int, Example] = {2: {"image": b"no image at all"}, 5: {"image": picture(5)[:-30]}, 6: {"image": b""}}
    found = open_index(prepared(tmp_path, {"train": spoilt(broken)}), "unused")
    assert found.skipped == [f"picture_{number}.png: cannot be decoded as an image" for number in (2, 5, 6)]
    assert stored_bytes(found.kept) == [picture(number) for number in (0, 1, 3, 4, 7)]
    assert found.kept.skipped == []


def test_corrupt_images_without_a_file_name_are_named_by_shard_and_record(tmp_path: pathlib.Path) -> None:
    rows = [{"image": row["image"], "label": row["label"]} for row in spoilt({6: {"image": b"no image"}})]
    builder = prepared(tmp_path, {"train": rows}, shards=2)
    shard = builder.info.splits["train"].filepaths[1]
    assert open_index(builder, "unused").skipped == [f"{shard} record 2: cannot be decoded as an image"]


def test_a_label_of_no_class_is_named(tmp_path: pathlib.Path) -> None:
    found = open_index(prepared(tmp_path, {"train": spoilt({1: {"label": -1}})}), "unused")
    assert found.skipped == ["picture_1.png: label -1 is none of the 3 classes"]


def test_an_animated_webp_is_named_and_never_given_to_the_decoder(tmp_path: pathlib.Path) -> None:
    """Opaque ones make TensorFlow 2.21's decoder write beyond its buffer."""
    frames, file = [Image.open(io.BytesIO(picture(0))).resize((9, 9)).rotate(angle) for angle in (0, 90)], io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    found = open_index(prepared(tmp_path, {"train": spoilt({3: {"image": file.getvalue()}})}), "unused")
    assert found.skipped == ["picture_3.png: an animated WebP cannot be decoded"]


def test_a_still_webp_with_alpha_is_kept_and_jpegs_are_known_as_such(tmp_path: pathlib.Path) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(picture(0))).convert("RGBA").save(file, "WEBP")
    kinds: dict[int, Example] = {3: {"image": file.getvalue()}, 4: {"image": picture(4, "JPEG")}}
    found = open_index(prepared(tmp_path, {"train": spoilt(kinds)}), "unused")
    assert found.skipped == []
    assert np.flatnonzero(found.columns["kind"] == index.JPEG).tolist() == [4]


def forbid(*_: object) -> None:
    raise AssertionError("the index was built again")


def same(a: Index, b: Index) -> bool:
    return (
        (a.shards, a.sizes, a.features, a.faults) == (b.shards, b.sizes, b.features, b.faults)
        and a.columns.keys() == b.columns.keys()
        and all(np.array_equal(a.columns[name], b.columns[name]) for name in a.columns)
        and all(a.columns[name].dtype == b.columns[name].dtype for name in a.columns)
    )


def test_it_is_stored_beside_the_shards_and_read_back(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = prepared(tmp_path / "data", {"train": spoilt({2: {"image": b"no image"}})})
    built = open_index(builder, str(tmp_path / "cache"))
    assert (pathlib.Path(builder.data_dir) / "evenkeel-index.npz").is_file()
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(index, "_build", forbid)
    read = open_index(builder, str(tmp_path / "cache"))
    assert same(built, read)
    assert read.skipped == ["picture_2.png: cannot be decoded as an image"]


@pytest.mark.parametrize("change", ["time", "length"])
def test_it_is_built_again_when_a_shard_changes(
    fresh: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    open_index(fresh, str(tmp_path))
    shard = str(fresh.info.splits["train"].filepaths[0])
    start, length = list(layout(shard))[2]
    if change == "length":
        os.truncate(shard, start)
    else:
        flip(shard, start + 12 + length // 2)
        os.utime(shard, ns=(0, 0))
    found = open_index(fresh, str(tmp_path))
    assert found.sizes[0] == os.path.getsize(shard)
    assert len(found.kept) == (8 if change == "length" else 11)
    monkeypatch.setattr(index, "_build", forbid)
    assert same(open_index(fresh, str(tmp_path)), found)


def test_it_is_built_again_when_its_columns_have_another_meaning(
    fresh: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_index(fresh, str(tmp_path))
    monkeypatch.setattr(index, "VERSION", index.VERSION + 1)
    monkeypatch.setattr(index, "_build", forbid)
    with pytest.raises(AssertionError, match="built again"):
        open_index(fresh, str(tmp_path))


def read_only(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even root cannot write below it."""
    really_write = index._write

    def write(path: str, header: str, columns: dict[str, np.ndarray]) -> None:
        if path.startswith(directory):
            raise OSError(30, "Read-only file system", path)
        really_write(path, header, columns)

    monkeypatch.setattr(index, "_write", write)


def test_it_is_stored_in_the_cache_where_the_shards_cannot_be_written_to(
    fresh: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_only(str(fresh.data_dir), monkeypatch)
    built = open_index(fresh, str(tmp_path / "cache"))
    assert not (pathlib.Path(fresh.data_dir) / "evenkeel-index.npz").exists()
    assert len(list((tmp_path / "cache" / "indexes").glob("*.npz"))) == 1
    monkeypatch.setattr(index, "_build", forbid)
    assert same(open_index(fresh, str(tmp_path / "cache")), built)


def test_where_it_cannot_be_stored_at_all_a_warning_says_so(
    fresh: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read_only("/", monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert len(open_index(fresh, str(tmp_path / "cache")).kept) == 12
    assert f"the index of {fresh.data_dir} could not be stored; it is built at every start" in caplog.messages


def test_nothing_but_the_index_is_left_beside_the_shards(fresh: Any, tmp_path: pathlib.Path) -> None:
    before = set(os.listdir(fresh.data_dir))
    open_index(fresh, str(tmp_path))
    assert set(os.listdir(fresh.data_dir)) - before == {"evenkeel-index.npz"}


@settings(max_examples=20, deadline=None)
@given(records=st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_records_are_those_tensorflow_wrote(tmp_path_factory: pytest.TempPathFactory, records: list[bytes]) -> None:
    path = str(tmp_path_factory.mktemp("records") / "file")
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    found = list(index.records(path, len(records)))
    assert [(data, fault) for _, data, fault in found] == [(record, "") for record in records]
    contents = pathlib.Path(path).read_bytes()
    for offset, data, _ in found:
        assert contents[offset : offset + len(data)] == data
        assert index.masked_crc(data) == contents[offset + len(data) : offset + len(data) + 4]


def test_an_image_larger_than_the_read_buffer_arrives_whole(tmp_path: pathlib.Path) -> None:
    large, small = np.random.default_rng(0).bytes(3 << 20), b"small"
    with tf.io.TFRecordWriter(str(tmp_path / "file")) as writer:
        writer.write(large)
        writer.write(small)
    assert [data for _, data, fault in index.records(str(tmp_path / "file"), 2) if not fault] == [large, small]


def edited(builder: Any, **changes: str) -> Any:
    path = pathlib.Path(builder.data_dir) / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return tfds.builder_from_directory(str(builder.data_dir))


def test_another_file_format_is_refused(fresh: Any) -> None:
    with pytest.raises(UsageError) as raised:
        open_index(edited(fresh, fileFormat="array_record"), "unused")
    assert str(raised.value) == (
        "pictures/1.0.0 is stored as array_record; evenkeel reads tfrecord: prepare it with"
        " builder.download_and_prepare(file_format='tfrecord')."
    )


def test_a_missing_shard_is_named_in_one_line(fresh: Any) -> None:
    shard = str(fresh.info.splits["train"].filepaths[1])
    os.remove(shard)
    with pytest.raises(UsageError, match=f"a shard of pictures/1.0.0 cannot be read: .*{re.escape(shard)}") as raised:
        open_index(fresh, "unused")
    assert "\n" not in str(raised.value)


def test_a_shard_that_breaks_off_while_it_is_read_leaves_no_index(
    fresh: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def records(path: str, expected: int) -> Iterator[tuple[int, bytes, str]]:
        yield from itertools.islice(really_read(path, expected), 3)
        raise tf.errors.UnavailableError(None, None, f"{path}: connection lost")

    really_read = index.records
    monkeypatch.setattr(index, "records", records)
    with pytest.raises(UsageError, match=r"^a shard of pictures/1.0.0 cannot be read: .*connection lost$"):
        open_index(fresh, str(tmp_path))
    monkeypatch.undo()
    assert len(open_index(fresh, str(tmp_path)).kept) == 12


def described(features: dict[str, Any]) -> Any:
    """As much of a builder as `find_features` looks at."""

    class Info:
        full_name = "pictures/1.0.0"

    class Builder:
        info = Info()

    Builder.info.features = features  # type: ignore[attr-defined]
    return Builder()


PHOTO, KIND = tfds.features.Image(), tfds.features.ClassLabel(names=["cat", "dog"])
ONE = "image classification needs exactly one: choose another data set."


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"a": PHOTO, "b": PHOTO, "c": KIND}, f"has 2 image features among a, b, c; {ONE}"),
        ({"image": PHOTO, "text": tfds.features.Text()}, f"has 0 class label features among image, text; {ONE}"),
        (
            {"image": PHOTO, "label": tfds.features.ClassLabel(names=["cat"])},
            "has one class only (cat); classification needs two.",
        ),
    ],
)
def test_data_that_is_not_for_image_classification_is_refused(features: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(f'pictures/1.0.0 {message}')}$"):
        index.find_features(described(features))


def test_features_are_found_whatever_their_names() -> None:
    features = {"photo": PHOTO, "kind": KIND}
    assert index.find_features(described(features)) == index.Features("photo", "kind", None, ("cat", "dog"))
    features["filename"] = tfds.features.Text()
    assert index.find_features(described(features)).filename == "filename"
