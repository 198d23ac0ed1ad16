"""JPEGs of many kinds, and an index of them with seek points."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from evenkeel.pipeline.images.decode import LIBJPEG_OPTIONS
from evenkeel.pipeline.index.features import Features
from evenkeel.pipeline.index.index import JPEG, Index, SeekArrays
from evenkeel.pipeline.jpeg import worker
from evenkeel.pipeline.jpeg.seek_points import NO_SEEK_POINTS, SeekPoints, SeekRecord, find_seek_points
from evenkeel.pipeline.system.tensor_memory import ALIGNMENT_BYTES, allocate_bytes
from tests import forked


def draw_picture(height: int, width: int, seed: int, gray: bool = False) -> np.ndarray:
    """A gradient with noise in some pixels: blocks with many and with few codes, strong and weak colours."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([255 * x / max(1, width - 1), 255 * y / max(1, height - 1), 128 + 100 * np.sin(x / 9)], axis=2)
    image += rng.normal(0, 60, image.shape) * (rng.random((height, width, 1)) < 0.3)
    image = np.clip(image, 0, 255).astype(np.uint8)
    return image[..., 0] if gray else image


def encode_jpeg(height: int, width: int, seed: int = 0, gray: bool = False, **options: Any) -> bytes:
    return save_jpeg(Image.fromarray(draw_picture(height, width, seed, gray)), **options)


def save_jpeg(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


SUPPORTED: dict[str, bytes] = {
    "4:4:4": encode_jpeg(120, 150, subsampling=0, quality=90),
    "4:2:2": encode_jpeg(121, 151, subsampling=1, quality=80),
    "4:2:0": encode_jpeg(113, 167, subsampling=2, quality=95),
    "its own tables": encode_jpeg(120, 150, subsampling=2, quality=60, optimize=True),
    "its own tables, 4:4:4": encode_jpeg(90, 230, subsampling=0, quality=97, optimize=True),
    "gray": encode_jpeg(130, 150, gray=True, quality=90),
    "gray, narrow": encode_jpeg(300, 44, gray=True, quality=90),
    "gray, its own tables": encode_jpeg(130, 149, gray=True, quality=30, optimize=True),
    "coarse": encode_jpeg(140, 140, quality=3),
    "fine": encode_jpeg(64, 64, quality=100, subsampling=0),
    "one row": encode_jpeg(8, 300),
    "one column": encode_jpeg(300, 8),
    "a comment and EXIF": encode_jpeg(100, 130, comment=b"\xff\xd8\xff\xda" * 20, exif=b"Exif\x00\x00" + bytes(4000)),
    "flat": save_jpeg(Image.new("RGB", (160, 120), (255, 0, 0))),
}


UNSUPPORTED: dict[str, bytes] = {
    "progressive": encode_jpeg(100, 130, progressive=True),
    "restart markers": encode_jpeg(100, 130, restart_marker_rows=1),
    "cut short": encode_jpeg(100, 130)[:-900],
    "no JPEG": b"\x89PNG" + bytes(300),
    "a header alone": encode_jpeg(100, 130)[:300],
    "empty": b"",
    # A row has fewer codes than lie between two checks: grid points would be missed.
    "gray, too narrow": save_jpeg(Image.new("L", (16, 400), 77)),
    "4:4:4, too narrow": save_jpeg(Image.new("RGB", (8, 600), (9, 9, 9)), subsampling=0),
    "too tall": save_jpeg(Image.new("L", (48, 40_000))),
}


def find_all(images: dict[str, bytes]) -> dict[str, SeekPoints | None]:
    names = list(images)
    return {names[number]: seek_points for number, seek_points in find_seek_points(enumerate(images.values()))}


def run_forked_workers(directories: list[str], report_progress: Callable[[int], object]) -> None:
    """`worker.run_workers` in processes that need not import TensorFlow; see `tests.forked`."""
    for directory in directories:
        done = forked.run(worker.main, directory)
        assert done.returncode == 0, done.stderr


def align(array: np.ndarray) -> np.ndarray:
    """A copy that is aligned as a mapped file is."""
    copy = allocate_bytes(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def make_index(images: list[bytes], seek_points: list[SeekPoints | None]) -> tuple[Index, np.ndarray, np.ndarray]:
    """(index, memory, offsets) of images, whose files lie one after another in memory."""
    lengths = np.array([len(image) for image in images])
    offsets = np.cumsum(lengths) - lengths
    memory = align(np.frombuffer(b"".join(images) + bytes(-lengths.sum() % ALIGNMENT_BYTES), np.uint8))
    records: list[SeekRecord] = []
    points: list[np.ndarray] = []
    filler: list[np.ndarray] = []
    for each in seek_points:
        if each is None:
            records.append(NO_SEEK_POINTS)
            continue
        first_point, begin = sum(len(array) for array in points), sum(len(array) for array in filler)
        records.append(each.record._replace(first_point=first_point, filler=begin))
        points.append(each.points)
        filler.append(each.filler)
    arrays = SeekArrays(align(np.concatenate(points)), align(np.concatenate(filler)))
    columns = {"length": lengths, "seek_record": np.array(records, np.int64), "kind": np.full(len(images), JPEG)}
    features = Features("image", "label", None, ("a", "b"))
    return Index(("none",), (int(lengths.sum()),), features, columns, {}, arrays), memory, offsets


def decode_window(contents: Any, window: Any, ratio: int) -> np.ndarray:
    return tf.image.decode_and_crop_jpeg(contents, window, ratio=ratio, **LIBJPEG_OPTIONS).numpy()
