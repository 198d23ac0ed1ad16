"""Folders of images, CLASS/... or SPLIT/CLASS/..., at any depth below the class.

files = scan_folder("/data/pets")    # {"train": {"train/cat/1.jpg": "cat", ...}, "validation": {...}}
"""

from __future__ import annotations

import collections
import os
import stat
import unicodedata
from collections.abc import Iterator

import tensorflow as tf
from absl import logging

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.images.file_type import (
    IMAGE_SUFFIXES,
    OTHER_SUFFIXES,
    SNIFFED_BYTES,
    UNREAD_SUFFIXES,
    file_type,
)
from evenkeel.pipeline.sources.fingerprint import fingerprint_files, read_file, try_state
from evenkeel.pipeline.sources.split_names import TEST, TRAIN, VALIDATION, split_role
from evenkeel.pipeline.system.printable import printable

FolderFiles = dict[str, dict[str, str]]  # {split: {path relative to the folder: class}}
MAX_LISTED = 3  # names in a message
# Folders that systems (Synology, Windows, macOS, ext4) keep beside those of people, for thumbnails and deleted files.
SYSTEM_FOLDERS = ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found")

FOLDER, FILE, DANGLING, SPECIAL, CIRCLE = range(5)  # kinds of entries of a folder
# What is ignored, and why, as the log says it.
NO_IMAGES = "files", "they are no images"
UNREAD = "images", "they are of kinds that are not read: convert them to PNG or JPEG"
NO_CONTENTS = "files", "they are pipes, sockets or devices"
NO_TARGET = "links", "they lead nowhere"
ROUND = "links", "they lead to a folder around them"
EMPTY = "folders", "they are empty"
OUTSIDE = "images", "they lie outside of the folders of classes"
Ignored = dict[tuple[str, str], list[str]]  # {what and why: paths}


def list_folder(source: str) -> FolderFiles | None:
    """The result of `scan_folder` if `source` is a folder of images; None for any other source."""
    if source == "shapes" or source.startswith("tfds:") or not tf.io.gfile.isdir(source):
        return None
    return None if tf.io.gfile.exists(os.path.join(source, "dataset_info.json")) else scan_folder(source)


def folder_fingerprint(root: str, files: FolderFiles) -> str:
    """16 hex digits for the current contents of the `files` of a folder."""
    root = root if "://" in root else os.path.realpath(root)  # one copy, whatever the spelling of the path
    return fingerprint_files(
        repr([root, files]), [os.path.join(root, path) for paths in files.values() for path in paths], try_state
    )


