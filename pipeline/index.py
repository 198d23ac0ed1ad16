"""THE DATA SET: a row per image (shard, offset, length, label, size, pixel sums, keep).

    index = open_index(builder, cache_dir)
    train = index.split(builder, "train[:90%]")
    mean, std = train.kept.channel_statistics(channels=3)

The index of a TFDS directory is built once: every record's checksum is checked and every image decoded, so that
corrupt ones are known by name before training starts and channel statistics are exact. It is stored beside the shards,
or in the cache where those cannot be written to, and built again when a shard's size or time stamp changes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import struct
from collections.abc import Iterator
from typing import Any

import google_crc32c
import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError
from tqdm import tqdm

from pipeline.config import UsageError
from pipeline.decode import decode_whole

DAMAGED = "the checksum does not match: the record is damaged"

# A change of what the columns mean gets a new number: older files are then built again.
VERSION = 1

# `sums` and `squares` hold, for red, green, blue and luma, the integer sums of the pixel values and of their squares:
# exact, and so are the mean and deviation of any choice of rows.
COLUMNS: dict[str, tuple[type, tuple[int, ...]]] = {
    "shard": (np.int32, ()),
    "record": (np.int64, ()),
    "offset": (np.int64, ()),  # of the image's bytes in its shard
    "length": (np.int64, ()),
    "label": (np.int64, ()),
    "is_jpeg": (np.bool_, ()),
    "keep": (np.bool_, ()),
    "height": (np.int32, ()),
    "width": (np.int32, ()),
    "sums": (np.int64, (4,)),
    "squares": (np.int64, (4,)),
}


@dataclasses.dataclass(frozen=True)
class Features:
    """The names of a TFDS data set's image, label and (if it has one) file name, and the names of its classes."""

    image: str
    label: str
    filename: str | None
    classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """Rows over the shards of one data set.

    `columns` are as in `COLUMNS`, all of one length. `faults` says of (shard, record) why it is not kept.
    """

    shards: tuple[str, ...]
    sizes: tuple[int, ...]
    features: Features
    columns: dict[str, np.ndarray]
    faults: dict[tuple[int, int], str]

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

    features, found = builder.info.features, {}
    for kind, of in (("image", tfds.features.Image), ("class label", tfds.features.ClassLabel)):
        names = [name for name, feature in features.items() if type(feature) is of]
        if len(names) != 1:
            raise UsageError(
                f"{builder.info.full_name} has {len(names)} {kind} features among {', '.join(features)};"
                " image classification needs exactly one: choose another data set."
            )
        found[kind] = names[0]
    classes = tuple(features[found["class label"]].names)
    if len(classes) < 2:
        raise UsageError(f"{builder.info.full_name} has one class only ({classes[0]}); classification needs two.")
    return Features(found["image"], found["class label"], "filename" if "filename" in features else None, classes)


def open_index(builder: Any, cache_dir: str) -> Index:
    """The index of a TFDS data set with all its splits: read back, or built where there is none that fits.

    Raises:
      UsageError: the data set is not stored as TFRecords, or a shard is missing.
    """
    features = find_features(builder)
    file_format = builder.info.file_format.value
    if file_format != "tfrecord":
        raise UsageError(
            f"{builder.info.full_name} is stored as {file_format}; evenkeel reads tfrecord: prepare it with"
            " builder.download_and_prepare(file_format='tfrecord')."
        )
    lengths = {
        str(path): length
        for info in builder.info.splits.values()
        for path, length in zip(info.filepaths, info.shard_lengths, strict=True)
    }
    try:
        stats = [tf.io.gfile.stat(path) for path in lengths]
    except tf.errors.OpError as error:
        raise UsageError(f"a shard of {builder.info.full_name} cannot be read: {error.message}") from error
    sizes = tuple(stat.length for stat in stats)
    state = {
        "version": VERSION,
        "shards": list(lengths),
        "sizes": list(sizes),
        "times": [stat.mtime_nsec for stat in stats],
    }
    directory = str(builder.data_dir)
    name = hashlib.blake2b(directory.encode(), digest_size=8).hexdigest()
    places = [os.path.join(cache_dir, "indexes", name + ".npz")]
    if "://" not in directory:
        places.insert(0, os.path.join(directory, "evenkeel-index.npz"))
    for place in places:
        if os.path.exists(place):
            with np.load(place, allow_pickle=False) as stored:
                header = json.loads(str(stored["header"]))
                if header["state"] == state:
                    columns = {name: stored[name] for name in COLUMNS}
                    faults = {(int(s), int(r)): why for s, r, why in header["faults"]}
                    return Index(tuple(lengths), sizes, features, columns, faults)
    try:
        columns, faults = _build(lengths, features)
    except tf.errors.OpError as error:
        raise UsageError(f"a shard of {builder.info.full_name} cannot be read: {error.message}") from error
    header = json.dumps({"state": state, "faults": [[s, r, why] for (s, r), why in faults.items()]})
    for place in places:
        try:
            _write(place, header, columns)
            break
        except OSError as error:
            logging.info("the index cannot be stored as %s (%s)", place, error)
    else:
        logging.warning("the index of %s could not be stored; it is built at every start", directory)
    return Index(tuple(lengths), sizes, features, columns, faults)


