"""Locates the images of any source: the file, offset and length of the bytes of each image.

examples = locate_folder_images("/data/pets", {"train": ["cat/1.jpg", ...]})    # or locate_tfds_images(builder)
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

from evenkeel.pipeline.index.features import find_features, parse_example
from evenkeel.pipeline.index.tfrecord import read_records, shard_lengths
from evenkeel.pipeline.sources.fingerprint import try_state
from evenkeel.pipeline.sources.image_folder import FolderFiles, class_names
from evenkeel.pipeline.system.printable import printable


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """A table with one row per image.

    Attributes:
      name: name of the data set.
      classes: names of the classes.
      files: paths of the files.
      file: int64 [rows], index into `files`.
      offset: int64 [rows], first byte of the image in its file.
      length: int64 [rows], bytes of the image.
      label: int64 [rows], class number.
      names: name of each image.
      splits: {split: its rows, int64 [n]}.
      unreadable: (split, name, reason) of each record that could not be read.
      shapes: int64 [rows, 3], shapes of images stored as pixels; None if images are encoded.
      fingerprint: 32 hex digits, which change when any file changes.
    """

    name: str
    classes: tuple[str, ...]
    files: tuple[str, ...]
    file: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    label: np.ndarray
    names: list[str]
    splits: dict[str, np.ndarray]
    unreadable: list[tuple[str, str, str]]
    shapes: np.ndarray | None
    fingerprint: str

    def read(self, row: int, count: int | None = None) -> bytes:
        """The bytes of an image, or the first `count` of them.

        Raises:
          OSError, OpError: the file cannot be read.
        """
        path, offset, length = self.files[self.file[row]], int(self.offset[row]), int(self.length[row])
        length = length if count is None else min(length, count)
        if "://" in path:
            with tf.io.gfile.GFile(path, "rb") as remote:
                remote.seek(offset)
                return remote.read(length)
        with open(path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)


def locate_folder_images(root: str, files: FolderFiles) -> Examples:
    """The images of a folder; `files` is the result of `image_folder.scan_folder`."""
    class_of = {path: name for paths in files.values() for path, name in paths.items()}
    classes = tuple(class_names(files))
    number_of = {name: number for number, name in enumerate(classes)}
    paths = [os.path.join(root, path) for path in class_of]
    states = [try_state(path) for path in paths]
    ends = np.cumsum([len(paths) for paths in files.values()])
    return Examples(
        name="folder",
        classes=classes,
        files=tuple(paths),
        file=np.arange(len(paths)),
        offset=np.zeros(len(paths), np.int64),
        length=np.array([state[0] if state else 0 for state in states], np.int64),
        label=np.array([number_of[name] for name in class_of.values()], np.int64),
        names=[printable(path) for path in class_of],
        splits={split: np.arange(end - len(files[split]), end) for split, end in zip(files, ends, strict=True)},
        unreadable=[],
        shapes=None,
        fingerprint=_digest([files, states]),
    )


def locate_tfds_images(builder: Any) -> Examples:
    """The images of a TFDS data set; reads all its shards once and checks their checksums.

    Raises:
      UsageError: the data set is not stored as TFRecords, or is not for image classification.
    """
    features = find_features(builder)
    shards = shard_lengths(builder)
    stats = [tf.io.gfile.stat(path) for path in shards]
    split_of = {str(path): split for split, info in builder.info.splits.items() for path in info.filepaths}
    rows: list[tuple[int, int, int, int]] = []
    names: list[str] = []
    shapes: list[list[int]] = []
    splits: dict[str, list[int]] = {split: [] for split in builder.info.splits}
    unreadable: list[tuple[str, str, str]] = []
    for shard, (path, length) in enumerate(shards.items()):
        for record, (offset, data, fault) in enumerate(read_records(path, length)):
            name = f"{os.path.basename(path)} record {record}"
            try:
                if fault:
                    raise ValueError(fault)
                example = parse_example(data, features)
            except (IndexError, ValueError, DecodeError) as error:
                unreadable.append((split_of[path], name, str(error)))
                continue
            splits[split_of[path]].append(len(rows))
            rows.append((shard, offset + data.find(example.image), len(example.image), example.label))
            names.append(example.name.decode(errors="backslashreplace") or name)
            shapes.append(example.shape)
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
        splits={split: np.array(numbers, np.int64) for split, numbers in splits.items()},
        unreadable=unreadable,
        shapes=np.array(shapes, np.int64) if features.shape else None,
        fingerprint=_digest([[os.path.basename(path) for path in shards], [(s.length, s.mtime_nsec) for s in stats]]),
    )


def _digest(parts: Iterable[Any]) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
