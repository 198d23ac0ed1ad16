"""The store of a folder: its images in the cache, as TFRecord shards, measured while they are copied.

    opened = open_folder("/data/pets", scan_folder("/data/pets"), max_pixels, background)
    opened.index, opened.splits

Each file is read once and decoded once. A later start looks only at names and states (`fingerprint.file_state`), and
reads the files that are new or have changed. Classes and splits are not stored, they come from the names of folders.
The order of rows is a function of the names of files: it does not depend on the history of the store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Generator, Iterator

import numpy as np

from evenkeel.pipeline.index.features import Features
from evenkeel.pipeline.index.index import COLUMNS, Index
from evenkeel.pipeline.index.split_rows import SplitRows, consecutive_splits
from evenkeel.pipeline.sources.cache_dir import cache_dir, cache_errors
from evenkeel.pipeline.sources.cache_entries import is_used, use_entry
from evenkeel.pipeline.sources.fingerprint import try_state
from evenkeel.pipeline.sources.image_folder import FolderFiles, class_names
from evenkeel.pipeline.sources.read_batches import (
    UNKNOWN_STATE,
    Conditions,
    ReadBatch,
    conditions_now,
    read_batches,
)
from evenkeel.pipeline.sources.store_shard import (
    SHARD_BYTES,
    SHARD_IMAGES,
    STORED_COLUMNS,
    StoreShard,
    load_shards,
    remove_shard,
    write_shard,
)
from evenkeel.pipeline.system.file_lock import exclusive_lock
from evenkeel.pipeline.system.printable import printable
from evenkeel.pipeline.system.progress import progress

MAX_SMALL_SHARDS = 16  # of less than a quarter of the usual size; more are written again as one
FEATURES = ("image", "label", "filename")  # keys of a tf.Example; the label is not stored


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedSource:
    """A source that is ready to be read.

    Attributes:
      index: all rows.
      splits: the rows of each split.
      directory: where the shards lie.
    """

    index: Index
    splits: SplitRows
    directory: str


def open_folder(root: str, files: FolderFiles, max_pixels: int, background: str) -> OpenedSource:
    """Opens the store of the folder `root`; `files` is the result of `scan_folder`.

    Raises:
      UsageError: the cache is full or cannot be written to.
    """
    real_root = real_path(root)
    directory = store_directory(root)
    order = {split: sorted(paths, key=_hash) for split, paths in files.items()}
    paths = list(itertools.chain.from_iterable(order.values()))
    states = [_state(f"{real_root}/{path}") for path in paths]
    conditions = conditions_now(max_pixels, background)
    with cache_errors():
        try:
            shards = _update(directory, real_root, paths, states, conditions)
        except OSError:  # a cache that is read-only serves as long as nothing is missing
            shards = load_shards(directory, conditions, repair=False)
            if _Stored(shards, paths, states).missing:
                raise
    stored = _Stored(shards, paths, states)
    index = _make_index(files, shards, stored, paths)
    splits = consecutive_splits(root, {split: len(names) for split, names in order.items()})
    return OpenedSource(index, splits, directory)


def _update(
    directory: str, root: str, paths: list[str], states: list[tuple[int, ...]], conditions: Conditions
) -> list[StoreShard]:
    """Brings the store up to date and returns its shards.

    Raises:
      OSError: the cache cannot be written to.
    """
    with exclusive_lock(directory):
        os.makedirs(directory, exist_ok=True)
        alone = not is_used(directory)
        use_entry(directory, root)
        shards = load_shards(directory, conditions)
        stored = _Stored(shards, paths, states)
        if alone:  # another process may still read the shards by their names
            shards = _remove_wasteful(shards, stored)
            stored = _Stored(shards, paths, states)
        missing = stored.missing
        if missing:
            new_paths, new_states = [paths[row] for row in missing], [states[row] for row in missing]
            batches = read_batches(root, new_paths, new_states, conditions)
            shards += _copy_files(directory, shards, batches, conditions, len(missing))
    return shards


def store_directory(root: str) -> str:
    """The directory of the store of a folder: one, whatever the spelling of its path."""
    key = hashlib.blake2b(os.fsencode(real_path(root)), digest_size=8).hexdigest()
    return os.path.join(cache_dir(), "folders", key)


def real_path(root: str) -> str:
    return os.path.realpath(root) if os.path.isdir(root) else root


def _hash(path: str) -> bytes:
    # Rows are in the order of a hash, as if shuffled: neighbours in a part such as train[:90%] are of any class.
    return hashlib.blake2b(os.fsencode(path), digest_size=8).digest()


def _state(path: str) -> tuple[int, ...]:
    state = try_state(path)
    return (*state, *UNKNOWN_STATE[len(state) :])


def _copy_files(
    directory: str, before: list[StoreShard], batches: Generator[ReadBatch], conditions: Conditions, total: int
) -> list[StoreShard]:
    """Writes `batches`, of `total` files, as shards that are numbered after those `before`."""
    shards: list[StoreShard] = []
    number = before[-1].number + 1 if before else 0
    with progress(total, "reading images") as advance, contextlib.closing(batches):

        def count() -> Iterator[ReadBatch]:
            for batch in batches:
                yield batch
                advance(len(batch.paths) + len(batch.rejected))

        counted = count()
        for first in counted:
            shards.append(write_shard(directory, number + len(shards), itertools.chain([first], counted), conditions))
    return shards


class _Stored:
    """Where each file of the folder is stored.

    Attributes:
      place: int64 [files], row over all shards; -1 if the file is not stored.
      shard, record: int64 [files], the shard and the record in it; 0 if the file is not stored.
      reasons: [files], why a file is not used; empty for others.
      missing: the files that must be read.
    """

    def __init__(self, shards: list[StoreShard], paths: list[str], states: list[tuple[int, ...]]) -> None:
        row_of = {path: row for row, path in enumerate(paths)}
        current = np.array(states, np.int64).reshape(-1, len(UNKNOWN_STATE))
        ends = np.cumsum([len(shard.paths) for shard in shards], dtype=np.int64)
        self.place = np.full(len(paths), -1, np.int64)
        self.reasons = [""] * len(paths)
        for shard, end in zip(shards, ends.tolist(), strict=True):
            rows = np.array([row_of.get(path, -1) for path in shard.paths], np.int64)
            same = (rows >= 0) & shard.valid
            same[same] = (current[rows[same]] == shard.states[same]).all(axis=1)
            self.place[rows[same]] = end - len(rows) + np.flatnonzero(same)
            for path, (state, reason) in shard.rejected.items():
                row = row_of.get(path)
                if row is not None and state in (states[row], UNKNOWN_STATE):
                    self.reasons[row] = reason
        self.missing = [row for row in np.flatnonzero(self.place < 0).tolist() if not self.reasons[row]]
        stored = self.place >= 0
        self.shard = np.where(stored, np.searchsorted(ends, self.place, side="right"), 0)
        self.record = np.where(stored, self.place - np.concatenate([[0], ends])[self.shard], 0)


def _remove_wasteful(shards: list[StoreShard], stored: _Stored) -> list[StoreShard]:
    """Removes shards of which less than half is used, and small shards if there are many; returns the others."""
    used = np.zeros(len(shards), np.int64)
    for number, shard in enumerate(shards):
        rows = stored.record[(stored.place >= 0) & (stored.shard == number)]
        used[number] = shard.columns["length"][rows].sum()
    sizes = np.array([shard.size for shard in shards], np.int64)
    small = [4 * len(shard.paths) < SHARD_IMAGES and 4 * shard.size < SHARD_BYTES for shard in shards]
    wasteful = 2 * used < sizes
    if sum(small) > MAX_SMALL_SHARDS:
        wasteful |= small
    for shard, remove in zip(shards, wasteful, strict=True):
        if remove:
            remove_shard(shard.path)
    return [shard for shard, remove in zip(shards, wasteful, strict=True) if not remove]


def _make_index(files: FolderFiles, shards: list[StoreShard], stored: _Stored, paths: list[str]) -> Index:
    classes = tuple(class_names(files))
    number_of = {name: number for number, name in enumerate(classes)}
    class_of = {path: name for names in files.values() for path, name in names.items()}
    kept = stored.place >= 0
    columns: dict[str, np.ndarray] = {
        name: np.zeros((len(paths), *shape), kind) for name, (kind, shape) in COLUMNS.items()
    }
    for name in STORED_COLUMNS:
        if kept.any():
            columns[name][kept] = np.concatenate([shard.columns[name] for shard in shards])[stored.place[kept]]
    names = [printable(path) for path in paths]
    columns["shard"][:], columns["record"][:], columns["keep"][:] = stored.shard, stored.record, kept
    # A file that is not used has no record; it gets a number of its own behind those of the first shard.
    first = len(shards[0].paths) if shards else 0
    columns["record"][~kept] = first + np.arange(len(paths) - kept.sum())
    columns["label"][:] = [number_of[class_of[path]] for path in paths]
    columns["name"] = np.array([name.encode() for name in names], np.bytes_)
    faults = {(0, int(columns["record"][row])): f"{names[row]}: {stored.reasons[row]}" for row in np.flatnonzero(~kept)}
    sizes = tuple(shard.size for shard in shards)
    return Index(tuple(shard.path for shard in shards), sizes, Features(*FEATURES, classes), columns, faults)
