"""Stores the index of a TFDS data set on disk and opens it again.

    index = open_index(builder, cache_dir)

The index is built once. It is stored beside the shards, or in the cache directory if that is not possible, and rebuilt
when the size or modification time of a shard changes.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import zipfile
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.build_index import build_index
from evenkeel.pipeline.index.features import find_features
from evenkeel.pipeline.index.index import COLUMNS, Index
from evenkeel.pipeline.index.tfrecord import shard_lengths
from evenkeel.pipeline.system.atomic_write import atomic_write

INDEX_FILE = "evenkeel-index.npz"
DROP_LIST_FILE = "dropped.csv"  # shard, record and reason of each row that is not used for training
FORMAT_VERSION = 7  # raised when the meaning of a column changes: older files are then rebuilt


def open_index(
    builder: Any,
    cache_dir: str,
    max_pixels: int = DataConfig.max_pixels,
    background: str = DataConfig.background,
) -> Index:
    """The index over all splits of a TFDS data set: the stored one if it is up to date, else a newly built one.

    Images of more than `max_pixels` are not decoded and not kept. `background` is behind transparent pixels.

    Raises:
      UsageError: the data set is not stored as TFRecords, or a shard is missing.
    """
    features = find_features(builder)
    lengths = shard_lengths(builder)
    directory = str(builder.data_dir)
    try:
        state = index_state(list(lengths), directory, max_pixels, background)
    except tf.errors.OpError as error:
        raise UsageError(
            f"a shard of {builder.info.full_name} cannot be read: {error.message}; repair the shard or prepare the data"
            " set again."
        ) from error
    sizes = tuple(state["sizes"])
    name = hashlib.blake2b(directory.encode(), digest_size=8).hexdigest()
    paths = [os.path.join(cache_dir, "indexes", name + ".npz")]
    if "://" not in directory:
        paths.insert(0, os.path.join(directory, INDEX_FILE))
    for path in paths:
        stored = _read_index(path, state)
        if stored:
            return Index(tuple(lengths), sizes, features, *stored)
    try:
        columns, faults = build_index(lengths, features, max_pixels, background)
    except tf.errors.OpError as error:
        raise UsageError(
            f"a shard of {builder.info.full_name} cannot be read: {error.message}; repair the shard or prepare the data"
            " set again."
        ) from error
    index = Index(tuple(lengths), sizes, features, columns, faults)
    index = apply_drop_list(index, directory)
    for path in paths:
        try:
            save_index(path, state, index)
            break
        except OSError as error:
            logging.info("the index cannot be stored as %s (%s)", path, error)
    else:
        logging.warning(
            "the index of %s cannot be stored, so every start rebuilds it: make its directory writable", directory
        )
    return index


def _read_index(path: str, state: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[tuple[int, int], str]] | None:
    """The columns and faults of the index stored as `path`; None if there is none, or none that is up to date."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            header = json.loads(str(arrays["header"]))
            if header["state"] != state:
                return None
            columns = {name: arrays[name] for name in COLUMNS}
            faults = {(int(shard), int(record)): reason for shard, record, reason in header["faults"]}
            return columns, faults
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        logging.warning("the index %s is damaged (%s): it is built again", path, error)
        return None


def index_state(shards: list[str], directory: str, max_pixels: int, background: str) -> dict[str, Any]:
    """Everything that an index depends on; a stored index with a different state is out of date.

    Raises:
      OpError: a shard cannot be read.
    """
    stats = [tf.io.gfile.stat(path) for path in shards]
    path = os.path.join(directory, DROP_LIST_FILE)
    drop_list = b""
    if tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path, "rb") as file:
            drop_list = file.read()
    return {
        "version": FORMAT_VERSION,
        "shards": [os.path.basename(path) for path in shards],  # without the directory, which may be moved
        "sizes": [stat.length for stat in stats],
        "times": [stat.mtime_nsec for stat in stats],
        "max_pixels": max_pixels,
        "background": background,
        "dropped": hashlib.blake2b(drop_list, digest_size=8).hexdigest() if drop_list else "",
    }


def apply_drop_list(index: Index, directory: str) -> Index:
    """Drops the rows that the drop list of `directory` names; returns `index` unchanged if there is no drop list.

    Raises:
      UsageError: the list names a record that does not exist.
    """
    path = os.path.join(directory, DROP_LIST_FILE)
    if not tf.io.gfile.exists(path):
        return index
    with tf.io.gfile.GFile(path) as file:
        lines = [(line["shard"], line["record"], line["reason"]) for line in csv.DictReader(file)]
    shard_of = {os.path.basename(path): number for number, path in enumerate(index.shards)}
    records = zip(*(index.columns[c].tolist() for c in ("shard", "record")), strict=True)
    row_of = {record: row for row, record in enumerate(records)}
    try:
        return index.drop({row_of[shard_of[shard], int(record)]: reason for shard, record, reason in lines})
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"{path} refers to a record that does not exist ({error}): repair or remove the file."
        ) from error


def save_index(path: str, state: dict[str, Any], index: Index) -> None:
    """Writes `index`, built in `state` (see `index_state`), as a file that `open_index` reads."""
    header = {"state": state, "faults": [[*record, reason] for record, reason in index.faults.items()]}
    _write_arrays(path, json.dumps(header), index.columns)


def _write_arrays(path: str, header: str, columns: dict[str, np.ndarray]) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with atomic_write(path) as file:
        np.savez(file, header=np.array(header), **columns)  # type: ignore[arg-type]
