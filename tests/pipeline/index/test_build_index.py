"""Building the index: every record is checked, every image decoded, and each fault named."""

from __future__ import annotations

import io
import itertools
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.images.header import FORMATS
from evenkeel.pipeline.images.perceptual_hash import hamming_distances
from evenkeel.pipeline.index import build_index, index
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.storage import open_index
from tests.indexes import hash_image, render_images
from tests.pipeline.index.tfds_pictures import (
    Example,
    encode_picture,
    flip_bit,
    make_examples,
    prepare_tfds,
    read_images,
    record_layout,
    spoil_examples,
)


def test_sizes_and_kinds_are_those_of_the_images(whole: Index) -> None:
    assert whole.columns["keep"].all()
    assert not whole.columns["kind"].any()
    assert (whole.columns["format"] == FORMATS.index("PNG")).all()
    for row, contents in enumerate(read_images(whole)):
        image = Image.open(io.BytesIO(contents))
        assert (whole.columns["width"][row], whole.columns["height"][row]) == image.size


def test_an_image_that_occurs_twice_in_its_record_is_read_correctly(tmp_path: pathlib.Path) -> None:
    twice = prepare_tfds(
        tmp_path, {"train": [{"filename": encode_picture(0), "image": encode_picture(0), "label": 1}]}, shards=1
    )
    assert read_images(open_index(twice, "unused")) == [encode_picture(0)]


