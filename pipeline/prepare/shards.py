"""Writes one TFRecord shard and, in a side file, the columns of its index.

    shard = write_shard("pets-train.tfrecord-00000-of-00002", "0.npz", examples, rows, options, on_image)
    shard.rejected    # {row: why its image is not in the shard}

Both files are renamed into place when they are complete, the side file last: if it exists, the shard is complete.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.config import Tier
from evenkeel.pipeline.images.convert import needs_conversion, to_png
from evenkeel.pipeline.images.decode import Color
from evenkeel.pipeline.images.exif import FIRST_TURNED, UPRIGHT, read_orientation, turn_upright
from evenkeel.pipeline.images.header import JPEG as JPEG_FORMAT
from evenkeel.pipeline.images.perceptual_hash import hash_pictures, shrink_to_gray, turn_hashes
from evenkeel.pipeline.images.sample_bits import ALL_BITS, find_sample_bits
from evenkeel.pipeline.index.build_index import check_image, undecodable_reason
from evenkeel.pipeline.index.index import COLUMNS, JPEG, RAW
from evenkeel.pipeline.index.pixel_sums import pixel_sums
from evenkeel.pipeline.prepare.storage_format import (
    decode_at_scale,
    decode_scale,
    make_encoder,
    stored_format,
)
from evenkeel.pipeline.sources.examples import Examples
from evenkeel.pipeline.sources.fingerprint import READ_ERRORS, read_error
from evenkeel.pipeline.system.atomic_write import atomic_write

HEADER_READ_BYTES = 160  # enough to tell the type of a file and the bits of a PNG
READ_THREADS = 8  # files read at a time: remote storage has long latencies
READ_AHEAD_IMAGES = 32  # images read before the decoders ask for them
MEASURED_COLUMNS = ("sums", "squares", "laplacian", "fingerprint")
# What `_check_images` yields.
SIGNATURE = (
    tf.TensorSpec([], tf.int64),
    tf.TensorSpec([], tf.string),
    tf.TensorSpec([2], tf.int32),
    tf.TensorSpec([], tf.int64),
    tf.TensorSpec([], tf.bool),
    tf.TensorSpec([], tf.int32),
    tf.TensorSpec([], tf.int32),
)
RECORD_HEADER_BYTES, RECORD_OVERHEAD_BYTES = 12, 16  # bytes of a TFRecord: before its data, and in all besides its data


@dataclasses.dataclass(frozen=True)
class StorageOptions:
    """How images are stored.

    Attributes:
      tier: the storage tier: file unchanged, re-encoded JPEG or pixels.
      bound: the side that the tier limits: shorter or longer.
      max_pixels: images with more pixels are rejected without decoding them.
      background: the colour behind transparent pixels.
      threads: images processed at a time.
      sample_bits: the bits that the samples of 16-bit files are taken to hold if images are re-encoded.
    """

    tier: Tier
    bound: str
    max_pixels: int
    background: Color
    threads: int
    sample_bits: int = ALL_BITS


class StoredImage(NamedTuple):
    """An image ready to be written.

    Attributes:
      row: its row in `Examples`.
      contents: the bytes to store.
      columns: its values of the index columns, without columns that depend on its position in the shard.
    """

    row: int
    contents: bytes
    columns: dict[str, Any]


class WrittenShard(NamedTuple):
    """A finished shard.

    Attributes:
      columns: the index columns, one value per record, in the order of the records.
      rejected: {row: reason} of the images that could not be stored.
    """

    columns: dict[str, np.ndarray]
    rejected: dict[int, str]


def write_shard(
    path: str,
    side_path: str,
    examples: Examples,
    rows: np.ndarray,
    options: StorageOptions,
    on_image: Callable[[], object],
) -> WrittenShard:
    """Writes the images of `rows`, in that order, as tf.Examples to `path`, and their index columns to `side_path`.

    `on_image` is called after each image.
    """
    rejected: dict[int, str] = {}
    values: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    unfinished = f"{path}.unfinished"
    start = 0
    with tf.io.TFRecordWriter(unfinished) as writer:
        for record, stored in enumerate(encode_images(examples, rows, options, rejected)):
            data = serialize_example(stored)
            writer.write(data)
            position = {
                "record": record,
                "start": start,
                # If the bytes occur twice, the first occurrence serves as well: equal bytes decode to the same image.
                "offset": start + RECORD_HEADER_BYTES + data.find(stored.contents),
                "length": len(stored.contents),
            }
            start += RECORD_OVERHEAD_BYTES + len(data)
            for name, value in ({"shard": 0, "dropped": False} | position | stored.columns).items():
                values[name].append(value)
            on_image()
    columns: dict[str, np.ndarray] = {
        name: np.array(values[name], kind).reshape(-1, *shape) if shape else np.array(values[name], kind)
        for name, (kind, shape) in COLUMNS.items()
    }
    with open(unfinished, "rb") as file:
        os.fsync(file.fileno())  # on disk before the rename, so that a file with the final name is complete
    os.replace(unfinished, path)
    with atomic_write(side_path) as file:
        np.savez(file, lost=np.array(json.dumps(rejected)), **columns)  # type: ignore[arg-type]
    return WrittenShard(columns, rejected)


def load_written_shard(side_path: str) -> WrittenShard:
    """The result of an earlier `write_shard`, read from its side file."""
    with np.load(side_path, allow_pickle=False) as arrays:
        rejected = {int(row): reason for row, reason in json.loads(str(arrays["lost"])).items()}
        return WrittenShard({name: arrays[name] for name in COLUMNS}, rejected)


def serialize_example(stored: StoredImage) -> bytes:
    """The bytes of a tf.Example with TFDS's features image, label and filename; deterministic."""
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


