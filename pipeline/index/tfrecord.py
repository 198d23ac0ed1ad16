"""Reads TFRecord files record by record, with the offset of each record, and verifies the checksums.

for offset, data, fault in read_records(path, expected=1000):
    ...
file.write(frame_record(data))

A record is its length (8 bytes), the checksum of the length (4), the data, and the checksum of the data (4).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import google_crc32c
import tensorflow as tf

from evenkeel.pipeline.errors import UsageError

HEADER_BYTES = 12  # the length and its checksum
DAMAGED_RECORD = "the checksum does not match: the record is damaged"


def read_records(path: str, expected: int) -> Iterator[tuple[int, bytes, str]]:
    """Yields (offset of the data in bytes, data, fault) of every record of a TFRecord file.

    The fault of an intact record is empty. After a damaged length the rest of the file cannot be read: each of the
    `expected` records that is missing is yielded without data, with a fault.
    """
    count = 0
    with tf.io.gfile.GFile(path, "rb") as raw:
        file = io.BufferedReader(_RawReader(raw), 1 << 20)
        offset = 0
        while count < expected:
            header = file.read(HEADER_BYTES)
            if len(header) < HEADER_BYTES or masked_crc(header[:8]) != header[8:]:
                break
            (length,) = struct.unpack("<Q", header[:8])
            data, checksum = file.read(length), file.read(4)
            if len(data) < length or len(checksum) < 4:
                break
            fault = "" if masked_crc(data) == checksum else DAMAGED_RECORD
            yield offset + HEADER_BYTES, data, fault
            count += 1
            offset += 16 + length
        size = raw.size()
    for _ in range(count, expected):
        yield HEADER_BYTES, b"", f"the shard of {size} bytes is damaged or cut short at byte {offset}: the rest is lost"


def frame_record(data: bytes) -> bytes:
    """The bytes of a record in a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, masked_crc(length), data, masked_crc(data)))


def masked_crc(data: bytes) -> bytes:
    """The 4-byte checksum that TFRecord stores for `data`: CRC-32C, rotated and offset (tsl/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def shard_lengths(builder: Any) -> dict[str, int]:
    """Returns {path of a shard: number of its records} over all splits of a TFDS builder.

    Raises:
      UsageError: the shards are not TFRecords.
    """
    file_format = builder.info.file_format.value
    if file_format != "tfrecord":
        raise UsageError(
            f"{builder.info.full_name} is stored as {file_format}; evenkeel reads tfrecord: prepare the data set with"
            " builder.download_and_prepare(file_format='tfrecord')."
        )
    return {
        str(path): length
        for info in builder.info.splits.values()
        for path, length in zip(info.filepaths, info.shard_lengths, strict=True)
    }


class _RawReader(io.RawIOBase):
    """A GFile as the raw file that io.BufferedReader needs: two small unbuffered reads per record are too slow."""

    def __init__(self, file: tf.io.gfile.GFile) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
