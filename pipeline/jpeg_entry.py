"""A JPEG that begins lower: what to put before the coded data of one of its rows, so that a decoder starts there.

    entry = entries(contents)[0]
    lower = contents[: entry.head] + entry.prefix + contents[entry.data :]    # without the first `entry.lines` lines

A decoder at a row of MCUs must stand at the right bit of a byte, and know the last DC coefficient of each component,
which the codes only tell differences from. Both are the work of a made-up row before it: MCUs of nothing, and at its
end some that bring the coefficients to where they must be, with as many bits as are missing. It is never looked at.
The header stays as it is: of the lines that are missing at the end a decoder reads none where the crop ends above them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from pipeline import huffman
from pipeline.jpeg_layout import Coded, Layout, Table, coded, read_layout

Bits = tuple[int, int]  # a number, and how many bits it has
EVERY = 16  # lines between two entries, at least
END_OF_BLOCK = 0


class Entry(NamedTuple):
    """`head`: bytes of the header. `prefix`: the made-up row. `data`: where in the file to go on. `lines`: left out."""

    head: int
    prefix: bytes
    data: int
    lines: int


def entries(images: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, list[Entry]]]:
    """(number, entries from top to bottom) of each (number, contents of a file), in the order in which they are found.

    None of what is not a baseline JPEG in one scan without restart markers.
    """
    read: dict[int, tuple[Layout, Coded]] = {}
    without: list[int] = []

    def followed() -> Iterator[tuple[int, Layout, Coded]]:
        for number, contents in images:
            layout = read_layout(contents)
            codes = coded(contents, layout) if layout else None
            if layout is None or codes is None:
                without.append(number)
            else:
                read[number] = layout, codes
                yield number, layout, codes

    for number, starts in huffman.row_starts(followed()):
        yield number, _entries(*read.pop(number), starts)
    yield from ((number, []) for number in without)


def _entries(layout: Layout, codes: Coded, starts: np.ndarray) -> list[Entry]:
    rows = _Rows(layout)
    found: list[Entry] = []
    # Before row 1 there is as much to read as what would be made up.
    for row, bit, *predictions in starts[starts[:, 0] > 1].tolist():
        lines = (row - 1) * layout.lines
        if found and lines < found[-1].lines + EVERY:
            continue
        made_up = rows.ending(predictions, bit % 8)
        if made_up is None:
            continue
        (value, length), byte = made_up, bit // 8
        if bit % 8:
            rest = 8 - bit % 8
            value, length = value << rest | int(codes.data[byte]) & (1 << rest) - 1, length + rest
            byte += 1
        prefix = value.to_bytes(length // 8, "big").replace(b"\xff", b"\xff\x00")
        found.append(Entry(layout.scan, prefix, layout.scan + codes.place(byte), lines))
    return found


class _Rows:
    """Made-up rows of one image's MCUs."""

    def __init__(self, layout: Layout) -> None:
        self._across = layout.across
        self._dc = [layout.tables[0, dc].codes for _, dc, _ in layout.blocks]
        self._ends = [layout.tables[1, ac].codes.get(END_OF_BLOCK) for _, _, ac in layout.blocks]
        self._fillings = _fillings(layout.tables[1, layout.blocks[-1][2]])
        components = [component for component, _, _ in layout.blocks]
        self._first = [components.index(component) for component in range(components[-1] + 1)]  # block of each
        self._possible = all(0 in dc for dc in self._dc) and None not in self._ends
        self._nothing = self._mcu({}) if self._possible else (0, 0)

    def ending(self, predictions: list[int], phase: int) -> Bits | None:
        """A row after which the DC coefficients are `predictions`, of `phase` bits more than whole bytes; None where
        this image's tables lack the codes for it."""
        if not self._possible:
            return None
        ways = [_steps(self._dc[block], to) for block, to in zip(self._first, predictions, strict=False)]
        count = max(1, *(len(way or ()) for way in ways))
        if None in ways or count > self._across:
            return None
        # `nothing` over and over is its product with 1...1...1.
        nothing, length = self._nothing
        times = self._across - count
        parts = [(nothing * (((1 << length * times) - 1) // ((1 << length) - 1)), length * times)]
        for n in range(count):
            parts.append(
                self._mcu({b: way[n] for b, way in zip(self._first, ways, strict=True) if way and n < len(way)})
            )
        value, length = _joined(parts)
        filling, end = self._fillings[(phase - length) % 8], self._ends[-1]
        if filling is None or end is None:
            return None
        # It comes before the last block's end.
        return _joined([(value >> end[1], length - end[1]), filling, end])

    def _mcu(self, differences: dict[int, int]) -> Bits:
        """Blocks with these differences of DC, 0 in the others, and nothing else."""
        parts: list[Bits] = []
        for number, (dc, end) in enumerate(zip(self._dc, self._ends, strict=True)):
            assert end is not None
            parts += [_difference(dc, differences.get(number, 0)), end]
        return _joined(parts)


def _joined(parts: list[Bits]) -> Bits:
    value = length = 0
    for number, bits in parts:
        value, length = value << bits | number, length + bits
    return value, length


def _difference(codes: dict[int, Bits], of: int) -> Bits:
    """T.81, section F.1.2.1: the size's code, then so many bits."""
    size = abs(of).bit_length()
    code, length = codes[size]
    return code << size | (of if of >= 0 else of + (1 << size) - 1), length + size


def _steps(codes: dict[int, Bits], to: int) -> list[int] | None:
    """Differences of sizes that have codes, which come to `to`; None where there is no way."""
    found = []
    while to:
        sizes = [size for size in codes if 0 < size <= abs(to).bit_length()]
        if not sizes:
            return None
        step = min(abs(to), (1 << max(sizes)) - 1)
        if step.bit_length() not in codes:
            return None
        found.append(step if to > 0 else -step)
        to -= found[-1]
    return found


@functools.lru_cache(maxsize=1024)
def _fillings(table: Table) -> list[Bits | None]:
    """For 0 to 7 bits more than whole bytes: the codes of coefficients that take so many, of as few as possible."""
    best: dict[int, tuple[int, Bits]] = {0: (0, (0, 0))}
    used = [0]
    candidates = [
        ((symbol >> 4) + 1, (code << (symbol & 15), length + (symbol & 15)))
        for symbol, (code, length) in table.codes.items()
        if symbol & 15
    ]
    while used:
        begun = used.pop()
        taken, bits = best[begun]
        for more, added in candidates:
            after, at = taken + more, (begun + added[1]) % 8
            if after <= 63 and (at not in best or after < best[at][0]):
                best[at] = after, _joined([bits, added])
                used.append(at)
    return [best[bits][1] if bits in best else None for bits in range(8)]
