"""Writes the data that all loaders read: the same images in the form of each loader, in a folder keyed by content.

    folder = write_task_data("prepared224", source="/data/photos", log=print)

    FOLDER/files/train/LABEL/000000.jpg    the training images
    FOLDER/files/validation/LABEL/...      one image per class, which is not measured
    FOLDER/work.json                       task, number of images, number of excluded images by reason
    FOLDER/heights.npy widths.npy labels.npy pixels.npy      raw224 and small32: decoded images, concatenated

jpeg224 copies the files unchanged. bounded224 limits the longer side to 400 pixels, as FFCV's `max_resolution` does;
prepared224 limits the shorter side to 256 pixels. Both shrink by area averaging, never enlarge, and encode with quality
90. raw224 contains the decoded pixels of the files of prepared224.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from evenkeel.pipeline.config import PrepareConfig, ShapesConfig
from evenkeel.pipeline.errors import require
from evenkeel.pipeline.prepare.prepare import find_examples
from evenkeel.pipeline.sources.cache_dir import cache_dir

FORMAT_VERSION = 1  # part of the key of a folder, so folders with an older version are not used
LONGER_SIDE, SHORTER_SIDE, QUALITY = 400, 256, 90
# Files are repeated until there are this many, because a hundred photographs would fit into the cache of a CPU.
MIN_FILES = 1024
SHAPES = {"images": ShapesConfig(size=320, count=MIN_FILES), "small": ShapesConfig()}
SMALL_SIDE = 32


@dataclasses.dataclass(frozen=True)
class Images:
    """Encoded images of a source.

    Attributes:
      encoded: the bytes of each file.
      labels: the label of each file.
      left_out: {reason: number of excluded images}.
    """

    encoded: list[bytes]
    labels: list[int]
    left_out: dict[str, int]


def write_task_data(task: str, source: str, log: Callable[[str], None] = print) -> Path:
    """Returns the folder with the data of `task` from `source`; writes the folder if it does not exist.

    Raises:
      UsageError: the source cannot be used for this task.
    """
    images = select_usable(read_images(source, "small" if task == "small32" else "images"), task, source)
    digest = hashlib.blake2b(repr((FORMAT_VERSION, task, images.labels)).encode(), digest_size=8)
    for image in images.encoded:
        digest.update(hashlib.blake2b(image).digest())
    folder = Path(cache_dir()) / "peers" / f"{task}-{digest.hexdigest()}"
    if folder.is_dir():
        return folder
    log(f"{task}: writing the loaders' data into {folder}")
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        _write_folder(unfinished, task, images)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def read_images(source: str, kind: str) -> Images:
    """Returns the training images of `source` as they are stored. `kind` is a key of `SHAPES`."""
    examples = find_examples(PrepareConfig(source=source, shapes=SHAPES[kind]))
    rows = examples.splits.get("train", next(iter(examples.splits.values()))).tolist()
    return Images([examples.read(row) for row in rows], [int(examples.label[row]) for row in rows], {})


def select_usable(images: Images, task: str, source: str) -> Images:
    """Returns the images that every loader of the task can read.

    Raises:
      UsageError: there are no such images.
    """
    left_out: collections.Counter[str] = collections.Counter()
    selected = []
    for encoded, label in zip(images.encoded, images.labels, strict=True):
        reason = _reason_unusable(encoded, task)
        if reason:
            left_out[reason] += 1
        else:
            selected.append((encoded, label))
    flag = "data.small_source" if task == "small32" else "data.source"
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    require(bool(selected), f"{flag} ({source}) has no image that {task} can use ({reasons}): give another source.")
    return Images([encoded for encoded, _ in selected], [label for _, label in selected], dict(left_out))


def shrink(encoded: bytes, task: str) -> bytes:
    """Shrinks an image by area averaging and encodes it as a colour JPEG of quality 90.

    The longer side is at most 400 pixels for bounded224, the shorter side at most 256 for the other tasks.
    """
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    ratio = LONGER_SIDE / max(image.size) if task == "bounded224" else SHORTER_SIDE / min(image.size)
    if ratio < 1:
        size = round(image.width * ratio), round(image.height * ratio)
        image = image.resize(size, Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def decode(encoded: bytes) -> np.ndarray:
    """Returns the decoded RGB image, uint8 [height, width, 3]."""
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def _reason_unusable(encoded: bytes, task: str) -> str | None:
    try:
        image = Image.open(io.BytesIO(encoded))
        image.load()
    except (OSError, ValueError, SyntaxError):
        return "cannot be decoded"
    if image.format not in ("JPEG", "PNG"):
        return "neither JPEG nor PNG"
    if task == "small32":
        return None if image.size == (SMALL_SIDE, SMALL_SIDE) else f"not {SMALL_SIDE}x{SMALL_SIDE}"
    if task == "jpeg224" and (image.format != "JPEG" or image.mode not in ("RGB", "L")):
        return "not JPEG, or neither colour nor gray"  # FFCV's decoder reads nothing else
    return None


def _write_folder(folder: Path, task: str, images: Images) -> None:
    encoded = images.encoded
    if task in ("bounded224", "prepared224", "raw224"):
        encoded = [shrink(image, task) for image in encoded]
    times = 1 if task == "small32" else -(-MIN_FILES // len(encoded))
    folder.mkdir(parents=True)
    for row, label in enumerate(images.labels * times):
        _write_file(folder / "files" / "train" / f"{label:04d}", row, encoded[row % len(encoded)])
    for label in sorted(set(images.labels)):
        first = encoded[images.labels.index(label)]
        _write_file(folder / "files" / "validation" / f"{label:04d}", 0, first)
    if task in ("raw224", "small32"):
        _write_arrays(folder, [decode(image) for image in encoded], images.labels, times)
    about = {
        "task": task,
        "images": len(encoded) * times,
        "distinct": len(set(encoded)),
        "classes": len(set(images.labels)),
        "bytes_per_image": sum(map(len, encoded)) / len(encoded),
        "left_out": images.left_out,
    }
    (folder / "work.json").write_text(json.dumps(about, indent=1) + "\n")


def _write_file(directory: Path, row: int, encoded: bytes) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    ending = "jpg" if encoded[:3] == b"\xff\xd8\xff" else "png"
    (directory / f"{row:06d}.{ending}").write_bytes(encoded)


def _write_arrays(folder: Path, decoded: Sequence[np.ndarray], labels: Sequence[int], times: int) -> None:
    np.save(folder / "heights.npy", np.array([image.shape[0] for image in decoded] * times, np.int32))
    np.save(folder / "widths.npy", np.array([image.shape[1] for image in decoded] * times, np.int32))
    np.save(folder / "labels.npy", np.array(list(labels) * times, np.int64))
    np.save(folder / "pixels.npy", np.concatenate([image.reshape(-1) for image in decoded] * times))
