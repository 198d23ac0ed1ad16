"""Small TFDS data sets of pictures, and ways to read and damage their shards."""

from __future__ import annotations

import io
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from evenkeel.pipeline.index.index import Index

CLASSES = ("cat", "dog", "eel")


Example = dict[str, Any]


def encode_picture(seed: int, file_format: str = "PNG") -> bytes:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(3, 12, 2)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(file, file_format)
    return file.getvalue()


def make_examples(count: int, first: int = 0) -> list[Example]:
    return [
        {"image": encode_picture(seed), "label": seed % 3, "filename": f"picture_{seed}.png"}
        for seed in range(first, first + count)
    ]


def prepare_tfds(directory: pathlib.Path, splits: dict[str, list[Example]], shards: int = 3) -> Any:
    """A TFDS data set of the examples in this order, with `shards` shards per split."""
    features = {
        "image": tfds.features.Image(shape=(None, None, None)),
        "label": tfds.features.ClassLabel(names=CLASSES),
        "filename": tfds.features.Text(),
    }
    names = next(iter(splits.values()))[0]
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name="pictures",
        version="1.0.0",
        features=tfds.features.FeaturesDict({name: features[name] for name in names}),
        split_datasets={split: list(enumerate(rows)) for split, rows in splits.items()},
        data_dir=directory,
        file_format="tfrecord",
        download_config=tfds.download.DownloadConfig(num_shards=shards),
        disable_shuffling=True,
    )
    return tfds.builder_from_directory(str(builder.data_dir))


def read_images(rows: Index) -> list[bytes]:
    """The encoded image of every row, read from the shards at its offset."""
    contents = [pathlib.Path(shard).read_bytes() for shard in rows.shards]
    locations = zip(*(rows.columns[name].tolist() for name in ("shard", "offset", "length")), strict=True)
    return [contents[shard][offset : offset + length] for shard, offset, length in locations]


def record_layout(path: str) -> Iterator[tuple[int, int]]:
    """(offset, length of the data) of every record of a sound TFRecord file."""
    contents, start = pathlib.Path(path).read_bytes(), 0
    while start < len(contents):
        (length,) = struct.unpack("<Q", contents[start : start + 8])
        yield start, length
        start += 16 + length


def flip_bit(path: str, offset: int) -> None:
    contents = bytearray(pathlib.Path(path).read_bytes())
    contents[offset] ^= 1
    pathlib.Path(path).write_bytes(contents)


def spoil_examples(changes: dict[int, Example], count: int = 8) -> list[Example]:
    return [{**example, **changes.get(number, {})} for number, example in enumerate(make_examples(count))]


def equal_indexes(a: Index, b: Index) -> bool:
    return (
        (a.shards, a.sizes, a.features, a.faults) == (b.shards, b.sizes, b.features, b.faults)
        and a.columns.keys() == b.columns.keys()
        and all(np.array_equal(a.columns[name], b.columns[name]) for name in a.columns)
        and all(a.columns[name].dtype == b.columns[name].dtype for name in a.columns)
    )


def fail_if_built(*_: object) -> None:
    raise AssertionError("the index was built again")
