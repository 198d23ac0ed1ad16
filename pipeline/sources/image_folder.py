"""Folders of images, CLASS/... or SPLIT/CLASS/..., at any depth below the class.

files = scan_folder("/data/pets")    # {"train": {"train/cat/1.jpg": "cat", ...}, "validation": {...}}
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator

import tensorflow as tf
from absl import logging

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.images.file_type import IMAGE_SUFFIXES, OTHER_SUFFIXES, SNIFFED_BYTES, file_type
from evenkeel.pipeline.sources.fingerprint import fingerprint_files, read_file
from evenkeel.pipeline.sources.split_names import TRAIN, split_role
from evenkeel.pipeline.system.printable import printable

FolderFiles = dict[str, dict[str, str]]  # {split: {path relative to the folder: class}}
MAX_LISTED = 3  # names in a message


def list_folder(source: str) -> FolderFiles | None:
    """The result of `scan_folder` if `source` is a folder of images; None for any other source."""
    if source == "shapes" or source.startswith("tfds:") or not tf.io.gfile.isdir(source):
        return None
    return None if tf.io.gfile.exists(os.path.join(source, "dataset_info.json")) else scan_folder(source)


def folder_fingerprint(root: str, files: FolderFiles) -> str:
    """16 hex digits for the current contents of the `files` of a folder."""
    root = root if "://" in root else os.path.realpath(root)  # one copy, whatever the spelling of the path
    return fingerprint_files(
        repr([root, files]), [os.path.join(root, path) for paths in files.values() for path in paths]
    )


def scan_folder(root: str) -> FolderFiles:
    """The images of a folder by split, and the class of each; sorted by path.

    Folders are splits only if they have the usual names of splits, in any case; without them all images are of the
    split `train`. A class is a folder with all that lies below it. A folder around all others is passed over. What is
    ignored is counted in the log. Links to folders are followed, but not in circles.

    Raises:
      UsageError: the folder has no images in classes, only one class, or no training split.
    """
    paths, other_files, empty_folders = _find_images(root)
    depth = _common_depth(paths)
    by_split, outside = _assign_classes(paths, depth)
    if not by_split:
        raise UsageError(_no_images_message(root, paths, other_files))
    _log_ignored(root, "files", "they are no images", other_files)
    _log_ignored(root, "folders", "they are empty", empty_folders)
    _log_ignored(root, "images", "they lie outside of the folders of classes", outside)
    if TRAIN not in by_split:
        raise UsageError(
            f"data.source ({root}) has only the splits {', '.join(sorted(by_split))} and no training images:"
            " add a folder named train."
        )
    classes = class_names(by_split)
    if len(classes) < 2:
        raise UsageError(
            f"data.source ({root}) has only one class ({classes[0]}): classification needs at least two, each in a"
            " folder of its own."
        )
    return by_split


def class_names(files: FolderFiles) -> list[str]:
    """The sorted names of all classes."""
    return sorted({name for paths in files.values() for name in paths.values()})


def _find_images(root: str) -> tuple[list[str], list[str], list[str]]:
    """Sorted paths, relative to `root`, of (images, other files, empty folders); hidden names are left out."""
    images: list[str] = []
    other_files: list[str] = []
    empty_folders: list[str] = []
    for directory, subfolders, names in _walk(root):
        if directory and not subfolders and not names:
            empty_folders.append(directory)
        for name in names:
            path = f"{directory}/{name}" if directory else name
            (images if _is_image(root, path) else other_files).append(path)
    return sorted(images), sorted(other_files), sorted(empty_folders)


def _walk(root: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yields (directory relative to `root`, names of its folders, names of its files), without hidden names."""
    visited: set[tuple[int, int]] = set()
    pending = [""]
    while pending:
        directory = pending.pop()
        path = os.path.join(root, directory)
        if "://" in root:
            entries = {
                name.rstrip("/"): tf.io.gfile.isdir(os.path.join(path, name)) for name in tf.io.gfile.listdir(path)
            }
        else:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(path) as found:
                entries = {entry.name: entry.is_dir() for entry in found}
        visible = {name: is_folder for name, is_folder in sorted(entries.items()) if not name.startswith(".")}
        folders = [name for name, is_folder in visible.items() if is_folder]
        pending += [f"{directory}/{name}" if directory else name for name in reversed(folders)]
        yield directory, folders, [name for name, is_folder in visible.items() if not is_folder]


def _is_image(root: str, path: str) -> bool:
    """Whether a file may be an image: by its ending, and by its first bytes if the ending says nothing."""
    _, dot, ending = path[path.rfind("/") + 1 :].rpartition(".")  # names that begin with the dot are hidden
    suffix = f".{ending.lower()}" if dot else ""
    if suffix in IMAGE_SUFFIXES or suffix in OTHER_SUFFIXES:
        return suffix in IMAGE_SUFFIXES
    try:
        return file_type(read_file(os.path.join(root, path), SNIFFED_BYTES)) != ""
    except (OSError, tf.errors.OpError):
        return False


def _common_depth(paths: list[str]) -> int:
    """The number of folders around all folders of classes or splits: 1 for PetImages/Cat and PetImages/Dog."""
    folders = [path.split("/")[:-1] for path in paths]
    if not folders or min(map(len, folders)) < 2:
        return 0
    shared = 0
    while min(map(len, folders)) > shared + 1 and len({parts[shared] for parts in folders}) == 1:
        shared += 1
    return shared


def _assign_classes(paths: list[str], depth: int) -> tuple[FolderFiles, list[str]]:
    """({split: {path: class}}, the images that belong to no class)."""
    parts_of = {path: path.split("/")[depth:-1] for path in paths}
    tops = {parts[0] for parts in parts_of.values() if parts}
    roles = {top: split_role(top) for top in tops}
    in_classes = {parts[0] for parts in parts_of.values() if len(parts) > 1}
    splits = {top for top, role in roles.items() if role and top in in_classes}
    # A single folder named like a split among others may be a class, such as train among car and plane.
    beside_others = len(splits) > 1 and any(roles[top] == TRAIN for top in splits)
    has_splits = bool(splits) and (splits == tops or beside_others)
    by_split: FolderFiles = collections.defaultdict(dict)
    outside = []
    for path, parts in parts_of.items():
        if has_splits and parts and parts[0] in splits and len(parts) > 1:
            by_split[roles[parts[0]]][path] = printable(parts[1])
        elif not has_splits and parts:
            by_split[TRAIN][path] = printable(parts[0])
        else:
            outside.append(path)
    return dict(by_split), outside


def _no_images_message(root: str, paths: list[str], other_files: list[str]) -> str:
    if paths:
        return (
            f"data.source ({root}) holds {len(paths)} images, but no folders of classes: put the images of each class"
            " into a folder that has the name of the class."
        )
    found = f"; it holds {len(other_files)} other files, such as {printable(other_files[0])}" if other_files else ""
    return f"data.source ({root}) holds no images: it needs SPLIT/CLASS/IMAGE or CLASS/IMAGE{found}."


def _log_ignored(root: str, what: str, reason: str, names: list[str]) -> None:
    if names:
        shown = ", ".join(map(printable, names[:MAX_LISTED]))
        logging.warning("%d %s of %s are ignored, because %s: %s", len(names), what, root, reason, shown)