def scan_folder(root: str) -> FolderFiles:
    """The images of a folder by split, and the class of each; sorted by path.

    Folders are splits only if they have the usual names of splits, in any case; without them all images are of the
    split `train`. A class is a folder with all that lies below it. A folder around all others is passed over. What is
    ignored is counted in the log. Links to folders are followed, but not in circles. Class names are in Unicode's
    composed form (NFC).

    Raises:
      UsageError: the folder has no images in classes, only one class, a class whose images are all of kinds that are
        not read, or no training split.
    """
    paths, ignored = _find_images(root)
    unread = ignored[UNREAD]
    depth = _common_depth(paths + unread)
    by_split, ignored[OUTSIDE] = _assign_classes(paths + unread, depth)
    by_split = _leave_out(root, unread, by_split)
    if not by_split:
        raise UsageError(_no_images_message(root, paths, ignored[NO_IMAGES]))
    for what, names in ignored.items():
        _log_ignored(root, *what, sorted(names))
    if TRAIN not in by_split:
        splits = sorted(by_split)
        folder = "/".join(next(iter(by_split[splits[0]])).split("/")[: depth + 1])
        raise UsageError(
            f"data.source ({root}) has only the splits {', '.join(splits)} and no training images: add a folder named"
            f" train, or give {os.path.join(root, folder)} to divide its images into training and validation."
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


def _find_images(root: str) -> tuple[list[str], Ignored]:
    """The sorted paths of images, relative to `root`, and what is ignored; hidden names are in neither."""
    images: list[str] = []
    ignored: Ignored = collections.defaultdict(list)
    for directory, entries in _walk(root):
        if directory and not entries:
            ignored[EMPTY].append(directory)
        for name, kind in entries.items():
            path = f"{directory}/{name}" if directory else name
            if kind == SPECIAL:
                ignored[NO_CONTENTS].append(path)
            elif kind == CIRCLE:
                ignored[ROUND].append(path)
            elif kind != FOLDER and _suffix(name) in UNREAD_SUFFIXES:
                ignored[UNREAD].append(path)
            elif kind != FOLDER:
                # A link that leads nowhere and has the name of an image is an image that cannot be read.
                no_image = NO_TARGET if kind == DANGLING else NO_IMAGES
                (images if _is_image(root, path) else ignored[no_image]).append(path)
    return sorted(images), ignored


def _walk(root: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Yields (directory relative to `root`, {name: kind} of its entries), without hidden names."""
    pending: list[tuple[str, tuple[os.stat_result, ...]]] = [("", ())]  # with the states of the folders around
    while pending:
        directory, around = pending.pop()
        path = os.path.join(root, directory)
        if "://" in root:
            entries = {
                name.rstrip("/"): FOLDER if tf.io.gfile.isdir(os.path.join(path, name)) else FILE
                for name in tf.io.gfile.listdir(path)
            }
        else:
            around = (*around, os.stat(path))
            with os.scandir(path) as found:
                entries = {entry.name: _kind(entry, around) for entry in found}
        visible = {
            name: kind
            for name, kind in sorted(entries.items())
            if not name.startswith(".") and not (kind == FOLDER and name in SYSTEM_FOLDERS)
        }
        folders = [name for name, kind in visible.items() if kind == FOLDER]
        pending += [(f"{directory}/{name}" if directory else name, around) for name in reversed(folders)]
        yield directory, visible


def _kind(entry: os.DirEntry[str], around: tuple[os.stat_result, ...]) -> int:
    """The kind of what an entry is, or links to; `around` are the states of the folders that it lies in."""
    if entry.is_file(follow_symlinks=False):  # most are, and this takes no system call
        return FILE
    try:
        status = entry.stat()
    except OSError:
        return FOLDER if entry.is_dir(follow_symlinks=False) else DANGLING
    if stat.S_ISDIR(status.st_mode):
        return CIRCLE if any(os.path.samestat(status, folder) for folder in around) else FOLDER
    return FILE if stat.S_ISREG(status.st_mode) else SPECIAL


def _is_image(root: str, path: str) -> bool:
    """Whether a file may be an image: by its ending, and by its first bytes if the ending says nothing."""
    suffix = _suffix(path)
    if suffix in IMAGE_SUFFIXES or suffix in OTHER_SUFFIXES:
        return suffix in IMAGE_SUFFIXES
    try:
        return file_type(read_file(os.path.join(root, path), SNIFFED_BYTES)) != ""
    except (OSError, tf.errors.OpError):
        return False


def _suffix(path: str) -> str:
    _, dot, ending = path[path.rfind("/") + 1 :].rpartition(".")  # names that begin with the dot are hidden
    return f".{ending.lower()}" if dot else ""


def _common_depth(paths: list[str]) -> int:
    """The number of folders around all folders of classes or splits: 1 for PetImages/Cat and PetImages/Dog."""
    folders = [path.split("/")[:-1] for path in paths]
    depth = 0
    while True:
        tops = {parts[depth] for parts in folders if len(parts) > depth}
        inside = {parts[depth + 1] for parts in folders if len(parts) > depth + 1}
        if len(tops) != 1 or not inside:
            return depth
        if TRAIN not in map(split_role, inside):
            # A folder with images of its own is a class, and one with such a name is a split, even if it is alone.
            has_images = any(len(parts) == depth + 1 for parts in folders)
            if has_images or split_role(tops.pop()) in (VALIDATION, TEST):
                return depth
        depth += 1


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
            by_split[roles[parts[0]]][path] = _class_name(parts[1])
        elif not has_splits and parts:
            by_split[TRAIN][path] = _class_name(parts[0])
        else:
            outside.append(path)
    return dict(by_split), outside


def _leave_out(root: str, unread: list[str], by_split: FolderFiles) -> FolderFiles:
    """`by_split` without the `unread` paths.

    Raises:
      UsageError: a class loses all of its images.
    """
    out = set(unread)
    read = {split: {path: name for path, name in files.items() if path not in out} for split, files in by_split.items()}
    read = {split: files for split, files in read.items() if files}
    lost = sorted(set(class_names(by_split)) - set(class_names(read)))
    if lost:
        of_class = sorted(path for files in by_split.values() for path, name in files.items() if name == lost[0])
        raise UsageError(
            f"data.source ({root}): all {len(of_class)} images of class {lost[0]} are of kinds that are not read, such"
            f" as {printable(of_class[0])}: convert them to PNG or JPEG, or remove the class."
        )
    return read


def _class_name(folder: str) -> str:
    # macOS writes an accent as a character of its own: train/café and val/café may differ in bytes and look the same.
    return printable(unicodedata.normalize("NFC", folder))


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