def encode_images(
    examples: Examples, rows: np.ndarray, options: StorageOptions, rejected: dict[int, str]
) -> Iterator[StoredImage]:
    """Yields the images of `rows` in order, encoded for the tier; adds {row: reason} of unusable images to `rejected`.

    Raises:
      OSError, OpError: a file cannot be read.
    """
    # {row: kind, format of its file, orientation and sample bits when stored} of images that are being decoded
    pending: dict[int, tuple[int, int, int, int]] = {}
    read_errors: list[Exception] = []

    def checked_images() -> Iterator[tuple[int, bytes, tuple[int, int], int, bool, int, int]]:
        # An error raised inside the generator would end the data set early and silently, because of `ignore_errors`.
        try:
            yield from _check_images(examples, rows, options, rejected, pending)
        except Exception as error:
            read_errors.append(error)

    ds = tf.data.Dataset.from_generator(checked_images, output_signature=SIGNATURE)
    process = _make_process(options.tier, options.bound, options.background, examples.shapes is not None)
    ds = ds.map(process, num_parallel_calls=options.threads, deterministic=True)
    ds_options = tf.data.Options()
    ds_options.threading.private_threadpool_size = options.threads
    # Images that do not decode are missing from the results: they stay in `pending`.
    for row, contents, gray, size, *measurements in ds.with_options(ds_options).ignore_errors().as_numpy_iterator():
        row = int(row)
        kind, file_format, orientation, sample_bits = pending.pop(row)
        image_format = stored_format(file_format)
        if options.tier.kind == "raw":
            kind, image_format = RAW, 0
        elif options.tier.side:
            kind, image_format = JPEG, JPEG_FORMAT
        columns: dict[str, Any] = {"kind": kind, "format": image_format, "keep": True, "label": examples.label[row]}
        columns |= {
            "orientation": orientation,
            "sample_bits": sample_bits,
            "height": size[0],
            "width": size[1],
            "name": examples.names[row].encode(),
            "perceptual_hash": turn_hashes(hash_pictures(gray[None]), np.array([orientation]))[0],
        }
        yield StoredImage(row, contents, columns | dict(zip(MEASURED_COLUMNS, measurements, strict=True)))
    if read_errors:
        raise read_errors[0]
    rejected.update({row: undecodable_reason(image_format) for row, (_, image_format, *_) in pending.items()})


