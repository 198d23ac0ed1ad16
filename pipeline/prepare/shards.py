"""Located examples -> one TFRecord shard and, beside it, the rows of the index it will have.

    written = write_shard("pets-train.tfrecord-00000-of-00002", "0.npz", examples, rows, options)
    written.lost    # {row: why its image is not in the shard}

Both files are written beside and renamed, the rows last: where they are, the shard is whole.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.config import Tier
from evenkeel.pipeline.index.index import (
    COLUMNS,
    JPEG,
    RAW,
    check_image,
)
from evenkeel.pipeline.index.pixel_sums import measure
from evenkeel.pipeline.prepare.storage_format import (
    decode_for,
    kept_as,
    scale_for,
    stored_as,
)
from evenkeel.pipeline.sources.examples import Examples

READERS = 8  # files opened at once: storage that is far away answers late
AHEAD = 32  # images read ahead of the decoders
FIGURES = ("sums", "squares", "laplacian", "fingerprint")


@dataclasses.dataclass(frozen=True)
class Storing:
    """How images are stored, and what is not tried: more than `max_pixels`, more than `threads` at once."""

    tier: Tier
    bound: str
    max_pixels: int
    threads: int


class Stored(NamedTuple):
    """An image ready to be written: bytes to store, and what the index says of it."""

    row: int
    contents: bytes
    columns: dict[str, Any]


class Written(NamedTuple):
    """A finished shard: the index's columns of its records, in order, and the rows that did not make it, and why."""

    columns: dict[str, np.ndarray]
    lost: dict[int, str]


