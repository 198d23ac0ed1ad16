"""The JPEG seek index of a data set: only the part of each JPEG that its crop needs is read and decoded.

    index = open_seek_index(index, directory, cache_dir)     # built once and stored on disk
    cropper = make_jpeg_cropper(index, memory, offsets)
    plans = cropper.plan(rows, regions)                      # inside tf.data, per batch
    contents = cropper.crop(plan)                            # per image: a smaller JPEG

A decoder must read the codes of a JPEG from the first one on. To crop a window, it reads everything above and beside
the window, which is most of its work. The seek index stores where the codes of some MCUs in each row begin, and which
codes to write before them. It takes 7 ms of CPU for an image of 103 KB, and a sixth of the images' bytes.

This is the only module of the package that other packages import.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.index import JPEG, Index, SeekArrays
from evenkeel.pipeline.jpeg import lossless_crop, worker
from evenkeel.pipeline.jpeg.seek_points import NO_SEEK_POINTS
from evenkeel.pipeline.jpeg.worker import FILLER_FILE, IMAGES_FILE, POINTS_FILE, RECORDS_FILE
from evenkeel.pipeline.system.cpu import cores
from evenkeel.pipeline.system.file_lock import exclusive_lock

SEEK_INDEX_DIR = "evenkeel-entries"
HEADER_FILE = "header.json"
ARRAY_FILES = (POINTS_FILE, FILLER_FILE, RECORDS_FILE)
FORMAT_VERSION = 1  # raised when the format changes: older seek indexes are then rebuilt
MIN_IMAGE_BYTES = 12 << 10  # smaller images have no seek points: too little would be left out
MIN_MEAN_BYTES = 32 << 10  # mean size of a data set's JPEGs; the pipeline gains 5% at 38 KB, 1% at 30 KB
IMAGES_PER_WORKER = 500  # at least, because a process takes 5 s to start


class JpegCropper(NamedTuple):
    """Crops JPEGs without decoding them.

    Attributes:
      plan: (rows int64 [b], regions int32 [b, 5] as in `crop.decode_regions`) -> plans int64 [b, n]. The first five
        numbers of a plan are its region in pixels of the cropped JPEG.
      crop: (plan int64 [n]) -> the cropped JPEG, or the whole file if cropping does not pay, string [].
    """

    plan: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    crop: Callable[[tf.Tensor], tf.Tensor]


def make_jpeg_cropper(index: Index, memory: tf.Tensor, offsets: np.ndarray) -> JpegCropper:
    """The cropper of an index with seek points; its files lie in `memory` (uint8 [n]) at `offsets` (int64 [rows])."""
    crop = lossless_crop.make_cropper(index, memory)
    return JpegCropper(lossless_crop.make_planner(index, offsets), crop)


def open_seek_index(index: Index, directory: str, cache_dir: str) -> Index:
    """Returns `index`, over all rows of a data set, with its seek points: stored ones if up to date, else new ones.

    The seek points are stored in `directory`, or below `cache_dir` if `directory` cannot be written to. `index` is
    returned unchanged if its JPEGs are too small to gain from seek points.

    Raises:
      UsageError: the seek index cannot be built or stored.
    """
    lengths = index.columns["length"][_has_seek_points(index)]
    if not len(lengths) or lengths.mean() < MIN_MEAN_BYTES:
        logging.info(
            "data.entries: no seek index is built, because JPEGs of less than %d KB on average gain nothing from it",
            MIN_MEAN_BYTES >> 10,
        )
        return index
    state = _index_state(index)
    name = hashlib.blake2b(directory.encode(), digest_size=8).hexdigest()
    places = [os.path.join(directory, SEEK_INDEX_DIR), os.path.join(cache_dir, "entries", name)]
    place = next((place for place in places if os.access(os.path.dirname(place), os.W_OK)), places[-1])
    for stored in places:
        if _read_state(stored) == state:
            return _load(index, stored)
    with exclusive_lock(place):
        if _read_state(place) != state:
            try:
                _build(index, state, place)
            except OSError as error:
                raise UsageError(
                    f"the seek index of JPEGs cannot be stored as {place} ({error.strerror}): free disk space of about"
                    " one sixth of the images' size, or turn the index off with --data.entries=false."
                ) from error
    return _load(index, place)


def _has_seek_points(index: Index) -> np.ndarray:
    """The images that are searched for seek points, bool [rows]."""
    columns = index.columns
    return (columns["kind"] == JPEG) & columns["keep"] & (columns["length"] >= MIN_IMAGE_BYTES)


def _index_state(index: Index) -> dict[str, Any]:
    """Everything that the seek points depend on; stored seek points with a different state are out of date."""
    columns = hashlib.blake2b(digest_size=8)
    for name in ("shard", "offset", "length", "kind", "keep"):
        columns.update(np.ascontiguousarray(index.columns[name]).tobytes())
    times = [os.stat(path).st_mtime_ns for path in index.shards]
    return {"version": FORMAT_VERSION, "sizes": list(index.sizes), "times": times, "rows": columns.hexdigest()}


def _read_state(place: str) -> dict[str, Any] | None:
    """The state of the seek index stored in `place`; None if there is no index or if it is incomplete."""
    try:
        with open(os.path.join(place, HEADER_FILE)) as file:
            header = json.load(file)
        sizes = [os.path.getsize(os.path.join(place, name)) for name in ARRAY_FILES]
        return header["state"] if header["bytes"] == sizes else None
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _load(index: Index, place: str) -> Index:
    points = np.memmap(os.path.join(place, POINTS_FILE), np.int32, "c").reshape(-1, 3)
    filler = np.memmap(os.path.join(place, FILLER_FILE), np.uint8, "c")
    records = np.load(os.path.join(place, RECORDS_FILE))
    logging.info(
        "%d of %d JPEGs are indexed for partial decoding (data.entries)",
        int(np.sum(records[:, 0] >= 0)),
        int(_has_seek_points(index).sum()),
    )
    columns = {**index.columns, "seek_record": records}
    return dataclasses.replace(index, columns=columns, seek_arrays=SeekArrays(points, filler))


def _build(index: Index, state: dict[str, Any], place: str) -> None:
    """Finds the seek points of all JPEGs and stores them as the directory `place`.

    They are written into a temporary directory beside `place` and renamed at the end, so `place` is never incomplete.
    """
    rows = np.flatnonzero(_has_seek_points(index))
    directory, name = os.path.split(place)
    os.makedirs(directory, exist_ok=True)
    # Directories that killed processes have left behind are removed.
    for leftover in glob.glob(os.path.join(glob.escape(directory), f".{name}.*", "")):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=f".{name}.") as temporary:
        parts = _find_seek_points(index, rows, temporary)
        merged = os.path.join(temporary, "whole")
        os.mkdir(merged)
        records = np.tile(np.array(NO_SEEK_POINTS, np.int64), (len(index), 1))
        with (
            open(os.path.join(merged, POINTS_FILE), "wb") as points,
            open(os.path.join(merged, FILLER_FILE), "wb") as filler,
        ):
            for part, part_rows in parts:
                part_records = np.load(os.path.join(part, RECORDS_FILE))
                part_records[part_records[:, 0] >= 0, :2] += points.tell() // 12, filler.tell()
                records[part_rows] = part_records
                for name, file in (POINTS_FILE, points), (FILLER_FILE, filler):
                    with open(os.path.join(part, name), "rb") as part_file:
                        shutil.copyfileobj(part_file, file)
            # An empty file cannot be mapped.
            points.write(bytes(12))
            filler.write(bytes(1))
        np.save(os.path.join(merged, RECORDS_FILE), records)
        with open(os.path.join(merged, HEADER_FILE), "w") as header:
            sizes = [os.path.getsize(os.path.join(merged, name)) for name in ARRAY_FILES]
            json.dump({"state": state, "bytes": sizes}, header)
        shutil.rmtree(place, ignore_errors=True)
        os.rename(merged, place)


def _find_seek_points(index: Index, rows: np.ndarray, temporary: str) -> list[tuple[str, np.ndarray]]:
    """Runs up to one worker process per core; returns (directory, rows) of each process."""
    count = max(1, min(cores(), len(rows) // IMAGES_PER_WORKER))
    parts = [
        (os.path.join(temporary, str(number)), part_rows)
        for number, part_rows in enumerate(np.array_split(rows, count))
    ]
    with tqdm(total=len(rows), desc="indexing JPEGs", unit=" images", delay=1, disable=None) as bar:
        for directory, part_rows in parts:
            os.mkdir(directory)
            shard, offset, length = (index.columns[name][part_rows] for name in ("shard", "offset", "length"))
            path = os.path.join(directory, IMAGES_FILE)
            np.savez(path, shards=np.array(index.shards), shard=shard, offset=offset, length=length)
        worker.run_workers([directory for directory, _ in parts], bar.update)
    return parts
