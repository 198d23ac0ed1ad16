"""Any source as a table of located examples: which bytes of which file are which image, before one of them is read.

examples = of_folder("/data/pets", {"train": ["cat/1.jpg", ...]})       # or of_builder(builder)
contents = examples.read(row=7)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from evenkeel.pipeline.index import index


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """A row per example. `splits` gives each split's rows, `lost` those that cannot even be located: (split, name,
    reason). Where images are pixels, `shapes` int32 [rows, 3] holds theirs. `state` changes when any file does."""

    name: str
    classes: tuple[str, ...]
    files: tuple[str, ...]
    file: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    label: np.ndarray
    names: list[str]
    splits: dict[str, np.ndarray]
    lost: list[tuple[str, str, str]]
    shapes: np.ndarray | None
    state: str

    def read(self, row: int) -> bytes:
        """The image's bytes. Raises an `OSError` or `OpError` where the file cannot be read."""
        path, offset, length = self.files[self.file[row]], int(self.offset[row]), int(self.length[row])
        if "://" in path:
            with tf.io.gfile.GFile(path, "rb") as remote:
                remote.seek(offset)
                return remote.read(length)
        with open(path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)


def of_folder(root: str, files: dict[str, list[str]]) -> Examples:
    """The images of a folder, as `sources.scan` lists them: [SPLIT/]CLASS/NAME relative to `root`, by split."""
    names = [path for paths in files.values() for path in paths]
    classes = tuple(sorted({path.split("/")[-2] for path in names}))
    paths = [os.path.join(root, name) for name in names]
    stats = [tf.io.gfile.stat(path) for path in paths]
    ends = np.cumsum([len(paths) for paths in files.values()])
    return Examples(
        name="folder",
        classes=classes,
        files=tuple(paths),
        file=np.arange(len(names)),
        offset=np.zeros(len(names), np.int64),
        length=np.array([stat.length for stat in stats], np.int64),
        label=np.array([classes.index(name.split("/")[-2]) for name in names], np.int64),
        names=names,
        splits={split: np.arange(end - len(files[split]), end) for split, end in zip(files, ends, strict=True)},
        lost=[],
        shapes=None,
        state=_digest([files, [(stat.length, stat.mtime_nsec) for stat in stats]]),
    )


def of_builder(builder: Any) -> Examples:
    """The images of a TFDS data set, found by reading through its shards once, checksums checked.

    Raises:
      UsageError: it is not stored as TFRecords, or is not for image classification.
    """
    features = index.find_features(builder)
    shards = index.shard_lengths(builder)
    stats = [tf.io.gfile.stat(path) for path in shards]
    split_of = {str(path): split for split, info in builder.info.splits.items() for path in info.filepaths}
    rows: list[tuple[int, int, int, int]] = []
    names: list[str] = []
    shapes: list[list[int]] = []
    splits: dict[str, list[int]] = {split: [] for split in builder.info.splits}
    lost: list[tuple[str, str, str]] = []
    for shard, (path, length) in enumerate(shards.items()):
        for record, (offset, data, fault) in enumerate(index.records(path, length)):
            name = f"{os.path.basename(path)} record {record}"
            try:
                if fault:
                    raise ValueError(fault)
                found = index.parse_example(data, features)
            except (IndexError, ValueError, DecodeError) as error:
                lost.append((split_of[path], name, str(error)))
                continue
            splits[split_of[path]].append(len(rows))
            rows.append((shard, offset + data.find(found.image), len(found.image), found.label))
            names.append(found.name.decode(errors="backslashreplace") or name)
            shapes.append(found.shape)
    file, offset, length, label = np.array(rows, np.int64).reshape(-1, 4).T
    return Examples(
        name=builder.info.name,
        classes=features.classes,
        files=tuple(shards),
        file=file,
        offset=offset,
        length=length,
        label=label,
        names=names,
        splits={split: np.array(of, np.int64) for split, of in splits.items()},
        lost=lost,
        shapes=np.array(shapes, np.int64) if features.shape else None,
        state=_digest([[os.path.basename(path) for path in shards], [(s.length, s.mtime_nsec) for s in stats]]),
    )


def _digest(parts: Iterable[Any]) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
