"""Builds the index of TFRecord shards: checks every record's checksum and decodes every image once.

columns, faults = build_index({"pets.tfrecord-00000-of-00001": 1000}, features, max_pixels)

Damaged records and images that cannot be decoded are therefore known by name before training starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tqdm import tqdm

from evenkeel.pipeline.config import DataConfig, parse_color
from evenkeel.pipeline.images.decode import decode_whole
from evenkeel.pipeline.images.exif import UPRIGHT, read_orientation
from evenkeel.pipeline.images.file_type import describe
from evenkeel.pipeline.images.header import FORMATS, Header, read_header
from evenkeel.pipeline.images.perceptual_hash import hash_pictures, shrink_to_gray, turn_hashes
from evenkeel.pipeline.images.sample_bits import ALL_BITS, find_sample_bits
from evenkeel.pipeline.index.features import Features, parse_example
from evenkeel.pipeline.index.index import COLUMNS, JPEG, OTHER, RAW
from evenkeel.pipeline.index.pixel_sums import pixel_sums
from evenkeel.pipeline.index.tfrecord import HEADER_BYTES, read_records

UNDECODABLE = "cannot be decoded as an image"
BATCH_IMAGES = 64  # so many images are hashed and copied into the columns together


def build_index(
    lengths: dict[str, int],
    features: Features,
    max_pixels: int = DataConfig.max_pixels,
    background: str = DataConfig.background,
) -> tuple[dict[str, np.ndarray], dict[tuple[int, int], str]]:
    """Reads all records of the shards and decodes their images.

    Args:
      lengths: {path of a shard: number of its records}.
      features: keys of the tf.Examples.
      max_pixels: larger images are not decoded and not kept.
      background: the colour behind transparent pixels, as in `data.background`.

    Returns:
      columns: as in `index.COLUMNS`, one row per record.
      faults: {(shard, record): "name: reason"} of the rows that are not kept.
    """
    total = sum(lengths.values())
    columns: dict[str, np.ndarray] = {name: np.zeros((total, *shape), kind) for name, (kind, shape) in COLUMNS.items()}
    scan = _Scan(columns, {}, {}, [b""] * total)
    errors: list[Exception] = []

    def images() -> Iterator[tuple[int, bytes, list[int], int]]:
        # An error that is raised in here would make `ignore_errors` end the data set early, without a message.
        try:
            yield from scan.read_images(lengths, features, max_pixels)
        except Exception as error:
            errors.append(error)

    def decode(image: tf.Tensor, shape: tf.Tensor, sample_bits: tf.Tensor) -> tf.Tensor:
        if features.shape is None:
            return decode_whole(image, 3, parse_color("data.background", background), sample_bits)
        return tf.reshape(tf.io.decode_raw(image, tf.uint8), tf.ensure_shape(shape, [3]))

    # Nothing here needs AutoGraph, and a conversion takes 2 s of CPU.
    @tf.autograph.experimental.do_not_convert
    def measure(row: tf.Tensor, image: tf.Tensor, shape: tf.Tensor, sample_bits: tf.Tensor) -> tuple[tf.Tensor, ...]:
        pixels = decode(image, shape, sample_bits)
        return row, *pixel_sums(pixels), shrink_to_gray(pixels)

    signature = (
        tf.TensorSpec([], tf.int64),
        tf.TensorSpec([], tf.string),
        tf.TensorSpec([None], tf.int64),
        tf.TensorSpec([], tf.int32),
    )
    dataset = tf.data.Dataset.from_generator(images, output_signature=signature).map(
        measure, num_parallel_calls=tf.data.AUTOTUNE
    )
    with tqdm(total=total, desc="indexing", unit=" images", delay=1, disable=None) as bar:
        # `ignore_errors` leaves out the images that do not decode; their rows stay in `scan.undecoded`.
        for rows, sizes, *sums, gray in dataset.ignore_errors().batch(BATCH_IMAGES).as_numpy_iterator():
            columns["keep"][rows], columns["height"][rows], columns["width"][rows] = True, sizes[:, 0], sizes[:, 1]
            for values, name in zip(sums, ("sums", "squares", "laplacian", "fingerprint"), strict=True):
                columns[name][rows] = values
            columns["perceptual_hash"][rows] = turn_hashes(hash_pictures(gray), columns["orientation"][rows])
            for row in rows.tolist():
                del scan.undecoded[row]
            bar.update(len(rows))
    if errors:
        raise errors[0]
    for row, name in scan.undecoded.items():
        reason = undecodable_reason(int(columns["format"][row]))
        scan.faults[int(columns["shard"][row]), int(columns["record"][row])] = f"{name}: {reason}"
    columns["name"] = np.array(scan.names, np.bytes_)
    return columns, scan.faults


def undecodable_reason(image_format: int) -> str:
    """Why an image whose header was read (`image_format` is an index into `FORMATS`) is not used."""
    return f"{UNDECODABLE}: it is a damaged or truncated {FORMATS[image_format]}" if image_format else UNDECODABLE


@dataclasses.dataclass
class _Scan:
    """A pass over the records of all shards.

    Attributes:
      columns: the index columns, filled with the values that are known before an image is decoded.
      faults: {(shard, record): "name: reason"} of the records that are not decoded.
      undecoded: {row: name} of the images that went to the decoder; images that decode are deleted from this dict.
      names: file name of each row; empty if there is none.
    """

    columns: dict[str, np.ndarray]
    faults: dict[tuple[int, int], str]
    undecoded: dict[int, str]
    names: list[bytes]

    def read_images(
        self, lengths: dict[str, int], features: Features, max_pixels: int
    ) -> Iterator[tuple[int, bytes, list[int], int]]:
        """Yields (row, image, shape, bits of its samples) of every image that may be decoded.

        The shape of an encoded image is empty.
        """
        columns, row = self.columns, 0
        for shard, (path, length) in enumerate(lengths.items()):
            for record, (offset, data, fault) in enumerate(read_records(path, length)):
                columns["shard"][row], columns["record"][row] = shard, record
                columns["start"][row] = offset - HEADER_BYTES
                name = f"{path} record {record}"
                try:
                    if fault:
                        raise ValueError(fault)
                    example = parse_example(data, features)
                    self.names[row] = example.name
                    name = example.name.decode(errors="backslashreplace") or name
                    if not 0 <= example.label < len(features.classes):
                        raise ValueError(f"label {example.label} is none of the {len(features.classes)} classes")
                    kind, header = check_image(example.image, max_pixels, example.shape)
                except (IndexError, ValueError, DecodeError) as error:
                    self.faults[shard, record] = f"{name}: {error}"
                else:
                    # If the same bytes occur twice in the record, their first occurrence serves as well.
                    columns["offset"][row] = offset + data.find(example.image)
                    columns["length"][row], columns["label"][row] = len(example.image), example.label
                    columns["kind"][row], columns["format"][row] = kind, header.format
                    columns["orientation"][row] = UPRIGHT if example.shape else read_orientation(example.image)
                    bits = 0 if example.shape else find_sample_bits(example.image)
                    columns["sample_bits"][row] = bits
                    self.undecoded[row] = name  # before the yield: the decoder may finish before the next line runs
                    yield row, example.image, example.shape, bits or ALL_BITS
                row += 1


def check_image(image: bytes, max_pixels: int, shape: Sequence[int] = ()) -> tuple[int, Header]:
    """The kind (index.OTHER, JPEG or RAW) and the header of an image; nothing is decoded.

    Args:
      image: encoded bytes, or pixels if `shape` is given.
      max_pixels: the most pixels that may be decoded.
      shape: (height, width, 3) of pixels; empty for encoded bytes.

    Raises:
      ValueError: the bytes are not an image, must not be decoded, or hold more than `max_pixels` pixels.
    """
    if len(shape):
        if shape[2] != 3 or min(shape) < 1 or np.prod(shape, dtype=object) != len(image):
            raise ValueError(f"{len(image)} bytes are not pixels of shape {shape}")
        header = Header(0, shape[1], shape[0], shape[0] * shape[1])
    else:
        file_header = read_header(image)
        if file_header is None:
            raise ValueError(f"{UNDECODABLE}: it is {describe(image)}")
        header = file_header
    if header.refusal:
        raise ValueError(header.refusal)
    if header.pixels > max_pixels:
        size = f"{header.width} x {header.height}"
        frames = f", {header.pixels} in all frames," if header.pixels != header.width * header.height else ""
        raise ValueError(
            f"{size} pixels{frames} are more than data.max_pixels ({max_pixels}): raise this limit to decode the image"
        )
    kind = RAW if len(shape) else JPEG if FORMATS[header.format] == "JPEG" else OTHER
    return kind, header
