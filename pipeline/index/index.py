"""THE DATA SET: a row per image (shard, offset, length, label, kind, size, pixel sums, keep).

    index = open_index(builder, cache_dir)
    train = index.split(builder, "train[:90%]")
    mean, std = train.kept.channel_statistics(channels=3)

The index of a TFDS directory is built once: every record's checksum is checked and every image decoded, so that
corrupt ones are known by name before training starts and channel statistics are exact. It is stored beside the shards,
or in the cache where those cannot be written to, and built again when a shard's size or time stamp changes.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError
from tqdm import tqdm

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.images.decode import decode_whole
from evenkeel.pipeline.images.header import FORMATS, Header, read_header
from evenkeel.pipeline.index.pixel_sums import measure
from evenkeel.pipeline.system.atomic_write import atomic_write

HEADER = 12  # bytes before the data of a TFRecord: its length and the checksum of that
DAMAGED = "the checksum does not match: the record is damaged"

# In a data set's directory: a CSV of shard, record and reason for each row that is not to be trained on.
DROPPED = "dropped.csv"
STORED = "evenkeel-index.npz"

# A change of what the columns mean gets a new number: older files are then built again.
VERSION = 4

# How the bytes become pixels: by a decoder that can crop, by another, or they are pixels (uint8 [height, width, 3]).
OTHER, JPEG, RAW = range(3)
AT_ONCE = 64  # images whose figures are taken over together

COLUMNS: dict[str, tuple[type, tuple[int, ...]]] = {
    "shard": (np.int32, ()),
    "record": (np.int64, ()),
    "start": (np.int64, ()),  # of the record in its shard
    "offset": (np.int64, ()),  # of the image's bytes in its shard
    "length": (np.int64, ()),
    "label": (np.int64, ()),
    "kind": (np.int8, ()),  # OTHER, JPEG or RAW
    "format": (np.int8, ()),  # in image_header.FORMATS; 0 where the bytes are pixels
    "keep": (np.bool_, ()),  # can be trained on
    "dropped": (np.bool_, ()),  # could be, and is left out on purpose
    "height": (np.int32, ()),
    "width": (np.int32, ()),
    # As pipeline.index.pixel_sums says: of red, green, blue and luma; of luma's Laplacian; of the pixels.
    "sums": (np.int64, (4,)),
    "squares": (np.int64, (4,)),
    "laplacian": (np.int64, (2,)),
    "fingerprint": (np.int64, ()),
    "name": (np.bytes_, ()),  # the file name, where the data set has one
}


@dataclasses.dataclass(frozen=True)
class Features:
    """What a TFDS data set calls its image, label and (if it has one) file name, and the names of its classes.

    These are keys of its tf.Examples. Where images are stored as pixels, `shape` is the key of their shapes, else None.
    """

    image: str
    label: str
    filename: str | None
    classes: tuple[str, ...]
    shape: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Entries:
    """Where images can be entered, as `entries.Found`, those of all images one behind the other."""

    points: np.ndarray
    made_up: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """Rows over the shards of one data set.

    `columns` are as in `COLUMNS`, all of one length. `faults` says of (shard, record) why it is not kept. With
    `entries` there is a column more, `entry`: an `entries.Record` for each row.
    """

    shards: tuple[str, ...]
    sizes: tuple[int, ...]
    features: Features
    columns: dict[str, np.ndarray]
    faults: dict[tuple[int, int], str]
    entries: Entries | None = None

    def __len__(self) -> int:
        return len(self.columns["label"])

    def take(self, rows: np.ndarray) -> Index:
        """The rows chosen by a boolean mask or by number."""
        return dataclasses.replace(self, columns={name: column[rows] for name, column in self.columns.items()})

    @property
    def kept(self) -> Index:
        """Only the rows that can be trained on."""
        return self.take(self.columns["keep"])

    @property
    def skipped(self) -> list[str]:
        """A line for each row that is not kept: its name and the reason."""
        lost = self.take(~self.columns["keep"]).columns
        return [self.faults[int(s), int(r)] for s, r in zip(lost["shard"], lost["record"], strict=True)]

    @property
    def corrupt(self) -> Index:
        """Only the rows that could not be used if one wanted to."""
        return self.take(~self.columns["keep"] & ~self.columns["dropped"])

    @property
    def names(self) -> list[str]:
        """What to call each row: its file name, or its place in the shards."""
        return [
            name.decode(errors="backslashreplace") or f"{self.shards[shard]} record {record}"
            for name, shard, record in zip(
                *(self.columns[c].tolist() for c in ("name", "shard", "record")), strict=True
            )
        ]

    @property
    def undropped(self) -> Index:
        """The same rows, none of them dropped."""
        keep, dropped = self.columns["keep"], self.columns["dropped"]
        places = set(zip(*(self.columns[c][dropped].tolist() for c in ("shard", "record")), strict=True))
        faults = {place: why for place, why in self.faults.items() if place not in places}
        columns = {**self.columns, "keep": keep | dropped, "dropped": np.zeros_like(dropped)}
        return dataclasses.replace(self, columns=columns, faults=faults)

    def drop(self, reasons: dict[int, str]) -> Index:
        """The same rows, those numbered in `reasons` not kept, for these reasons; what is not kept stays so."""
        rows = np.array([row for row in reasons if self.columns["keep"][row]], np.int64)
        columns = {**self.columns, "keep": self.columns["keep"].copy(), "dropped": self.columns["dropped"].copy()}
        columns["keep"][rows], columns["dropped"][rows] = False, True
        of = self.take(rows)
        places = zip(*(of.columns[c].tolist() for c in ("shard", "record")), of.names, rows.tolist(), strict=True)
        faults = {(shard, record): f"{name}: {reasons[row]}" for shard, record, name, row in places}
        return dataclasses.replace(self, columns=columns, faults={**self.faults, **faults})

    def split(self, builder: Any, split: str) -> Index:
        """The rows of a TFDS split: `train`, `train[:90%]`, `train+test`.

        Raises:
          UsageError: the split does not exist or is empty.
        """
        try:
            instructions = builder.info.splits[split].file_instructions
        except (KeyError, ValueError, AssertionError) as error:
            known = ", ".join(f"{name} ({info.num_examples})" for name, info in builder.info.splits.items())
            raise UsageError(
                f"split {split!r} does not exist in {builder.info.full_name}, which has {known};"
                " a part of one is written train[:90%]."
            ) from error
        shard_of = {path: number for number, path in enumerate(self.shards)}
        rows = []
        for instruction in instructions:
            inside = self.columns["record"] - instruction.skip
            mine = self.columns["shard"] == shard_of[str(instruction.filename)]
            rows.append(np.flatnonzero(mine & (inside >= 0) & (inside < instruction.take)))
        if not sum(map(len, rows)):
            raise UsageError(f"split {split!r} of {builder.info.full_name} is empty: choose a larger part.")
        return self.take(np.concatenate(rows))

    def channel_statistics(self, channels: int) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel over all pixels of the rows, in units of 0..255."""
        of = slice(0, 3) if channels == 3 else slice(3, 4)
        pixels = float(np.sum(self.columns["height"].astype(np.int64) * self.columns["width"]))
        mean = self.columns["sums"].sum(axis=0)[of] / pixels
        variance = self.columns["squares"].sum(axis=0)[of] / pixels - mean**2
        # At least one gray level: a data set of a single colour has no deviation to divide by.
        return mean.tolist(), np.sqrt(np.maximum(variance, 1.0)).tolist()


