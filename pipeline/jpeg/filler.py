"""MCUs that were never in an image: they bring a JPEG's decoder to where the codes of another MCU can follow.

    made_up = MadeUp(layout)
    codes, lengths = made_up.enter(predictions, phases, rest)    # before an MCU: from nothing to what it goes on from
    codes, lengths = made_up.leave(predictions, phases, rest)    # after one: back to nothing

A decoder must stand at the right bit of a byte, and know the last DC coefficient of each component, which the codes
only tell differences from. `nothing` is a whole number of bytes and predictions of 0, so what leaves one MCU can be
followed by what enters any other. Blocks are flat, and as many coefficients as bits are missing fill the last.
"""

from __future__ import annotations

import functools

import numpy as np

from evenkeel.pipeline.jpeg.layout import Layout, Table

END_OF_BLOCK = 0
MOST = 4  # MCUs in a row; a table that no large difference has a code in takes several
LARGEST = 11  # bits of a DC difference
COEFFICIENTS = 63  # of a block, beside DC


class Impossible(Exception):
    """The image's tables lack codes that this takes."""


class MadeUp:
    """For one image. `count`: how many MCUs `enter` and `leave` make, each of them, so that rows stay equally wide.

    Raises:
      Impossible: its tables lack the codes for `predictions`, int64 [n, 3], all that will be asked for.
    """

    def __init__(self, layout: Layout, predictions: np.ndarray) -> None:
        tables = layout.tables
        self._dc = [_Differences(tables[0, dc]) for _, dc, _ in layout.blocks]
        ends = [tables[1, ac].codes.get(END_OF_BLOCK) for _, _, ac in layout.blocks]
        self._ends = [end for end in ends if end is not None]
        if len(self._ends) < len(ends):
            raise Impossible
        self._fillings = np.array(_fillings(tables[1, layout.blocks[-1][2]]), np.int64)
        components = [component for component, _, _ in layout.blocks]
        # The first block of each component gets to the prediction, the others of the MCU stay there.
        self._first = {components.index(component): component for component in set(components)}
        self.count = 1
        while self._left(predictions, self.count).any() or self._left(-predictions, self.count).any():
            self.count += 1
            if self.count > MOST:
                raise Impossible

    def enter(self, predictions: np.ndarray, phases: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What stands before MCUs of these `predictions` (int64 [n, 3]), which begin at bit `phases` (int64 [n]) of a
        byte that is `rest` (int64 [n]) altogether: (bytes uint8 [m], int64 [n] of them for each)."""
        parts, length = self._parts(predictions, np.zeros_like(phases), phases)
        missing = -phases % 8
        parts.append((rest & (1 << missing) - 1, missing))
        return _stuffed(parts, length + missing)

    def leave(self, predictions: np.ndarray, phases: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `enter`, for what stands behind MCUs whose codes end before bit `phases` of a byte."""
        parts, length = self._parts(-predictions, phases, np.zeros_like(phases))
        return _stuffed([(rest >> 8 - phases, phases), *parts], length + phases)

    def _parts(
        self, change: np.ndarray, begin: np.ndarray, end: np.ndarray
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
        """(values, bits of them) one behind the other, from one phase to another, and how many bits they are."""
        rest, parts, zeros = change.copy(), [], np.zeros_like(begin)
        for _ in range(self.count):
            for number, (dc, (code, bits)) in enumerate(zip(self._dc, self._ends, strict=True)):
                step = zeros
                if number in self._first:
                    component = self._first[number]
                    step = dc.step(rest[:, component])
                    rest[:, component] -= step
                parts += [dc.coded(step), (zeros + code, zeros + bits)]
        length = np.sum([bits for _, bits in parts], axis=0)
        values, bits = self._fillings[(end - begin - length) % 8].T
        parts.insert(-1, (values, bits))  # before the last block's end
        return parts, length + bits

    def _left(self, change: np.ndarray, count: int) -> np.ndarray:
        rest = change.copy()
        for number, component in self._first.items():
            for _ in range(count):
                rest[:, component] -= self._dc[number].step(rest[:, component])
        return rest


class _Differences:
    """Codes of DC differences by one table, T.81, section F.1.2.1."""

    def __init__(self, table: Table) -> None:
        codes = table.codes
        if 0 not in codes:
            raise Impossible
        self._codes = np.array([codes.get(size, (0, 0)) for size in range(LARGEST + 1)], np.int64)
        # Of each size the largest that has a code and is no larger.
        self._size = np.maximum.accumulate(np.where(self._codes[:, 1] > 0, np.arange(LARGEST + 1), 0))

    def step(self, to: np.ndarray) -> np.ndarray:
        """The largest difference on the way to `to` that has a code."""
        size = np.minimum(_size(to), LARGEST)
        possible = self._size[size]
        return np.where(_size(to) == possible, to, np.sign(to) * ((1 << possible) - 1))

    def coded(self, difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = _size(difference)
        code, length = self._codes[size].T
        number = np.where(difference >= 0, difference, difference + (1 << size) - 1)
        return code << size | number, length + size


def _size(of: np.ndarray) -> np.ndarray:
    """How many bits a number has, without its sign."""
    return np.frexp(np.abs(of).astype(np.float64))[1].astype(np.int64)


def _stuffed(parts: list[tuple[np.ndarray, np.ndarray]], length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parts joined to whole bytes, with a zero after each 0xFF, T.81, section F.1.2.3."""
    bits = np.zeros((len(length), int(length.max(initial=0))), np.uint8)
    rows, at = np.arange(len(length)), np.zeros_like(length)
    for values, count in parts:
        for bit in range(int(count.max(initial=0))):
            here = np.flatnonzero(bit < count)
            bits[rows[here], at[here] + bit] = values[here] >> (count[here] - 1 - bit) & 1
        at = at + count
    packed = np.packbits(bits, axis=1)
    inside = np.arange(packed.shape[1]) < length[:, None] // 8
    full = (packed == 0xFF) & inside
    whole = np.repeat(packed[inside], 1 + full[inside])
    whole[np.flatnonzero(np.repeat(full[inside], 1 + full[inside]))[1::2]] = 0
    return whole, length // 8 + full.sum(axis=1)


@functools.lru_cache(maxsize=1024)
def _fillings(table: Table) -> tuple[tuple[int, int], ...]:
    """(codes of coefficients, their bits), of as few as possible, for 0 to 7 bits more than whole bytes."""
    best: dict[int, tuple[int, int, int]] = {0: (0, 0, 0)}  # bits modulo 8: coefficients, codes, bits
    used = [0]
    candidates = [
        ((symbol >> 4) + 1, code << (symbol & 15), length + (symbol & 15))
        for symbol, (code, length) in table.codes.items()
        if symbol & 15
    ]
    while used:
        taken, codes, bits = best[used.pop(0)]
        for more, added, length in candidates:
            at = (bits + length) % 8
            if taken + more <= COEFFICIENTS and (at not in best or taken + more < best[at][0]):
                best[at] = taken + more, codes << length | added, bits + length
                used.append(at)
    if len(best) < 8 or max(bits for _, _, bits in best.values()) > 62:
        raise Impossible
    return tuple((codes, bits) for _, (_, codes, bits) in sorted(best.items()))
