"""Builds the index of TFRecord shards: checks every record's checksum and decodes every image once.

columns, faults = build_index({"pets.tfrecord-00000-of-00001": 1000}, features, max_pixels)

Damaged records and images that cannot be decoded are therefore known by name before training starts.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from evenkeel.pipeline.config import DataConfig, parse_color
from evenkeel.pipeline.images.exif import UPRIGHT, read_orientation
from evenkeel.pipeline.images.file_type import describe
from evenkeel.pipeline.images.header import FORMATS, Header, read_header
from evenkeel.pipeline.index.features import Features, parse_example
from evenkeel.pipeline.index.index import COLUMNS, JPEG, OTHER, RAW
from evenkeel.pipeline.index.measure_images import MeasuredImages, measure_images
from evenkeel.pipeline.index.tfrecord import HEADER_BYTES, read_records
from evenkeel.pipeline.system.cpu import cores
from evenkeel.pipeline.system.parallel_map import parallel_map
from evenkeel.pipeline.system.progress import progress

UNDECODABLE = "cannot be decoded as an image"
BATCH_IMAGES, BATCH_BYTES = 64, 8 << 20  # a batch ends at the first of these


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
    scan = _Scan(columns, {}, [b""] * total)
    color = parse_color("data.background", background)

    def measure(images: list[_CheckedImage]) -> tuple[list[_CheckedImage], MeasuredImages]:
        orientations = columns["orientation"][[image.row for image in images]].tolist()
        contents, headers = [image.contents for image in images], [image.header for image in images]
        return images, measure_images(contents, headers, orientations, color)

    batches = scan.batches(lengths, features, max_pixels)
    with progress(total, "indexing") as advance, contextlib.closing(parallel_map(measure, batches, cores())) as results:
        for images, measured in results:
            rows = np.array([image.row for image in images])
            columns["keep"][rows] = measured.decoded
            for name, values in measured.columns.items():
                columns[name][rows] = values
            for image, decoded in zip(images, measured.decoded, strict=True):
                if not decoded:
                    reason = undecodable_reason(image.header.format)
                    scan.add_fault(image.row, f"{image.name}: {reason}")
            advance(len(images))
    columns["name"] = np.array(scan.names, np.bytes_)
    return columns, scan.faults


def undecodable_reason(image_format: int) -> str:
    """Why an image whose header was read (`image_format` is an index into `FORMATS`) is not used."""
    return f"{UNDECODABLE}: it is a damaged or truncated {FORMATS[image_format]}" if image_format else UNDECODABLE


class _CheckedImage(NamedTuple):
    """An image that may be decoded; `name` is what people know it by."""

    row: int
    name: str
    contents: bytes
    header: Header


@dataclasses.dataclass
class _Scan:
    """A pass over the records of all shards.

    Attributes:
      columns: the index columns, filled with the values that are known before an image is decoded.
      faults: {(shard, record): "name: reason"} of the records that are not used.
      names: file name of each row; empty if there is none.
    """

    columns: dict[str, np.ndarray]
    faults: dict[tuple[int, int], str]
    names: list[bytes]

    def batches(self, lengths: dict[str, int], features: Features, max_pixels: int) -> Iterator[list[_CheckedImage]]:
        """Yields the images that may be decoded, some at a time."""
        batch: list[_CheckedImage] = []
        size = 0
        for image in self.images(lengths, features, max_pixels):
            batch.append(image)
            size += len(image.contents)
            if len(batch) == BATCH_IMAGES or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def images(self, lengths: dict[str, int], features: Features, max_pixels: int) -> Iterator[_CheckedImage]:
        """Yields every image that may be decoded."""
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
                    self.add_fault(row, f"{name}: {error}")
                else:
                    # If the same bytes occur twice in the record, their first occurrence serves as well.
                    columns["offset"][row] = offset + data.find(example.image)
                    columns["length"][row], columns["label"][row] = len(example.image), example.label
                    columns["kind"][row], columns["format"][row] = kind, header.format
                    columns["orientation"][row] = UPRIGHT if example.shape else read_orientation(example.image)
                    yield _CheckedImage(row, name, example.image, header)
                row += 1

    def add_fault(self, row: int, reason: str) -> None:
        self.faults[int(self.columns["shard"][row]), int(self.columns["record"][row])] = reason


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