def find_features(builder: Any) -> Features:
    """The image, label and file name features of a TFDS builder.

    Raises:
      UsageError: there is not exactly one image and one class label, or only one class.
    """
    import tensorflow_datasets as tfds

    features = builder.info.features
    kinds: dict[str, list[str]] = {"image": [], "class label": []}
    for name, feature in features.items():
        if type(feature) is tfds.features.Image or _holds_pixels(feature):
            kinds["image"].append(name)
        elif type(feature) is tfds.features.ClassLabel:
            kinds["class label"].append(name)
    for kind, names in kinds.items():
        if len(names) != 1:
            raise UsageError(
                f"{builder.info.full_name} has {len(names)} {kind} features among {', '.join(features)};"
                " image classification needs exactly one: choose another data set."
            )
    (image,), (label,) = kinds.values()
    classes = tuple(features[label].names)
    if len(classes) < 2:
        raise UsageError(f"{builder.info.full_name} has one class only ({classes[0]}); classification needs two.")
    filename = "filename" if "filename" in features else None
    if _holds_pixels(features[image]):
        # A shape that is not known beforehand is stored beside the pixels.
        return Features(f"{image}/value", label, filename, classes, f"{image}/shape")
    return Features(image, label, filename, classes)


def _holds_pixels(feature: Any) -> bool:
    """Whether a feature is `Tensor((None, None, 3), uint8, encoding="bytes")`: pixels that need no decoder."""
    import tensorflow_datasets as tfds

    return (
        type(feature) is tfds.features.Tensor
        and (feature.shape, feature.np_dtype) == ((None, None, 3), np.uint8)
        and feature._encoding == tfds.features.Encoding.BYTES
    )


