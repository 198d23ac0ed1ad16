"""How a baseline JPEG is laid out: what one must know to follow its Huffman codes without decoding an image.

    layout = read_layout(contents)
    layout.across, layout.down, layout.blocks    # MCUs in a row, rows of them, blocks in each
    codes = coded(contents, layout)              # the bytes that hold the codes

An MCU is the smallest unit: 8 x 8 pixels, or 16 x 16 and the like where colours are stored at half resolution (ITU-T
T.81, sections A.2 and B).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

BASELINE = (0xC0, 0xC1)
TABLES, INTERVAL, SCAN = 0xC4, 0xDD, 0xDA
OTHER_FRAMES = frozenset(range(0xC2, 0xD0)) - {TABLES, 0xC8, 0xCC}
# Of applications (but JFIF's and Adobe's, which say what the components are) and comments.
SKIPPED = frozenset({*range(0xE1, 0xF0), 0xFE}) - {0xEE}
BLOCK = 8  # pixels on a side


class Table(NamedTuple):
    """A Huffman table: how many codes there are of each length, 1 to 16 bits, and what they mean, in their order."""

    counts: tuple[int, ...]
    symbols: bytes

    @property
    def codes(self) -> dict[int, tuple[int, int]]:
        """{symbol: (code, its length)}; do not change it."""
        return _codes(self)


@functools.lru_cache(maxsize=1024)  # many files have the standard's own tables
def _codes(table: Table) -> dict[int, tuple[int, int]]:
    """T.81, figures C.1 and C.2."""
    codes, code, at = {}, 0, 0
    for length, count in enumerate(table.counts, 1):
        for symbol in table.symbols[at : at + count]:
            codes[symbol] = code, length
            code += 1
        at += count
        code <<= 1
    return codes


class Layout(NamedTuple):
    """`header`: what comes before the coded bytes, without what a decoder skips; `width_at`: where in it the image's
    width stands, two bytes. `scan`: where in the file the coded bytes begin.

    `across`, `down`: MCUs; `columns`, `lines`: of pixels in one. `blocks`: (component, DC table, AC table) of each
    block in an MCU; `tables`: by 0 (DC) or 1 (AC) and their number.
    """

    header: bytes
    width_at: int
    scan: int
    across: int
    down: int
    columns: int
    lines: int
    blocks: tuple[tuple[int, int, int], ...]
    tables: dict[tuple[int, int], Table]


def read_layout(contents: bytes) -> Layout | None:
    """None unless it is a baseline JPEG in a single scan of 1 or 3 components, without restart markers."""
    try:
        return _read(contents)
    except (IndexError, KeyError):  # it ends too soon, or names what it does not hold
        return None


def _read(contents: bytes) -> Layout | None:
    tables: dict[tuple[int, int], Table] = {}
    components: list[tuple[int, int, int]] = []  # identifier, blocks across and down
    height = width = width_at = 0
    header, at = contents[:2], 2
    while True:
        if contents[at] != 0xFF:
            return None
        marker = contents[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        length = _short(contents, at + 2)
        body = contents[at + 4 : at + 2 + length]
        if marker not in SKIPPED:
            header += contents[at : at + 2 + length]
        at += 2 + length
        if marker in BASELINE:
            if body[0] != 8:
                return None
            height, width, width_at = _short(body, 1), _short(body, 3), len(header) - length + 5
            components = [(body[i], body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, 6 + 3 * body[5], 3)]
        elif marker in OTHER_FRAMES or (marker == INTERVAL and _short(body, 0)):
            return None
        elif marker == TABLES:
            _add_tables(body, tables)
        elif marker == SCAN:
            break
    chosen = {body[i]: body[i + 1] for i in range(1, 1 + 2 * body[0], 2)}
    if len(components) not in (1, 3) or list(chosen) != [identifier for identifier, _, _ in components]:
        return None
    if len(components) == 1:  # a scan of one component is not interleaved: its MCU is a block
        components = [(components[0][0], 1, 1)]
    blocks = []
    for number, (identifier, wide, tall) in enumerate(components):
        dc, ac = chosen[identifier] >> 4, chosen[identifier] & 15
        if (0, dc) not in tables or (1, ac) not in tables:
            return None
        blocks += [(number, dc, ac)] * (wide * tall)
    lines, columns = (BLOCK * max(component[axis] for component in components) for axis in (2, 1))
    if not height or not width or not columns or not lines or len(blocks) > 10:
        return None
    across, down = -(-width // columns), -(-height // lines)
    return Layout(header, width_at, at, across, down, columns, lines, tuple(blocks), tables)


def _short(of: bytes, at: int) -> int:
    return of[at] << 8 | of[at + 1]


def _add_tables(body: bytes, tables: dict[tuple[int, int], Table]) -> None:
    at = 0
    while at < len(body):
        counts = tuple(body[at + 1 : at + 17])
        symbols = body[at + 17 : at + 17 + sum(counts)]
        tables[body[at] >> 4, body[at] & 15] = Table(counts, symbols)
        at += 17 + sum(counts)


class Coded(NamedTuple):
    """`data`: uint8 [n], the coded bytes without the zeros that follow each 0xFF; `stuffed`: where in the file, counted
    from the scan's first byte, those zeros stand."""

    data: np.ndarray
    stuffed: np.ndarray

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """Where the bytes of these `numbers` of `data` stand in the file, counted from the scan's first byte."""
        # The n-th zero, at `stuffed[n]`, is left out of `data` before its byte number `stuffed[n] - n`.
        return numbers + np.searchsorted(self.stuffed - np.arange(len(self.stuffed)), numbers, side="right")


def coded(contents: bytes, layout: Layout) -> Coded | None:
    """None where no marker ends them."""
    scan = np.frombuffer(contents, np.uint8)[layout.scan :]
    marks = np.flatnonzero(scan[:-1] == 0xFF)
    after = scan[marks + 1]
    ends = np.flatnonzero(after)
    if not len(ends):
        return None
    end, stuffed = marks[ends[0]], marks[: ends[0]] + 1
    return Coded(np.delete(scan[:end], stuffed), stuffed)
