"""Parses the headers of a baseline JPEG: everything needed to follow its Huffman codes without decoding the image.

    layout = read_layout(contents)
    layout.mcus_across, layout.mcus_down, layout.blocks
    scan = read_scan(contents, layout)    # the bytes that hold the codes

An MCU (minimum coded unit) is 8 x 8 pixels, or for example 16 x 16 if colours are stored at half resolution. T.81 is
the JPEG standard, ITU-T T.81; its sections A.2 and B describe the layout.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

# Markers, the second byte after 0xFF (T.81, table B.1).
SOF_BASELINE = (0xC0, 0xC1)
DHT, DRI, SOS = 0xC4, 0xDD, 0xDA
SOF_OTHER = frozenset(range(0xC2, 0xD0)) - {DHT, 0xC8, 0xCC}
# Application segments and comments, which a decoder skips. APP0 (JFIF) and APP14 (Adobe) are not among them, because
# they say what the components are.
SKIPPED_SEGMENTS = frozenset({*range(0xE1, 0xF0), 0xFE}) - {0xEE}
BLOCK_SIDE = 8  # pixels
MAX_BLOCKS = 10  # blocks in an MCU (T.81, section B.2.3)


class HuffmanTable(NamedTuple):
    """A Huffman table.

    Attributes:
      counts: number of codes of each length, 1 to 16 bits.
      symbols: the symbols of the codes, in the order of the codes.
    """

    counts: tuple[int, ...]
    symbols: bytes

    @property
    def codes(self) -> dict[int, tuple[int, int]]:
        """Returns {symbol: (code, its length in bits)}. Callers share the dict: do not change it."""
        return _assign_codes(self)


@functools.lru_cache(maxsize=1024)  # many files have the standard's tables
def _assign_codes(table: HuffmanTable) -> dict[int, tuple[int, int]]:
    """Assigns a code to each symbol (T.81, figures C.1 and C.2)."""
    codes, code, position = {}, 0, 0
    for length, count in enumerate(table.counts, 1):
        for symbol in table.symbols[position : position + count]:
            codes[symbol] = code, length
            code += 1
        position += count
        code <<= 1
    return codes


class Layout(NamedTuple):
    """The layout of a baseline JPEG.

    Attributes:
      header: the bytes before the scan, without the segments that a decoder skips.
      width_offset: position in `header` of the image width, two bytes.
      scan_offset: position in the file of the first coded byte.
      mcus_across: MCUs in a row.
      mcus_down: rows of MCUs.
      mcu_width: width of an MCU in pixels.
      mcu_height: height of an MCU in pixels.
      blocks: (component, DC table, AC table) of each block in an MCU.
      tables: {(0 for DC or 1 for AC, number of the table): table}.
    """

    header: bytes
    width_offset: int
    scan_offset: int
    mcus_across: int
    mcus_down: int
    mcu_width: int
    mcu_height: int
    blocks: tuple[tuple[int, int, int], ...]
    tables: dict[tuple[int, int], HuffmanTable]


def read_layout(contents: bytes) -> Layout | None:
    """The layout of a baseline JPEG with one scan of 1 or 3 components and no restart markers; None for other files."""
    try:
        return _parse_segments(contents)
    except (IndexError, KeyError):  # the file ends too soon, or refers to something that it does not contain
        return None


def _parse_segments(contents: bytes) -> Layout | None:
    tables: dict[tuple[int, int], HuffmanTable] = {}
    components: list[tuple[int, int, int]] = []  # identifier, blocks across and down
    height = width = width_offset = 0
    header, position = contents[:2], 2
    while True:
        if contents[position] != 0xFF:
            return None
        marker = contents[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        length = _uint16(contents, position + 2)
        body = contents[position + 4 : position + 2 + length]
        if marker not in SKIPPED_SEGMENTS:
            header += contents[position : position + 2 + length]
        position += 2 + length
        if marker in SOF_BASELINE:
            if body[0] != 8:
                return None
            height, width, width_offset = _uint16(body, 1), _uint16(body, 3), len(header) - length + 5
            components = [(body[i], body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, 6 + 3 * body[5], 3)]
        elif marker in SOF_OTHER or (marker == DRI and _uint16(body, 0)):
            return None
        elif marker == DHT:
            _add_tables(body, tables)
        elif marker == SOS:
            break
    tables_of = {body[i]: body[i + 1] for i in range(1, 1 + 2 * body[0], 2)}
    if len(components) not in (1, 3) or list(tables_of) != [identifier for identifier, _, _ in components]:
        return None
    if len(components) == 1:  # a scan of one component is not interleaved, so an MCU is one block
        components = [(components[0][0], 1, 1)]
    blocks = []
    for number, (identifier, blocks_across, blocks_down) in enumerate(components):
        dc, ac = tables_of[identifier] >> 4, tables_of[identifier] & 15
        if (0, dc) not in tables or (1, ac) not in tables:
            return None
        blocks += [(number, dc, ac)] * (blocks_across * blocks_down)
    mcu_height, mcu_width = (BLOCK_SIDE * max(component[axis] for component in components) for axis in (2, 1))
    if not height or not width or not mcu_width or not mcu_height or len(blocks) > MAX_BLOCKS:
        return None
    mcus_across, mcus_down = -(-width // mcu_width), -(-height // mcu_height)
    return Layout(header, width_offset, position, mcus_across, mcus_down, mcu_width, mcu_height, tuple(blocks), tables)


def _uint16(contents: bytes, position: int) -> int:
    return contents[position] << 8 | contents[position + 1]


def _add_tables(body: bytes, tables: dict[tuple[int, int], HuffmanTable]) -> None:
    position = 0
    while position < len(body):
        counts = tuple(body[position + 1 : position + 17])
        symbols = body[position + 17 : position + 17 + sum(counts)]
        tables[body[position] >> 4, body[position] & 15] = HuffmanTable(counts, symbols)
        position += 17 + sum(counts)


class Scan(NamedTuple):
    """The coded bytes of a scan.

    Attributes:
      codes: uint8 [n], the coded bytes without the stuffed zero that follows each 0xFF in the file.
      stuffing: int64 [m], positions of the stuffed zeros in the file, counted from the scan's first byte.
    """

    codes: np.ndarray
    stuffing: np.ndarray

    def file_positions(self, positions: np.ndarray) -> np.ndarray:
        """Positions in the file, from the scan's first byte, of the bytes at `positions` (int64 [k]) in `codes`."""
        # The n-th zero, at `stuffing[n]` in the file, would stand before byte `stuffing[n] - n` of `codes`.
        return positions + np.searchsorted(self.stuffing - np.arange(len(self.stuffing)), positions, side="right")


def read_scan(contents: bytes, layout: Layout) -> Scan | None:
    """The coded bytes of a file; None if no marker ends them."""
    scan = np.frombuffer(contents, np.uint8)[layout.scan_offset :]
    marks = np.flatnonzero(scan[:-1] == 0xFF)
    after = scan[marks + 1]
    ends = np.flatnonzero(after)
    if not len(ends):
        return None
    end, stuffing = marks[ends[0]], marks[: ends[0]] + 1
    return Scan(np.delete(scan[:end], stuffing), stuffing)
