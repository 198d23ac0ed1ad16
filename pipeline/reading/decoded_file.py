"""Decoded images of the model's size, kept in the cache directory, so that a later start need not decode them.

batches = read_decoded(file)            # None: not stored, or of other images
write_decoded(file, batches)

A file holds the pixels of all images, what they are (16 bytes) and a checksum (4 bytes). Reading 100,000 images of 32
pixels takes 0.1 s of CPU, decoding them 7 s.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import IO

import google_crc32c
import numpy as np
import tensorflow as tf
from absl import logging

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.sources.cache_dir import cache_dir
from evenkeel.pipeline.sources.cache_entries import use_entry
from evenkeel.pipeline.system.atomic_write import TEMPORARY, atomic_write
from evenkeel.pipeline.system.file_lock import exclusive_lock

FORMAT_VERSION = 1  # raised when decoding or scaling gives other pixels: older files are then written again
IDENTITY_BYTES, CHECKSUM_BYTES = 16, 4
CHUNK_IMAGES = 1024
# Columns that decide, with the configuration, which pixels an image has at the model's size.
COLUMNS = ("fingerprint", "kind", "format", "orientation", "sample_bits")


@dataclasses.dataclass(frozen=True)
class DecodedFile:
    """A file of decoded images.

    Attributes:
      path: where it is, or is to be written.
      source: directory of the data set that the images belong to.
      identity: hash of everything that decides on the pixels.
      shape: (images, height, width, channels).
    """

    path: str
    source: str
    identity: bytes
    shape: tuple[int, int, int, int]


def decoded_file(index: Index, config: DataConfig) -> DecodedFile:
    """The file of the images of `index`; other images of the same data set, decoded alike, replace it."""
    source = os.path.dirname(index.shards[0])
    options = json.dumps([config.image_shape, config.channels, config.view, config.background, index.sample_bits])
    name = hashlib.blake2b(f"{source}\n{options}".encode(), digest_size=8).hexdigest()
    identity = hashlib.blake2b(f"{FORMAT_VERSION} {tf.__version__} {options}".encode(), digest_size=IDENTITY_BYTES)
    for column in COLUMNS:
        identity.update(index.columns[column].tobytes())
    shape = (len(index), *config.image_shape, config.channels)
    return DecodedFile(os.path.join(cache_dir(), "decoded", name), source, identity.digest(), shape)


def read_decoded(file: DecodedFile) -> Iterator[np.ndarray] | None:
    """Batches of images, uint8 [b, height, width, channels]; None if the file is missing, damaged or of others."""
    with contextlib.ExitStack() as until_error:
        try:
            # Opened once: another process may replace the file after it has been checked.
            stored = until_error.enter_context(open(file.path, "rb"))
            if not _is_whole(stored, file):
                return None
            use_entry(file.path, file.source)
        except OSError:
            return None
        until_error.pop_all()
    return _read_images(stored, file)


def _is_whole(stored: IO[bytes], file: DecodedFile) -> bool:
    checksum = google_crc32c.Checksum()
    for chunk in _read_chunks(stored, file):
        checksum.update(chunk)
    return stored.read() == file.identity + checksum.digest()


def _read_images(stored: IO[bytes], file: DecodedFile) -> Iterator[np.ndarray]:
    with stored:
        stored.seek(0)
        for chunk in _read_chunks(stored, file):
            yield np.frombuffer(chunk, np.uint8).reshape(-1, *file.shape[1:])


def write_decoded(file: DecodedFile, batches: Iterable[np.ndarray]) -> None:
    """Stores batches of images, uint8 [b, height, width, channels]; if that is not possible, a warning says so."""
    checksum = google_crc32c.Checksum()
    try:
        with exclusive_lock(file.path):
            for leftover in glob.glob(f"{glob.escape(file.path)}.*{TEMPORARY}"):  # of killed processes
                os.unlink(leftover)
            with atomic_write(file.path) as stored:
                for images in batches:
                    pixels = images.tobytes()
                    checksum.update(pixels)
                    stored.write(pixels)
                stored.write(file.identity + checksum.digest())
        use_entry(file.path, file.source)
    except OSError as error:
        logging.warning(
            "decoded images cannot be kept in the cache (%s): every start decodes them", error.strerror or error
        )


def _read_chunks(stored: IO[bytes], file: DecodedFile) -> Iterator[bytes]:
    image_bytes, left = int(np.prod(file.shape[1:])), file.shape[0]
    while left:
        yield stored.read(min(left, CHUNK_IMAGES) * image_bytes)
        left -= min(left, CHUNK_IMAGES)
