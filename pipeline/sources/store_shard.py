"""A shard of a folder's store: image files as TFRecords, and beside it what is known about them.

    shard = write_shard(directory, number=0, batches=read_batches(...), conditions=conditions)
    shards = load_shards(directory, conditions)

Both files are renamed into place when they are complete, the side file last: a shard with a side file is complete.
"""

from __future__ import annotations

import collections
import dataclasses
import glob
import json
import os
import secrets
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from evenkeel.pipeline.images.header import FORMATS
from evenkeel.pipeline.index.index import COLUMNS
from evenkeel.pipeline.index.tfrecord import HEADER_BYTES, frame_record
from evenkeel.pipeline.sources.read_batches import UNKNOWN_STATE, Conditions, ReadBatch
from evenkeel.pipeline.system.atomic_write import atomic_write
from evenkeel.pipeline.system.printable import printable

FORMAT_VERSION = 3  # raised when the meaning of a stored value changes: older shards are then written again
# A shard ends at the first of these. Killed in the middle, a start loses at most 2 s of work on small images.
SHARD_IMAGES, SHARD_BYTES = 10_000, 256 << 20
# Index columns that follow from the place of an image in the data set, and not from its file.
PLACE_COLUMNS = ("shard", "record", "label", "keep", "dropped", "name")
STORED_COLUMNS = tuple(name for name in COLUMNS if name not in PLACE_COLUMNS)
TRANSPARENT = tuple(FORMATS.index(name) for name in ("PNG", "WebP"))  # formats that may have transparent pixels

Paths = list[str]


@dataclasses.dataclass(frozen=True, eq=False)
class StoreShard:
    """A finished shard.

    Attributes:
      path: the TFRecord file.
      size: its bytes.
      paths: the path of each record's file in the folder.
      states: int64 [n, 4], the state of each file when it was read, see `fingerprint.file_state`.
      valid: bool [n], whether a record is what reading its file now would give, if the state is the same.
      columns: {name: array [n, ...]}, as in `STORED_COLUMNS`.
      rejected: {path: (state, reason)} of the files that are not used.
    """

    path: str
    size: int
    paths: Paths
    states: np.ndarray
    valid: np.ndarray
    columns: dict[str, np.ndarray]
    rejected: dict[str, tuple[tuple[int, ...], str]]

    @property
    def number(self) -> int:
        """Its place in the order in which shards were written."""
        return int(os.path.basename(self.path).partition("-")[0])


def write_shard(directory: str, number: int, batches: Iterator[ReadBatch], conditions: Conditions) -> StoreShard:
    """Writes images until the shard is full or `batches` end; files that are not used are listed in the side file.

    Raises:
      OSError: the directory cannot be written to.
    """
    # The name never recurs, so that a file that another process has mapped is never taken for its successor.
    path = os.path.join(directory, f"{number:06d}-{secrets.token_hex(4)}.tfrecord")
    paths: Paths = []
    states: list[tuple[int, ...]] = []
    pixels: list[int] = []
    values: dict[str, list[Any]] = collections.defaultdict(list)
    rejected: dict[str, tuple[tuple[int, ...], str]] = {}
    start = 0
    with atomic_write(path) as file:
        for batch in batches:
            rejected.update(batch.rejected)
            for row, (name, contents) in enumerate(zip(batch.paths, batch.contents, strict=True)):
                record = _serialize(name, contents)
                file.write(frame_record(record))
                values["start"].append(start)
                values["offset"].append(start + HEADER_BYTES + record.find(contents))
                values["length"].append(len(contents))
                for column, measured in batch.columns.items():
                    values[column].append(measured[row])
                start += HEADER_BYTES + len(record) + 4
            paths += batch.paths
            states += batch.states
            pixels += batch.pixels
            if len(paths) >= SHARD_IMAGES or start >= SHARD_BYTES:
                break
    columns: dict[str, np.ndarray] = {}
    for name in STORED_COLUMNS:
        kind, shape = COLUMNS[name]
        columns[name] = np.array(values[name], kind).reshape(-1, *shape)
    header = {
        "version": FORMAT_VERSION,
        "conditions": conditions,
        "shard": [start, os.stat(path).st_mtime_ns],
        "rejected": [[name, state, reason] for name, (state, reason) in rejected.items() if state != UNKNOWN_STATE],
    }
    stored_states = np.array(states, np.int64).reshape(-1, 4)
    with atomic_write(_side_path(path)) as file:
        arrays = {
            "header": np.array(json.dumps(header)),
            "paths": np.frombuffer(b"\0".join(map(os.fsencode, paths)), np.uint8),
            "states": stored_states,
            "pixels": np.array(pixels, np.int64),
        }
        np.savez(file, **arrays, **columns)  # type: ignore[arg-type]
    return StoreShard(path, start, paths, stored_states, np.ones(len(paths), np.bool_), columns, rejected)


def load_shards(directory: str, conditions: Conditions, repair: bool = True) -> list[StoreShard]:
    """The finished shards in the order in which they were written.

    With `repair`, damaged shards and leftovers of killed starts are removed; the caller holds the directory's lock.
    """
    shards = []
    for path in sorted(glob.glob(os.path.join(glob.escape(directory), "*.tfrecord"))):
        try:
            shard = _load_shard(path, conditions)
        except FileNotFoundError:  # the side file: a start was killed before it wrote it
            shard = None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            logging.warning("%s in the cache is damaged (%s): its images are read again", path, error)
            shard = None
        if shard is not None:
            shards.append(shard)
        elif repair:
            remove_shard(path)
    if not repair:
        return shards
    sides = {_side_path(shard.path) for shard in shards}
    for pattern in ("*.tmp", "*.npz"):  # half-written files, and side files without a shard
        for path in set(glob.glob(os.path.join(glob.escape(directory), pattern))) - sides:
            os.unlink(path)
    return shards


def remove_shard(path: str) -> None:
    """Removes the files of the shard `path`; the side file first, so that no shard is taken for complete."""
    for file in (_side_path(path), path):
        if os.path.exists(file):
            os.unlink(file)


def _load_shard(path: str, conditions: Conditions) -> StoreShard | None:
    """Reads the side file of a shard; None if another version of the format wrote it."""
    with np.load(_side_path(path), allow_pickle=False) as arrays:
        header = json.loads(str(arrays["header"]))
        if header["version"] != FORMAT_VERSION:
            return None
        columns = {name: arrays[name] for name in STORED_COLUMNS}
        states, pixels, joined = arrays["states"], arrays["pixels"], arrays["paths"].tobytes()
    status = os.stat(path)
    if [status.st_size, status.st_mtime_ns] != header["shard"]:
        raise ValueError(f"it has {status.st_size} bytes, or was written to after its {header['shard'][0]} bytes")
    paths = [os.fsdecode(name) for name in joined.split(b"\0")] if joined else []
    before = Conditions(*header["conditions"])
    valid = pixels <= conditions.max_pixels
    if before.background != conditions.background:
        valid &= ~np.isin(columns["format"], TRANSPARENT)
    rejected = {name: (tuple(state), reason) for name, state, reason in header["rejected"]}
    same = before._replace(background="") == conditions._replace(background="")
    return StoreShard(path, status.st_size, paths, states, valid, columns, rejected if same else {})


def _side_path(path: str) -> str:
    return f"{path}.npz"


def _serialize(path: str, contents: bytes) -> bytes:
    """A tf.Example with the image and its name."""
    example = tf.train.Example()
    example.features.feature["image"].bytes_list.value.append(contents)
    example.features.feature["filename"].bytes_list.value.append(printable(path).encode())
    return example.SerializeToString(deterministic=True)
