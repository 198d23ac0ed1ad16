"""What all loaders read, written once: the same bytes, in the forms they want, in a folder keyed by its content.

    folder = written("prepared224", source="/data/photos", say=print)

    FOLDER/files/train/LABEL/000000.jpg    and files/validation/LABEL/..., one image a class, which nobody times
    FOLDER/work.json                       task, images and what was left out
    FOLDER/heights.npy widths.npy labels.npy pixels.npy      raw224 and small32: decoded, one image behind the other

jpeg224 takes the files as they are. bounded224 bounds the longer side to 400 pixels, as FFCV's `max_resolution`
does, prepared224 the shorter side to 256 (area-averaged, nothing is enlarged), and both encode with quality 90. raw224
holds the decoded pixels of prepared224's files.
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
import tensorflow_datasets as tfds
from PIL import Image

from evenkeel.pipeline.config import DataConfig, ShapesConfig
from evenkeel.pipeline.errors import require
from evenkeel.pipeline.index.index import find_features
from evenkeel.pipeline.sources import resolve

VERSION = 1  # of what is written; a change makes older folders unknown
LONGER_SIDE, SHORTER_SIDE, QUALITY = 400, 256, 90
# So many files at least, by repeating images: a hundred photographs would fit into a CPU's cache.
FEWEST = 1024
SHAPES = {"images": ShapesConfig(size=320, count=FEWEST), "small": ShapesConfig()}
SMALL = 32


@dataclasses.dataclass(frozen=True)
class Images:
    """Encoded images with their labels, and why others of the same source were left out, with the number of each."""

    encoded: list[bytes]
    labels: list[int]
    left_out: dict[str, int]


def written(task: str, source: str, say: Callable[[str], None] = print) -> Path:
    """The folder of what `task` reads out of `source`, written unless it is there already.

    Raises:
      UsageError: the source cannot be used for this task.
    """
    images = usable(read(source, "small" if task == "small32" else "images"), task, source)
    digest = hashlib.blake2b(repr((VERSION, task, images.labels)).encode(), digest_size=8)
    for image in images.encoded:
        digest.update(hashlib.blake2b(image).digest())
    folder = Path(resolve.cache_dir()) / "peers" / f"{task}-{digest.hexdigest()}"
    if folder.is_dir():
        return folder
    say(f"{task}: writing what all loaders read into {folder}")
    beside = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        _write(beside, task, images)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def read(source: str, kind: str) -> Images:
    """Training images of a data set, as they are stored."""
    builder = resolve.resolve(DataConfig(source=source, shapes=SHAPES[kind]))
    features = find_features(builder)
    split = "train" if "train" in builder.info.splits else next(iter(builder.info.splits))
    as_stored = {features.image: tfds.decode.SkipDecoding()}
    examples = list(tfds.as_numpy(builder.as_dataset(split, decoders=as_stored, shuffle_files=False)))
    return Images(
        [example[features.image] for example in examples],
        [int(example[features.label]) for example in examples],
        {},
    )


def usable(images: Images, task: str, source: str) -> Images:
    """Those that every loader of the task can read.

    Raises:
      UsageError: none is left.
    """
    left_out: collections.Counter[str] = collections.Counter()
    kept = []
    for encoded, label in zip(images.encoded, images.labels, strict=True):
        reason = _fault(encoded, task)
        if reason:
            left_out[reason] += 1
        else:
            kept.append((encoded, label))
    flag = "data.small_source" if task == "small32" else "data.source"
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    require(bool(kept), f"{flag} ({source}) holds no image that {task} can use ({reasons}): give another.")
    return Images([k[0] for k in kept], [k[1] for k in kept], dict(left_out))


def prepared(encoded: bytes, task: str) -> bytes:
    """JPEG of quality 90, colour, averaged over areas: longer side at most 400 pixels, or shorter side at most 256."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    ratio = LONGER_SIDE / max(image.size) if task == "bounded224" else SHORTER_SIDE / min(image.size)
    if ratio < 1:
        size = round(image.width * ratio), round(image.height * ratio)
        image = image.resize(size, Image.Resampling.BOX)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def pixels(encoded: bytes) -> np.ndarray:
    """uint8 [height, width, 3]"""
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def _fault(encoded: bytes, task: str) -> str | None:
    try:
        image = Image.open(io.BytesIO(encoded))
        image.load()
    except (OSError, ValueError, SyntaxError):
        return "cannot be decoded"
    if image.format not in ("JPEG", "PNG"):
        return "neither JPEG nor PNG"
    if task == "small32":
        return None if image.size == (SMALL, SMALL) else f"not {SMALL}x{SMALL}"
    if task == "jpeg224" and (image.format != "JPEG" or image.mode not in ("RGB", "L")):
        return "not JPEG, or neither colour nor gray"  # FFCV's decoder reads nothing else
    return None


def _write(folder: Path, task: str, images: Images) -> None:
    encoded = images.encoded
    if task in ("bounded224", "prepared224", "raw224"):
        encoded = [prepared(image, task) for image in encoded]
    times = 1 if task == "small32" else -(-FEWEST // len(encoded))
    folder.mkdir(parents=True)
    for row, label in enumerate(images.labels * times):
        _write_file(folder / "files" / "train" / f"{label:04d}", row, encoded[row % len(encoded)])
    for label in sorted(set(images.labels)):
        first = encoded[images.labels.index(label)]
        _write_file(folder / "files" / "validation" / f"{label:04d}", 0, first)
    if task in ("raw224", "small32"):
        _write_arrays(folder, [pixels(image) for image in encoded], images.labels, times)
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