def stored_images(examples: Examples, rows: np.ndarray, storing: Storing, lost: dict[int, str]) -> Iterator[Stored]:
    """The images of `rows` in that order, stored as the tier says; those that cannot be go into `lost`."""
    kinds: dict[int, tuple[int, int]] = {}
    undecoded: dict[int, None] = {}
    unread: list[Exception] = []

    def checked() -> Iterator[tuple[int, bytes, np.ndarray, int, bool]]:
        for row, contents in _read_ahead(examples, rows.tolist()):
            shape = np.zeros(0, np.int64) if examples.shapes is None else examples.shapes[row]
            try:
                if not 0 <= examples.label[row] < len(examples.classes):
                    raise ValueError(f"label {examples.label[row]} is none of the {len(examples.classes)} classes")
                kind, header = check_image(contents, storing.max_pixels, shape.tolist())
            except ValueError as error:
                lost[row] = str(error)
            else:
                image_format = kept_as(header.format)
                kinds[row], undecoded[row] = (kind, image_format), None
                scale = scale_for(storing.tier, storing.bound, header)
                yield row, contents, shape, scale, image_format == header.format

    def checked_or_unread() -> Iterator[tuple[int, bytes, np.ndarray, int, bool]]:
        # Raised here, `ignore_errors` would end the data set early and without a word.
        try:
            yield from checked()
        except Exception as error:
            unread.append(error)

    store = stored_as(storing.tier, storing.bound)

    def process(
        row: tf.Tensor, contents: tf.Tensor, shape: tf.Tensor, scale: tf.Tensor, whole: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        if examples.shapes is None:
            image = decode_for(contents, scale)
        else:
            image = tf.reshape(tf.io.decode_raw(contents, tf.uint8), tf.ensure_shape(shape, [3]))
        contents, image = store(image, contents, whole)
        return row, contents, *measure(image)

    number = tf.TensorSpec([], tf.int64)
    signature = (
        number,
        tf.TensorSpec([], tf.string),
        tf.TensorSpec([None], tf.int64),
        number,
        tf.TensorSpec([], tf.bool),
    )
    ds = tf.data.Dataset.from_generator(checked_or_unread, output_signature=signature)
    ds = ds.map(process, num_parallel_calls=storing.threads, deterministic=True)
    options = tf.data.Options()
    options.threading.private_threadpool_size = storing.threads
    kind_of: dict[str, Callable[[int], tuple[int, int]]] = {
        "raw": lambda row: (RAW, 0),
        "jpeg": lambda row: (JPEG, 1) if storing.tier.side else kinds[row],
    }
    # An image that does not decode is missing from what comes back, and that is how it is found.
    for row, contents, size, *figures in ds.with_options(options).ignore_errors().as_numpy_iterator():
        row = int(row)
        del undecoded[row]
        kind, image_format = kind_of[storing.tier.kind](row)
        columns: dict[str, Any] = {"kind": kind, "format": image_format, "keep": True, "label": examples.label[row]}
        columns |= {"height": size[0], "width": size[1], "name": examples.names[row].encode()}
        yield Stored(row, contents, columns | dict(zip(FIGURES, figures, strict=True)))
    if unread:
        raise unread[0]
    lost.update(dict.fromkeys(undecoded, "cannot be decoded as an image"))


def _read_ahead(examples: Examples, rows: list[int]) -> Iterator[tuple[int, bytes]]:
    """(row, its bytes) in order, some read in advance."""
    with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
        waiting: collections.deque[tuple[int, concurrent.futures.Future[bytes]]] = collections.deque()
        left = iter(rows)
        for row in itertools.chain(itertools.islice(left, AHEAD), left):
            waiting.append((row, pool.submit(examples.read, row)))
            if len(waiting) > AHEAD:
                first, contents = waiting.popleft()
                yield first, contents.result()
        for first, contents in waiting:
            yield first, contents.result()


def write_shard(
    path: str, beside: str, examples: Examples, rows: np.ndarray, storing: Storing, tick: Callable[[], object]
) -> Written:
    """Writes the images of `rows`, in that order, as tf.Examples to `path`, and their rows of the index to `beside`.

    `tick` is called for each image.
    """
    lost: dict[int, str] = {}
    gathered: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    unfinished = f"{path}.unfinished"
    start = 0
    with tf.io.TFRecordWriter(unfinished) as writer:
        for record, stored in enumerate(stored_images(examples, rows, storing, lost)):
            data = serialized(stored)
            writer.write(data)
            # Equal bytes are equal wherever they stand, so the first occurrence will do.
            place = {
                "record": record,
                "start": start,
                "offset": start + 12 + data.find(stored.contents),
                "length": len(stored.contents),
            }
            start += 16 + len(data)
            for name, value in ({"shard": 0, "dropped": False} | place | stored.columns).items():
                gathered[name].append(value)
            tick()
    whole: dict[str, np.ndarray] = {
        name: np.array(gathered[name], kind).reshape(-1, *shape) if shape else np.array(gathered[name], kind)
        for name, (kind, shape) in COLUMNS.items()
    }
    _finish(unfinished, path)
    with open(f"{beside}.unfinished", "wb") as file:
        np.savez(file, lost=np.array(json.dumps(lost)), **whole)  # type: ignore[arg-type]
    _finish(f"{beside}.unfinished", beside)
    return Written(whole, lost)


def read_written(beside: str) -> Written:
    """What `write_shard` left of a finished shard."""
    with np.load(beside, allow_pickle=False) as stored:
        lost = {int(row): why for row, why in json.loads(str(stored["lost"])).items()}
        return Written({name: stored[name] for name in COLUMNS}, lost)


def serialized(stored: Stored) -> bytes:
    """The tf.Example that TFDS reads with the features image, label and filename; always the same bytes."""
    columns = stored.columns
    example = tf.train.Example()
    feature = example.features.feature
    if columns["kind"] == RAW:
        feature["image/value"].bytes_list.value.append(stored.contents)
        feature["image/shape"].int64_list.value.extend([int(columns["height"]), int(columns["width"]), 3])
    else:
        feature["image"].bytes_list.value.append(stored.contents)
    feature["label"].int64_list.value.append(int(columns["label"]))
    feature["filename"].bytes_list.value.append(columns["name"])
    return example.SerializeToString(deterministic=True)


def _finish(unfinished: str, path: str) -> None:
    """On the disk first, then under its name: what has its name is whole."""
    with open(unfinished, "rb") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, path)