@functools.cache  # traced once for all shards: a trace takes 0.4 s of CPU
def _make_process(tier: Tier, bound: str, background: Color, from_pixels: bool) -> Callable[..., tuple[tf.Tensor, ...]]:
    """The function that turns what `_check_images` yields into (row, bytes to store, size, measurements)."""
    encode = make_encoder(tier, bound)

    @tf.function(input_signature=SIGNATURE, autograph=False)
    def process(
        row: tf.Tensor,
        contents: tf.Tensor,
        size: tf.Tensor,
        scale: tf.Tensor,
        keep_file: tf.Tensor,
        orientation: tf.Tensor,
        sample_bits: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        if from_pixels:
            image = tf.reshape(tf.io.decode_raw(contents, tf.uint8), [size[0], size[1], 3])
        else:
            image = turn_upright(decode_at_scale(contents, scale, background, sample_bits), orientation)
        contents, image = encode(image, size, contents, keep_file)
        return row, contents, shrink_to_gray(image), *pixel_sums(image)

    return tf.autograph.experimental.do_not_convert(process)


def _check_images(
    examples: Examples,
    rows: np.ndarray,
    options: StorageOptions,
    rejected: dict[int, str],
    pending: dict[int, tuple[int, int, int, int]],
) -> Iterator[tuple[int, bytes, tuple[int, int], int, bool, int, int]]:
    """Yields what `_make_process` takes, for the images to decode.

    That is (row, contents, size, decode scale, whether the file may be stored unchanged, turn, sample bits). The size
    is the (height, width) after the turn. The turn is the orientation that re-encoding bakes in; a file that is stored
    unchanged keeps it. Adds {row: (kind, format, orientation and sample bits when stored)} of the images to decode to
    `pending`, and {row: reason} of the others to `rejected`.
    """
    for row, contents in _read_ahead(examples, rows.tolist(), options.max_pixels):
        shape = np.zeros(0, np.int64) if examples.shapes is None else examples.shapes[row]
        try:
            if not 0 <= examples.label[row] < len(examples.classes):
                raise ValueError(f"label {examples.label[row]} is none of the {len(examples.classes)} classes")
            if isinstance(contents, ValueError):
                raise contents
            kind, header = check_image(contents, options.max_pixels, shape.tolist())
        except ValueError as error:
            rejected[row] = str(error)
        else:
            image_format = stored_format(header.format)
            keep_file = image_format == header.format
            orientation = UPRIGHT if examples.shapes is not None else read_orientation(contents)
            stays = keep_file and not options.tier.side
            bits = find_sample_bits(contents) if stays and examples.shapes is None else 0
            pending[row] = kind, header.format, orientation if stays else UPRIGHT, bits
            scale = decode_scale(options.tier, options.bound, header)
            turn = UPRIGHT if stays else orientation
            size = (header.height, header.width) if turn < FIRST_TURNED else (header.width, header.height)
            yield row, contents, size, scale, keep_file, turn, bits or options.sample_bits


@functools.lru_cache(maxsize=1)  # asked for by every shard
def largest_sample_bits(examples: Examples, max_pixels: int) -> int:
    """The bits of the largest sample of all 16-bit files of a source; `ALL_BITS` if there are none.

    Only the first bytes of other files are read.
    """
    found = 0
    if examples.shapes is None:
        for row in range(len(examples.label)):
            try:
                start = examples.read(row, HEADER_READ_BYTES)
            except READ_ERRORS:  # it is left out with this reason when it is to be stored
                continue
            if find_sample_bits(start) or needs_conversion(start):
                contents = read_as_stored(examples, row, max_pixels)
                found = max(found, 0 if isinstance(contents, ValueError) else find_sample_bits(contents))
    return found or ALL_BITS


def _read_ahead(examples: Examples, rows: list[int], max_pixels: int) -> Iterator[tuple[int, bytes | ValueError]]:
    """Yields (row, contents) in order; a few images are read, and converted if needed, in advance by other threads."""

    with concurrent.futures.ThreadPoolExecutor(READ_THREADS) as pool:
        queue: collections.deque[tuple[int, concurrent.futures.Future[bytes | ValueError]]] = collections.deque()
        for row in rows:
            queue.append((row, pool.submit(read_as_stored, examples, row, max_pixels)))
            if len(queue) > READ_AHEAD_IMAGES:
                first, contents = queue.popleft()
                yield first, contents.result()
        for first, contents in queue:
            yield first, contents.result()


def read_as_stored(examples: Examples, row: int, max_pixels: int) -> bytes | ValueError:
    """The bytes of an image, converted if TensorFlow cannot decode them; an error if this fails."""
    try:
        contents = examples.read(row)
        if examples.shapes is not None or not needs_conversion(contents):
            return contents
        return to_png(contents, max_pixels)
    except READ_ERRORS as error:
        return ValueError(read_error(error))
    except ValueError as error:
        return error
