"""The index: splits, channel statistics, and the location of each image."""

from __future__ import annotations

import io
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.images import decode
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.split_rows import tfds_splits
from evenkeel.pipeline.index.storage import open_index
from tests.pipeline.index.tfds_pictures import (
    prepare_tfds,
    read_images,
)


def read_by_tfds(builder: Any, split: str) -> tuple[list[bytes], list[int]]:
    read = tfds.ReadConfig(interleave_cycle_length=1)
    ds = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()}, read_config=read)
    rows = list(ds.as_numpy_iterator())
    return [row["image"] for row in rows], [int(row["label"]) for row in rows]


@pytest.mark.parametrize(
    "split",
    [
        "train", "validation", "train[:90%]", "train[90%:]", "train[10:20]", "train[16:18]", "train[-7:]",
        "train+validation", "validation+train[3:40]", "train[:5]+train[45:]", "train[33%:66%]", "train[5%:15%]",
    ],
)  # fmt: skip
def test_a_split_holds_the_rows_that_tfds_reads(builder: Any, whole: Index, split: str) -> None:
    images, labels = read_by_tfds(builder, split)
    rows = whole.take(tfds_splits(builder, whole).select(split))
    assert read_images(rows) == images
    assert rows.columns["label"].tolist() == labels


@pytest.mark.parametrize("split", ["trian", "train[:x]", "train[", "", "train[60:70]", "train[::2]", "train[:200%]"])
def test_an_unknown_split_is_an_error_that_lists_the_splits(builder: Any, whole: Index, split: str) -> None:
    with pytest.raises(UsageError) as raised:
        whole.take(tfds_splits(builder, whole).select(split))
    assert str(raised.value) == (
        f"split {split!r} does not exist in pictures/1.0.0, which has train (50), validation (20);"
        " a part of a split is written train[:90%]."
    )


def test_an_empty_split_is_an_error(builder: Any, whole: Index) -> None:
    with pytest.raises(UsageError, match=r"split 'train\[:0%\]' of pictures/1.0.0 is empty: choose a larger part\.$"):
        whole.take(tfds_splits(builder, whole).select("train[:0%]"))


def test_channel_statistics_equal_those_of_numpy(builder: Any, whole: Index) -> None:
    rows = whole.take(tfds_splits(builder, whole).select("train[:30]"))
    pixels = [np.asarray(Image.open(io.BytesIO(contents))).reshape(-1, 3) for contents in read_images(rows)]
    mean, std = rows.channel_statistics(channels=3)
    np.testing.assert_allclose(mean, np.concatenate(pixels).mean(axis=0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(std, np.concatenate(pixels).std(axis=0, dtype=np.float64), rtol=1e-9)


def test_statistics_of_one_channel_are_those_of_gray_pixels(whole: Index) -> None:
    gray = [decode.decode_whole(tf.constant(contents), channels=1).numpy().ravel() for contents in read_images(whole)]
    mean, std = whole.channel_statistics(channels=1)
    np.testing.assert_allclose(mean, [np.concatenate(gray).mean(dtype=np.float64)], rtol=1e-9)
    np.testing.assert_allclose(std, [np.concatenate(gray).std(dtype=np.float64)], rtol=1e-9)


def test_images_of_a_single_colour_have_a_deviation_of_1(tmp_path: pathlib.Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (5, 4), (10, 20, 255)).save(file, "PNG")
    black = prepare_tfds(tmp_path, {"train": [{"image": file.getvalue(), "label": 0}] * 2}, shards=1)
    assert open_index(black, "unused").channel_statistics(3) == ([10, 20, 255], [1, 1, 1])


def test_every_image_is_at_the_offset_of_its_row(builder: Any, whole: Index) -> None:
    images, labels = read_by_tfds(builder, "train+validation")
    assert len(images) == len(whole) == 70
    assert read_images(whole.take(tfds_splits(builder, whole).select("train+validation"))) == images
    assert whole.take(tfds_splits(builder, whole).select("train+validation")).columns["label"].tolist() == labels