def open_index(builder: Any, cache_dir: str, max_pixels: int = DataConfig.max_pixels) -> Index:
    """The index of a TFDS data set with all its splits: read back, or built where there is none that fits.

    Images of more than `max_pixels` are not decoded and not kept.

    Raises:
      UsageError: the data set is not stored as TFRecords, or a shard is missing.
    """
    features = find_features(builder)
    lengths = shard_lengths(builder)
    directory = str(builder.data_dir)
    try:
        state = state_of(list(lengths), directory, max_pixels)
    except tf.errors.OpError as error:
        raise UsageError(f"a shard of {builder.info.full_name} cannot be read: {error.message}") from error
    sizes = tuple(state["sizes"])
    name = hashlib.blake2b(directory.encode(), digest_size=8).hexdigest()
    places = [os.path.join(cache_dir, "indexes", name + ".npz")]
    if "://" not in directory:
        places.insert(0, os.path.join(directory, STORED))
    for place in places:
        if os.path.exists(place):
            with np.load(place, allow_pickle=False) as stored:
                header = json.loads(str(stored["header"]))
                if header["state"] == state:
                    columns = {name: stored[name] for name in COLUMNS}
                    faults = {(int(s), int(r)): why for s, r, why in header["faults"]}
                    return Index(tuple(lengths), sizes, features, columns, faults)
    try:
        columns, faults = _build(lengths, features, max_pixels)
    except tf.errors.OpError as error:
        raise UsageError(f"a shard of {builder.info.full_name} cannot be read: {error.message}") from error
    index = Index(tuple(lengths), sizes, features, columns, faults)
    index = without_dropped(index, directory)
    for place in places:
        try:
            store(place, state, index)
            break
        except OSError as error:
            logging.info("the index cannot be stored as %s (%s)", place, error)
    else:
        logging.warning("the index of %s could not be stored; it is built at every start", directory)
    return index


def shard_lengths(builder: Any) -> dict[str, int]:
    """{path of a shard: its records}, over all splits. Raises `UsageError` unless they are TFRecords."""
    file_format = builder.info.file_format.value
    if file_format != "tfrecord":
        raise UsageError(
            f"{builder.info.full_name} is stored as {file_format}; evenkeel reads tfrecord: prepare it with"
            " builder.download_and_prepare(file_format='tfrecord')."
        )
    return {
        str(path): length
        for info in builder.info.splits.values()
        for path, length in zip(info.filepaths, info.shard_lengths, strict=True)
    }


def state_of(shards: list[str], directory: str, max_pixels: int) -> dict[str, Any]:
    """What an index depends on: another state, another index. Raises an `OpError` where a shard cannot be read."""
    stats = [tf.io.gfile.stat(path) for path in shards]
    dropped = os.path.join(directory, DROPPED)
    text = b""
    if tf.io.gfile.exists(dropped):
        with tf.io.gfile.GFile(dropped, "rb") as file:
            text = file.read()
    return {
        "version": VERSION,
        "shards": [os.path.basename(path) for path in shards],  # the directory may be moved
        "sizes": [stat.length for stat in stats],
        "times": [stat.mtime_nsec for stat in stats],
        "max_pixels": max_pixels,
        "dropped": hashlib.blake2b(text, digest_size=8).hexdigest() if text else "",
    }


