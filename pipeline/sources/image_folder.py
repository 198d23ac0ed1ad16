"""Folders of images, CLASS/IMAGE or SPLIT/CLASS/IMAGE, as TFDS data sets.

files = scan_folder("/data/pets")    # {"train": ["cat/1.jpg", ...], "validation": [...]}
builder = open_folder("/data/pets")
"""

from __future__ import annotations

import collections
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.sources.cache_dir import cache_dir
from evenkeel.pipeline.sources.fingerprint import fingerprint_files
from evenkeel.pipeline.sources.prepare_once import prepare_once

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# In a folder without splits, one image in ten is held out for validation, by the hash of its name.
FILES_PER_VALIDATION_FILE = 10


def open_folder(root: str) -> Any:
    """The TFDS builder of a folder of images; the images are copied once into TFRecords in the cache directory."""
    files = scan_folder(root)
    builder = ImageFolders(
        root=root, files=files, data_dir=os.path.join(cache_dir(), "folders", folder_fingerprint(root, files))
    )
    prepare_once(builder)
    return tfds.builder_from_directory(str(builder.data_dir))


def list_folder(source: str) -> dict[str, list[str]] | None:
    """The result of `scan_folder` if `source` is a folder of images; None for any other source."""
    if source == "shapes" or source.startswith("tfds:") or not tf.io.gfile.isdir(source):
        return None
    return None if tf.io.gfile.exists(os.path.join(source, "dataset_info.json")) else scan_folder(source)


def folder_fingerprint(root: str, files: dict[str, list[str]]) -> str:
    """16 hex digits for the current contents of the `files` of a folder."""
    return fingerprint_files(
        repr([root, files]), [os.path.join(root, path) for paths in files.values() for path in paths]
    )


def scan_folder(root: str) -> dict[str, list[str]]:
    """The images of a folder: {split: sorted paths, CLASS/NAME or SPLIT/CLASS/NAME, relative to `root`}.

    Raises:
      UsageError: the folder has no images, images at both depths, or fewer than two classes.
    """
    by_depth: dict[int, list[str]] = collections.defaultdict(list)
    other_files: list[str] = []
    empty_folders: list[str] = []
    for directory, subfolders, names in tf.io.gfile.walk(root):
        relative = os.path.relpath(directory, root)
        parts = [] if relative == "." else relative.split(os.sep)
        if parts and not subfolders and not names:
            empty_folders.append(relative)
        for name in names:
            if any(part.startswith(".") for part in [*parts, name]):
                continue
            if name.lower().endswith(IMAGE_SUFFIXES) and len(parts) in (1, 2):
                by_depth[len(parts)].append("/".join([*parts, name]))
            else:
                other_files.append("/".join([*parts, name]))
    if not by_depth:
        raise UsageError(
            f"data.source ({root}) holds no images: it needs SPLIT/CLASS/IMAGE or CLASS/IMAGE with IMAGE ending in"
            f" {', '.join(IMAGE_SUFFIXES)}."
        )
    if len(by_depth) == 2:
        raise UsageError(
            f"data.source ({root}) has images both as CLASS/IMAGE ({by_depth[1][0]}) and as SPLIT/CLASS/IMAGE"
            f" ({by_depth[2][0]}): keep one of the two."
        )
    if other_files:
        logging.warning(
            "%d files of %s are ignored, because they are not [SPLIT/]CLASS/IMAGE; the first is %s",
            len(other_files),
            root,
            other_files[0],
        )
    if empty_folders:
        logging.warning(
            "%d folders of %s are ignored as classes, because they are empty; the first is %s",
            len(empty_folders),
            root,
            empty_folders[0],
        )
    depth, paths = next(iter(by_depth.items()))
    files = _files_by_split(paths, depth)
    classes = class_names(files)
    if len(classes) < 2:
        raise UsageError(f"data.source ({root}) has only one class ({classes[0]}): classification needs at least two.")
    return files


def _files_by_split(paths: list[str], depth: int) -> dict[str, list[str]]:
    files: dict[str, list[str]] = collections.defaultdict(list)
    for path in sorted(paths):
        if depth == 2:
            files[path.split("/")[0]].append(path)
        else:
            name_hash = int.from_bytes(
                hashlib.blake2b(path.encode(errors="surrogateescape"), digest_size=8).digest(), "big"
            )
            files["validation" if name_hash % FILES_PER_VALIDATION_FILE == 0 else "train"].append(path)
    return dict(files)


def class_names(files: dict[str, list[str]]) -> list[str]:
    """The sorted names of all classes in the result of `scan_folder`."""
    return sorted({path.split("/")[-2] for paths in files.values() for path in paths})


class ImageFolders(tfds.core.GeneratorBasedBuilder):
    """A TFDS builder that stores image files unchanged, byte for byte, in TFRecord shards."""

    VERSION = tfds.core.Version("1.0.0")
    name = "folder"
    pkg_dir_path = None

    def __init__(self, *, root: str, files: dict[str, list[str]], **kwargs) -> None:
        self._root, self._files = root, files
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=class_names(self._files)),
            "filename": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Images of {self._root}",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in self._files}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in self._files[split]:
            with tf.io.gfile.GFile(os.path.join(self._root, path), "rb") as file:
                yield path, {"image": file.read(), "label": path.split("/")[-2], "filename": path}
