"""Seek points of JPEGs: the positions at which a decoder can start and stop inside the codes.

    for number, seek_points in find_seek_points(enumerate(files)):
        ...

A JPEG's codes can only be decoded from their first bit on. A seek point is the beginning of an MCU, together with
filler codes to insert before this MCU and after the preceding MCU (see `filler`), so that any two spans of codes
between seek points can be joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from evenkeel.pipeline.jpeg import huffman
from evenkeel.pipeline.jpeg.filler import FillerMcus, UnsupportedTables
from evenkeel.pipeline.jpeg.layout import Layout, Scan, read_layout, read_scan

# The packed number of a point, from the lowest bit on: the bytes between the end of the preceding codes and the start
# of the following codes (1 if a byte holds bits of both, 2 if this byte is 0xFF), the bytes of the entry filler, and
# the bytes of the exit filler.
BACK_BITS, LENGTH_BITS = 2, 14


class SeekRecord(NamedTuple):
    """The numbers that are stored for an image besides its seek points: a row of the index column `seek_record`.

    Attributes:
      first_point: row of `SeekArrays.points` with the image's first point; -1 if the image has none.
      filler: position in `SeekArrays.filler` of the image's header; the filler codes follow the header.
      scan_offset: position in the file of the first coded byte.
      header_bytes: bytes of the header.
      width_offset: position in the header of the image width.
      mcu_width: width of an MCU in pixels.
      mcu_height: height of an MCU in pixels.
      mcus_across: MCUs in a row.
      grid_step: MCUs between two points of a row.
      filler_mcus: MCUs in each entry filler and in each exit filler.
      mcus: MCUs in the image.
    """

    first_point: int
    filler: int
    scan_offset: int
    header_bytes: int
    width_offset: int
    mcu_width: int
    mcu_height: int
    mcus_across: int
    grid_step: int
    filler_mcus: int
    mcus: int


NO_SEEK_POINTS = SeekRecord(-1, *[0] * (len(SeekRecord._fields) - 1))


class SeekPoints(NamedTuple):
    """The seek points of one image.

    Attributes:
      record: the other numbers of the image; `first_point` and `filler` are 0.
      points: int32 [n, 3], row by row of MCUs, and the end of the codes as the last point. The columns are: the byte at
        which the codes continue after the entry filler, counted from the scan's first byte; the packed number of
        `pack_lengths`; the position in `filler` of the entry filler. The exit filler follows the entry filler.
      filler: uint8 [m], the header and all filler codes.
    """

    record: SeekRecord
    points: np.ndarray
    filler: np.ndarray


def pack_lengths(back: Any, entry_bytes: Any, exit_bytes: Any) -> Any:
    return back | entry_bytes << BACK_BITS | exit_bytes << BACK_BITS + LENGTH_BITS


def find_seek_points(images: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, SeekPoints | None]]:
    """Yields (number, seek points) for each (number, contents of a file), in the order in which they are found.

    The seek points are None if the file is not a baseline JPEG of at most 512 KB with one scan and no restart markers.
    """
    parsed: dict[int, tuple[Layout, Scan]] = {}
    unsupported: list[int] = []

    def parse_images() -> Iterator[tuple[int, Layout, Scan]]:
        for number, contents in images:
            layout = read_layout(contents)
            scan = read_scan(contents, layout) if layout else None
            if layout is None or scan is None:
                unsupported.append(number)
            else:
                parsed[number] = layout, scan
                yield number, layout, scan

    for number, starts in huffman.find_mcu_starts(parse_images()):
        yield number, _seek_points(*parsed.pop(number), starts)
        while unsupported:
            yield unsupported.pop(), None
    yield from ((number, None) for number in unsupported)


def _seek_points(layout: Layout, scan: Scan, starts: np.ndarray) -> SeekPoints | None:
    """The seek points of an image, from the result of `huffman.find_mcu_starts`."""
    if not len(starts):
        return None
    bits, predictions = starts[:, 1], starts[:, 2:]
    try:
        filler = FillerMcus(layout, predictions)
    except UnsupportedTables:
        return None
    phases, positions = bits % 8, bits // 8
    split_bytes = np.append(scan.codes, np.uint8(0))[positions].astype(np.int64)
    ends, resumes = scan.file_positions(positions), scan.file_positions(positions + (phases > 0))
    entries, entry_bytes = filler.encode_entries(predictions, phases, split_bytes)
    exits, exit_bytes = filler.encode_exits(predictions, phases, split_bytes)
    lengths = np.stack([entry_bytes, exit_bytes], axis=1)
    begins = len(layout.header) + np.cumsum(lengths) - lengths.reshape(-1)
    # The header, then the entry and the exit filler of each point.
    contents = np.empty(len(layout.header) + lengths.sum(), np.uint8)
    contents[: len(layout.header)] = np.frombuffer(layout.header, np.uint8)
    for codes, length, begin in (entries, entry_bytes, begins[0::2]), (exits, exit_bytes, begins[1::2]):
        contents[np.arange(len(codes)) + np.repeat(begin - (np.cumsum(length) - length), length)] = codes
    record = SeekRecord(
        first_point=0,
        filler=0,
        scan_offset=layout.scan_offset,
        header_bytes=len(layout.header),
        width_offset=layout.width_offset,
        mcu_width=layout.mcu_width,
        mcu_height=layout.mcu_height,
        mcus_across=layout.mcus_across,
        grid_step=huffman.grid_step(layout),
        filler_mcus=filler.count,
        mcus=layout.mcus_across * layout.mcus_down,
    )
    points = np.stack([resumes, pack_lengths(resumes - ends, entry_bytes, exit_bytes), begins[0::2]], axis=1)
    return SeekPoints(record, points.astype(np.int32), contents)