def without_dropped(index: Index, directory: str) -> Index:
    """`index` without the rows that the list of dropped ones, if the directory has one, names by shard and record."""
    path = os.path.join(directory, DROPPED)
    if not tf.io.gfile.exists(path):
        return index
    with tf.io.gfile.GFile(path) as file:
        listed = [(line["shard"], line["record"], line["reason"]) for line in csv.DictReader(file)]
    shard_of = {os.path.basename(path): number for number, path in enumerate(index.shards)}
    places = zip(*(index.columns[c].tolist() for c in ("shard", "record")), strict=True)
    row_of = {place: row for row, place in enumerate(places)}
    try:
        return index.drop({row_of[shard_of[shard], int(record)]: reason for shard, record, reason in listed})
    except (KeyError, ValueError) as error:
        raise UsageError(f"{path} names a record that is not there ({error}): mend or remove that file.") from error


def store(path: str, state: dict[str, Any], index: Index) -> None:
    """Writes an index; `open_index` takes it for a data set that is still in that state."""
    _write(
        path, json.dumps({"state": state, "faults": [[*at, why] for at, why in index.faults.items()]}), index.columns
    )


def _write(path: str, header: str, columns: dict[str, np.ndarray]) -> None:
    """Beside and renamed, so that nothing partial ever looks complete."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with atomic_write(path) as file:
        np.savez(file, header=np.array(header), **columns)  # type: ignore[arg-type]


def _build(
    lengths: dict[str, int], features: Features, max_pixels: int = DataConfig.max_pixels
) -> tuple[dict[str, np.ndarray], dict[tuple[int, int], str]]:
    """Columns over all records of the shards, and the faults of those not kept."""
    total = sum(lengths.values())
    columns: dict[str, np.ndarray] = {name: np.zeros((total, *shape), kind) for name, (kind, shape) in COLUMNS.items()}
    faults: dict[tuple[int, int], str] = {}
    undecoded: dict[int, str] = {}
    names = [b""] * total

    def encoded() -> Iterator[tuple[int, bytes, list[int]]]:
        row = 0
        for shard, (path, length) in enumerate(lengths.items()):
            for record, (offset, data, fault) in enumerate(records(path, length)):
                columns["shard"][row], columns["record"][row] = shard, record
                columns["start"][row] = offset - HEADER
                name = f"{path} record {record}"
                try:
                    if fault:
                        raise ValueError(fault)
                    found = parse_example(data, features)
                    names[row] = found.name
                    name = found.name.decode(errors="backslashreplace") or name
                    if not 0 <= found.label < len(features.classes):
                        raise ValueError(f"label {found.label} is none of the {len(features.classes)} classes")
                    kind, header = check_image(found.image, max_pixels, found.shape)
                except (IndexError, ValueError, DecodeError) as error:
                    faults[shard, record] = f"{name}: {error}"
                else:
                    # Equal bytes are equal wherever they stand, so the first occurrence will do.
                    columns["offset"][row], columns["length"][row] = offset + data.find(found.image), len(found.image)
                    columns["label"][row], columns["kind"][row], columns["format"][row] = (
                        found.label,
                        kind,
                        header.format,
                    )
                    undecoded[row] = name  # before the image is out of hand
                    yield row, found.image, found.shape
                row += 1

    unread: list[Exception] = []

    def encoded_or_unread() -> Iterator[tuple[int, bytes, list[int]]]:
        # Raised here, `ignore_errors` would end the data set early and without a word.
        try:
            yield from encoded()
        except Exception as error:
            unread.append(error)

    def pixels(image: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
        if features.shape is None:
            return decode_whole(image, channels=3)
        return tf.reshape(tf.io.decode_raw(image, tf.uint8), tf.ensure_shape(shape, [3]))

    # Nothing here needs AutoGraph, whose reading of it all takes 2 CPU seconds.
    @tf.autograph.experimental.do_not_convert
    def figures(row: tf.Tensor, image: tf.Tensor, shape: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return row, *measure(pixels(image, shape))

    signature = (tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.string), tf.TensorSpec([None], tf.int64))
    measured = tf.data.Dataset.from_generator(encoded_or_unread, output_signature=signature).map(
        figures, num_parallel_calls=tf.data.AUTOTUNE
    )
    with tqdm(total=total, desc="indexing", unit=" images", delay=1, disable=None) as bar:
        # An image that does not decode is missing from what comes back, and that is how it is found.
        for rows, sizes, *of in measured.ignore_errors().batch(AT_ONCE).as_numpy_iterator():
            columns["keep"][rows], columns["height"][rows], columns["width"][rows] = True, sizes[:, 0], sizes[:, 1]
            for values, name in zip(of, ("sums", "squares", "laplacian", "fingerprint"), strict=True):
                columns[name][rows] = values
            for row in rows.tolist():
                del undecoded[row]
            bar.update(len(rows))
    if unread:
        raise unread[0]
    for row, name in undecoded.items():
        faults[int(columns["shard"][row]), int(columns["record"][row])] = f"{name}: cannot be decoded as an image"
    columns["name"] = np.array(names, np.bytes_)
    return columns, faults


class Example(NamedTuple):
    """What a record holds; `name` is empty where it has none, `shape` where its image is encoded."""

    image: bytes
    label: int
    name: bytes
    shape: list[int]


def parse_example(data: bytes, features: Features) -> Example:
    """Raises an `IndexError`, `ValueError` or `DecodeError` where a record lacks a feature or is no tf.Example."""
    values = tf.train.Example.FromString(data).features.feature
    name = values[features.filename].bytes_list.value[0] if features.filename else b""
    shape = [values[features.shape].int64_list.value[axis] for axis in range(3)] if features.shape else []
    return Example(values[features.image].bytes_list.value[0], values[features.label].int64_list.value[0], name, shape)


def check_image(image: bytes, max_pixels: int, shape: Sequence[int] = ()) -> tuple[int, Header]:
    """The kind and header of encoded bytes, or with a `shape` of pixels; nothing is decoded.

    Raises:
      ValueError: they are no image, one that a decoder must not see, or one of more than `max_pixels`.
    """
    if len(shape):
        if shape[2] != 3 or min(shape) < 1 or np.prod(shape, dtype=object) != len(image):
            raise ValueError(f"{len(image)} bytes are no pixels of shape {shape}")
        header = Header(0, shape[1], shape[0], shape[0] * shape[1])
    else:
        found = read_header(image)
        if found is None:
            raise ValueError("cannot be decoded as an image")
        header = found
    if header.refusal:
        raise ValueError(header.refusal)
    if header.pixels > max_pixels:
        size = f"{header.width} x {header.height}"
        several = f" of all its frames, {header.pixels}," if header.pixels != header.width * header.height else ""
        raise ValueError(f"the pixels{several} of {size} are more than data.max_pixels ({max_pixels}) lets be decoded")
    kind = RAW if len(shape) else JPEG if FORMATS[header.format] == "JPEG" else OTHER
    return kind, header


def records(path: str, expected: int) -> Iterator[tuple[int, bytes, str]]:
    """(offset of the data, data, fault) of every record of a TFRecord file, checksums checked.

    Where a length is damaged all that follows is lost: the missing ones of the `expected` records come as faults.
    """
    found = 0
    with tf.io.gfile.GFile(path, "rb") as raw:
        file = io.BufferedReader(_Raw(raw), 1 << 20)
        offset = 0
        while found < expected:
            header = file.read(HEADER)
            if len(header) < HEADER or masked_crc(header[:8]) != header[8:]:
                break
            (length,) = struct.unpack("<Q", header[:8])
            data, checksum = file.read(length), file.read(4)
            if len(data) < length or len(checksum) < 4:
                break
            fault = "" if masked_crc(data) == checksum else DAMAGED
            yield offset + HEADER, data, fault
            found += 1
            offset += 16 + length
        whole = raw.size()
    for _ in range(found, expected):
        yield HEADER, b"", f"lost behind byte {offset} of its shard, which holds {whole}: damaged or cut short there"


class _Raw(io.RawIOBase):
    """A GFile as the raw file that io.BufferedReader wants: two small reads a record cost too much unbuffered."""

    def __init__(self, file: tf.io.gfile.GFile) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def masked_crc(data: bytes) -> bytes:
    """The 4 bytes TFRecord stores for `data`: CRC-32C, rotated and offset (tsl/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