def test_a_flipped_bit_loses_only_its_record(fresh: Any, tmp_path: pathlib.Path) -> None:
    shards = [str(path) for path in fresh.info.splits["train"].filepaths]
    start, length = list(record_layout(shards[1]))[2]
    flip_bit(shards[1], start + 12 + length // 2)
    rows = open_index(fresh, str(tmp_path))
    assert len(rows) == 12
    assert len(rows.kept_rows) == 11
    assert rows.skip_reasons == [f"{shards[1]} record 2: the checksum does not match: the record is damaged"]
    kept = [example["image"] for number, example in enumerate(make_examples(12)) if number != 8]
    assert read_images(rows.kept_rows) == kept


@pytest.mark.parametrize("at", [0, 9], ids=["length", "checksum of the length"])
def test_all_records_after_a_damaged_length_are_named_as_lost(fresh: Any, tmp_path: pathlib.Path, at: int) -> None:
    shards = [str(path) for path in fresh.info.splits["train"].filepaths]
    start, _ = list(record_layout(shards[0]))[4]
    flip_bit(shards[0], start + at)
    rows = open_index(fresh, str(tmp_path))
    size = os.path.getsize(shards[0])
    reason = f"the shard of {size} bytes is damaged or cut short at byte {start}: the rest is lost"
    assert rows.skip_reasons == [f"{shards[0]} record {record}: {reason}" for record in (4, 5)]
    assert read_images(rows.kept_rows) == [e["image"] for n, e in enumerate(make_examples(12)) if n not in (4, 5)]


@pytest.mark.parametrize("cut", ["in the header", "in the data", "in the checksum", "between records", "at the start"])
def test_a_truncated_shard_keeps_the_records_before_the_cut(fresh: Any, tmp_path: pathlib.Path, cut: str) -> None:
    shard = str(fresh.info.splits["train"].filepaths[1])
    start, length = list(record_layout(shard))[3]
    ends = {"in the header": 7, "in the data": 12 + length // 2, "in the checksum": 14 + length, "between records": 0}
    end = start + ends[cut] if cut in ends else 0
    os.truncate(shard, end)
    rows = open_index(fresh, str(tmp_path))
    lost = range(3 if end else 0, 6)
    assert [line.split(":")[0] for line in rows.skip_reasons] == [f"{shard} record {record}" for record in lost]
    whole = start if end else 0
    assert all(
        f"the shard of {end} bytes is damaged or cut short at byte {whole}:" in line for line in rows.skip_reasons
    )
    assert read_images(rows.kept_rows) == [example["image"] for example in make_examples(12)[: 6 + lost.start]]


def test_corrupt_images_are_named_by_their_file_name(tmp_path: pathlib.Path) -> None:
    broken: dict[int, Example] = {
        2: {"image": b"no image at all"},
        5: {"image": encode_picture(5)[:-30]},
        6: {"image": b""},
    }
    rows = open_index(prepare_tfds(tmp_path, {"train": spoil_examples(broken)}), "unused")
    reasons = {2: "a text file", 5: "a damaged or truncated PNG", 6: "empty"}
    assert rows.skip_reasons == [
        f"picture_{number}.png: cannot be decoded as an image: it is {reason}" for number, reason in reasons.items()
    ]
    assert read_images(rows.kept_rows) == [encode_picture(number) for number in (0, 1, 3, 4, 7)]
    assert rows.kept_rows.skip_reasons == []


def test_corrupt_images_without_a_file_name_are_named_by_shard_and_record(tmp_path: pathlib.Path) -> None:
    rows = [{"image": row["image"], "label": row["label"]} for row in spoil_examples({6: {"image": b"no image"}})]
    builder = prepare_tfds(tmp_path, {"train": rows}, shards=2)
    shard = builder.info.splits["train"].filepaths[1]
    assert open_index(builder, "unused").skip_reasons == [
        f"{shard} record 2: cannot be decoded as an image: it is a text file"
    ]


def test_the_perceptual_hash_is_that_of_the_upright_picture(tmp_path: pathlib.Path) -> None:
    picture = Image.fromarray(render_images(1, size=48)[0][:36])
    upright, turned, exif = io.BytesIO(), io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    picture.save(upright, "JPEG", quality=95)
    picture.transpose(Image.Transpose.ROTATE_90).save(turned, "JPEG", quality=95, exif=exif)
    examples = spoil_examples({2: {"image": upright.getvalue()}, 5: {"image": turned.getvalue()}})
    rows = open_index(prepare_tfds(tmp_path, {"train": examples}), "unused")
    by_name = dict(zip(rows.names, rows.columns["perceptual_hash"], strict=True))
    hashes = [by_name[f"picture_{number}.png"] for number in (2, 5)]
    assert hamming_distances(*hashes) <= 8
    expected = hash_image(np.asarray(Image.open(io.BytesIO(upright.getvalue()))))
    assert hamming_distances(hashes[0], expected) <= 8


def test_a_label_outside_the_classes_is_named(tmp_path: pathlib.Path) -> None:
    rows = open_index(prepare_tfds(tmp_path, {"train": spoil_examples({1: {"label": -1}})}), "unused")
    assert rows.skip_reasons == ["picture_1.png: label -1 is none of the 3 classes"]


def test_an_animated_webp_is_named_and_not_decoded(tmp_path: pathlib.Path) -> None:
    """An opaque one makes TensorFlow 2.21's decoder write beyond its buffer."""
    frames, file = (
        [Image.open(io.BytesIO(encode_picture(0))).resize((9, 9)).rotate(angle) for angle in (0, 90)],
        io.BytesIO(),
    )
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    rows = open_index(prepare_tfds(tmp_path, {"train": spoil_examples({3: {"image": file.getvalue()}})}), "unused")
    assert rows.skip_reasons == ["picture_3.png: an animated WebP cannot be decoded"]


def test_a_still_webp_with_alpha_is_kept_and_jpegs_have_their_own_kind(tmp_path: pathlib.Path) -> None:
    file = io.BytesIO()
    Image.open(io.BytesIO(encode_picture(0))).convert("RGBA").save(file, "WEBP")
    kinds: dict[int, Example] = {3: {"image": file.getvalue()}, 4: {"image": encode_picture(4, "JPEG")}}
    rows = open_index(prepare_tfds(tmp_path, {"train": spoil_examples(kinds)}), "unused")
    assert rows.skip_reasons == []
    assert np.flatnonzero(rows.columns["kind"] == index.JPEG).tolist() == [4]


def test_a_read_error_inside_a_shard_leaves_no_index(
    fresh: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def records(path: str, expected: int) -> Iterator[tuple[int, bytes, str]]:
        yield from itertools.islice(read_all(path, expected), 3)
        raise tf.errors.UnavailableError(None, None, f"{path}: connection lost")

    read_all = build_index.read_records
    monkeypatch.setattr(build_index, "read_records", records)
    with pytest.raises(
        UsageError,
        match=r"^a shard of pictures/1.0.0 cannot be read: .*connection lost; repair the shard or prepare the data set"
        r" again\.$",
    ):
        open_index(fresh, str(tmp_path))
    monkeypatch.undo()
    assert len(open_index(fresh, str(tmp_path)).kept_rows) == 12