def _write(path: str, header: str, columns: dict[str, np.ndarray]) -> None:
    """Beside and renamed, so that nothing partial ever looks complete."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    beside = f"{path}.{os.getpid()}.tmp"
    with open(beside, "wb") as file:
        np.savez(file, header=np.array(header), **columns)  # type: ignore[arg-type]
    os.replace(beside, path)


def _build(lengths: dict[str, int], features: Features) -> tuple[dict[str, np.ndarray], dict[tuple[int, int], str]]:
    """Columns over all records of the shards, and the faults of those not kept."""
    total = sum(lengths.values())
    columns: dict[str, np.ndarray] = {name: np.zeros((total, *shape), kind) for name, (kind, shape) in COLUMNS.items()}
    faults: dict[tuple[int, int], str] = {}
    undecoded: dict[int, str] = {}

    def encoded() -> Iterator[tuple[int, bytes]]:
        row = 0
        for shard, (path, length) in enumerate(lengths.items()):
            for record, (offset, data, fault) in enumerate(records(path, length)):
                columns["shard"][row], columns["record"][row] = shard, record
                name = f"{path} record {record}"
                try:
                    if fault:
                        raise ValueError(fault)
                    values = tf.train.Example.FromString(data).features.feature
                    if features.filename:
                        name = values[features.filename].bytes_list.value[0].decode(errors="backslashreplace")
                    image, label = (
                        values[features.image].bytes_list.value[0],
                        values[features.label].int64_list.value[0],
                    )
                    if not 0 <= label < len(features.classes):
                        raise ValueError(f"label {label} is none of the {len(features.classes)} classes")
                    if image[8:16] == b"WEBPVP8X" and image[20:21] and image[20] & 2:
                        # Without an alpha channel it makes TensorFlow 2.21's decoder write beyond its buffer.
                        raise ValueError("an animated WebP cannot be decoded")
                except (IndexError, ValueError, DecodeError) as error:
                    faults[shard, record] = f"{name}: {error}"
                else:
                    # Equal bytes are equal wherever they stand, so the first occurrence will do.
                    columns["offset"][row], columns["length"][row] = offset + data.find(image), len(image)
                    columns["label"][row], columns["is_jpeg"][row] = label, image[:3] == b"\xff\xd8\xff"
                    undecoded[row] = name  # before the image is out of hand
                    yield row, image
                row += 1

    unread: list[Exception] = []

    def encoded_or_unread() -> Iterator[tuple[int, bytes]]:
        # Raised here, `ignore_errors` would end the data set early and without a word.
        try:
            yield from encoded()
        except Exception as error:
            unread.append(error)

    signature = (tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.string))
    measured = tf.data.Dataset.from_generator(encoded_or_unread, output_signature=signature).map(
        lambda row, image: (row, *_measure(image)), num_parallel_calls=tf.data.AUTOTUNE
    )
    with tqdm(total=total, desc="indexing", unit=" images", delay=1, disable=None) as bar:
        # An image that does not decode is missing from what comes back, and that is how it is found.
        for row, size, sums, squares in measured.ignore_errors().as_numpy_iterator():
            columns["keep"][row], columns["height"][row], columns["width"][row] = True, size[0], size[1]
            columns["sums"][row], columns["squares"][row] = sums, squares
            del undecoded[int(row)]
            bar.update()
    if unread:
        raise unread[0]
    for row, name in undecoded.items():
        faults[int(columns["shard"][row]), int(columns["record"][row])] = f"{name}: cannot be decoded as an image"
    return columns, faults


def _measure(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Size (int32 [2]) and the sums and squares (int64 [4]) over red, green, blue and luma of an encoded image."""
    image = decode_whole(contents, channels=3)
    luma = tf.tensordot(tf.cast(image, tf.float32), tf.constant([[0.299], [0.587], [0.114]]), 1)
    pixels = tf.concat([tf.cast(image, tf.int32), tf.cast(tf.round(luma), tf.int32)], axis=2)
    # int32 within a line (65025 x 33,000 pixels fit), int64 over the lines: half the cost of int64 throughout.
    over_lines = lambda x: tf.reduce_sum(tf.cast(tf.reduce_sum(x, axis=1), tf.int64), axis=0)  # noqa: E731
    return tf.shape(image)[:2], over_lines(pixels), over_lines(pixels * pixels)


def records(path: str, expected: int) -> Iterator[tuple[int, bytes, str]]:
    """(offset of the data, data, fault) of every record of a TFRecord file, checksums checked.

    Where a length is damaged all that follows is lost: the missing ones of the `expected` records come as faults.
    """
    found = 0
    with tf.io.gfile.GFile(path, "rb") as raw:
        file = io.BufferedReader(_Raw(raw), 1 << 20)
        offset = 0
        while found < expected:
            header = file.read(12)
            if len(header) < 12 or masked_crc(header[:8]) != header[8:]:
                break
            (length,) = struct.unpack("<Q", header[:8])
            data, checksum = file.read(length), file.read(4)
            if len(data) < length or len(checksum) < 4:
                break
            fault = "" if masked_crc(data) == checksum else DAMAGED
            yield offset + 12, data, fault
            found += 1
            offset += 16 + length
    for _ in range(found, expected):
        yield 0, b"", "lost behind a damaged or missing part of its shard"


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
