"""Reads the files of a folder, once each: checks, converts and measures them, in parallel threads.

for batch in read_batches("/data/pets", paths, states, conditions):
    batch.contents, batch.columns, batch.rejected
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from evenkeel.pipeline.config import parse_color
from evenkeel.pipeline.images.convert import needs_conversion, to_png
from evenkeel.pipeline.images.exif import read_orientation
from evenkeel.pipeline.images.header import Header
from evenkeel.pipeline.index.build_index import check_image, undecodable_reason
from evenkeel.pipeline.index.measure_images import measure_images
from evenkeel.pipeline.sources.fingerprint import READ_ERRORS, read_error, read_file
from evenkeel.pipeline.system.cpu import cores
from evenkeel.pipeline.system.parallel_map import parallel_map

BATCH_IMAGES, BATCH_BYTES = 64, 8 << 20  # a batch ends at the first of these
LOCAL_THREADS, REMOTE_THREADS = 4, 16  # at least so many: a disk and, more so, a network take requests in parallel
UNKNOWN_STATE = (0, 0, 0, 0)  # of a file that cannot be read: it never equals the state of a file


class Conditions(NamedTuple):
    """What decides, besides a file itself, whether it is used and what is measured.

    Attributes:
      max_pixels: images with more pixels are not decoded.
      background: the colour behind transparent pixels, as in `data.background`.
      reads_dicom: whether pydicom is installed.
    """

    max_pixels: int
    background: str
    reads_dicom: bool


def conditions_now(max_pixels: int, background: str) -> Conditions:
    return Conditions(max_pixels, background, importlib.util.find_spec("pydicom") is not None)


class ReadBatch(NamedTuple):
    """Files that were read.

    Attributes:
      paths, states, contents, pixels: of each usable file, its path, its state, the image as it is stored, and the
        pixels that its decoder holds.
      columns: {name of an index column: array [n, ...]} of the usable files.
      rejected: {path: (state, reason)} of the other files.
    """

    paths: list[str]
    states: list[tuple[int, ...]]
    contents: list[bytes]
    pixels: list[int]
    columns: dict[str, np.ndarray]
    rejected: dict[str, tuple[tuple[int, ...], str]]


def read_batches(
    root: str, paths: Sequence[str], states: Sequence[tuple[int, ...]], conditions: Conditions
) -> Generator[ReadBatch]:
    """The files in order. `paths` are relative to the folder `root`; `states` are theirs (`file_state`)."""
    threads = max(REMOTE_THREADS if "://" in root else LOCAL_THREADS, cores())

    def read(part: slice) -> ReadBatch:
        return _read_batch(root, paths[part], states[part], conditions)

    return parallel_map(read, _divide(states), threads)


def _divide(states: Sequence[tuple[int, ...]]) -> Iterator[slice]:
    """Slices of at most `BATCH_IMAGES` files and about `BATCH_BYTES`; the first number of a state is the length."""
    start, size = 0, 0
    for end, (length, *_) in enumerate(states, 1):
        size += length
        if end - start == BATCH_IMAGES or size >= BATCH_BYTES or end == len(states):
            yield slice(start, end)
            start, size = end, 0


def _read_batch(
    root: str, paths: Sequence[str], states: Sequence[tuple[int, ...]], conditions: Conditions
) -> ReadBatch:
    found: list[_Found] = []
    rejected: dict[str, tuple[tuple[int, ...], str]] = {}
    for path, state in zip(paths, states, strict=True):
        try:
            contents = read_file(os.path.join(root, path))
            if needs_conversion(contents):
                contents = to_png(contents, conditions.max_pixels)
            found.append(_Found(path, state, contents, *check_image(contents, conditions.max_pixels)))
        except ValueError as error:
            rejected[path] = state, str(error)
        except READ_ERRORS as error:
            rejected[path] = UNKNOWN_STATE, read_error(error)
    background = parse_color("data.background", conditions.background)
    orientations = [read_orientation(file.contents) for file in found]
    measured = measure_images(
        [file.contents for file in found], [file.header for file in found], orientations, background
    )
    usable = []
    for file, decoded in zip(found, measured.decoded, strict=True):
        if decoded:
            usable.append(file)
        else:
            rejected[file.path] = file.state, undecodable_reason(file.header.format)
    columns = {name: values[measured.decoded] for name, values in measured.columns.items()}
    columns["kind"] = np.array([file.kind for file in usable], np.int8)
    columns["format"] = np.array([file.header.format for file in usable], np.int8)
    columns["orientation"] = np.array(orientations, np.int8)[measured.decoded]
    return ReadBatch(
        [file.path for file in usable],
        [file.state for file in usable],
        [file.contents for file in usable],
        [file.header.pixels for file in usable],
        columns,
        rejected,
    )


class _Found(NamedTuple):
    """A file that may be decoded; `kind` is the index column."""

    path: str
    state: tuple[int, ...]
    contents: bytes
    kind: int
    header: Header
