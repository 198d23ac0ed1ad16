"""Filler MCUs: codes inserted into a JPEG that bring its decoder into the state in which an MCU can be decoded.

    filler = FillerMcus(layout, predictions)
    codes, lengths = filler.encode_entries(predictions, phases, split_bytes)    # before an MCU: from the neutral state
    codes, lengths = filler.encode_exits(predictions, phases, split_bytes)      # after an MCU: to the neutral state

The codes of an MCU can start at any bit of a byte. They give each DC coefficient as the difference from the previous
one of the same component, which is the prediction. In the neutral state the decoder is at the start of a byte and all
predictions are 0, so the entry filler of any MCU can follow the exit filler of any MCU. Filler blocks are flat; AC
coefficients in the last block fill up the bits to a whole byte.
"""

from __future__ import annotations

import functools

import numpy as np

from evenkeel.pipeline.jpeg.layout import HuffmanTable, Layout

END_OF_BLOCK = 0  # a symbol
MAX_FILLER_MCUS = 4  # one after another; a table without codes for large differences needs several
MAX_DC_BITS = 11  # bits of a DC difference
AC_COEFFICIENTS = 63  # AC coefficients of a block
MAX_FILL_BITS = 62  # bits of fill codes that an int64 can hold


class UnsupportedTables(Exception):
    """The image's Huffman tables lack codes that the filler needs."""


class FillerMcus:
    """The filler MCUs of one image.

    Attributes:
      count: MCUs in each entry and in each exit filler; constant, so that all rows of MCUs have the same width.
    """

    def __init__(self, layout: Layout, predictions: np.ndarray) -> None:
        """`predictions` (int64 [n, 3]) holds all predictions that `encode_entries` and `encode_exits` will get.

        Raises:
          UnsupportedTables: the image's tables lack codes for these predictions.
        """
        tables = layout.tables
        self._dc = [_DifferenceCodes(tables[0, dc]) for _, dc, _ in layout.blocks]
        ends = [tables[1, ac].codes.get(END_OF_BLOCK) for _, _, ac in layout.blocks]
        self._ends = [end for end in ends if end is not None]
        if len(self._ends) < len(ends):
            raise UnsupportedTables
        self._fill_codes = np.array(_fill_codes(tables[1, layout.blocks[-1][2]]), np.int64)
        components = [component for component, _, _ in layout.blocks]
        # {block: its component}: only the first block of each component changes the prediction.
        self._first_blocks = {components.index(component): component for component in set(components)}
        self.count = 1
        while self._remainder(predictions, self.count).any() or self._remainder(-predictions, self.count).any():
            self.count += 1
            if self.count > MAX_FILLER_MCUS:
                raise UnsupportedTables

    def encode_entries(
        self, predictions: np.ndarray, phases: np.ndarray, split_bytes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The entry fillers of n MCUs: from the neutral state to the first bit of each MCU.

        Args:
          predictions: int64 [n, 3], DC predictions at the MCU.
          phases: int64 [n], the bit of its byte at which the MCU begins.
          split_bytes: int64 [n], the value of this byte; its last bits belong to the MCU.

        Returns:
          codes: uint8 [m], the fillers of all MCUs, concatenated.
          lengths: int64 [n], bytes of each filler.
        """
        parts, length = self._encode(predictions, np.zeros_like(phases), phases)
        mcu_bits = -phases % 8
        parts.append((split_bytes & (1 << mcu_bits) - 1, mcu_bits))
        return _join_bits(parts, length + mcu_bits)

    def encode_exits(
        self, predictions: np.ndarray, phases: np.ndarray, split_bytes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The exit fillers of n MCUs: from the end of each MCU, before bit `phases`, to the neutral state.

        Arguments and results are as in `encode_entries`.
        """
        parts, length = self._encode(-predictions, phases, np.zeros_like(phases))
        return _join_bits([(split_bytes >> 8 - phases, phases), *parts], length + phases)

    def _encode(
        self, change: np.ndarray, start_phase: np.ndarray, end_phase: np.ndarray
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
        """The codes that change predictions by `change` (int64 [n, 3]) and lead from one bit of a byte to another.

        Returns:
          parts: [(values int64 [n], bits of each int64 [n])], in order.
          length: int64 [n], the sum of the bits.
        """
        rest, parts, zeros = change.copy(), [], np.zeros_like(start_phase)
        for _ in range(self.count):
            for number, (dc, (code, bits)) in enumerate(zip(self._dc, self._ends, strict=True)):
                difference = zeros
                if number in self._first_blocks:
                    component = self._first_blocks[number]
                    difference = dc.largest_step(rest[:, component])
                    rest[:, component] -= difference
                parts += [dc.encode(difference), (zeros + code, zeros + bits)]
        length = np.sum([bits for _, bits in parts], axis=0)
        values, bits = self._fill_codes[(end_phase - start_phase - length) % 8].T
        parts.insert(-1, (values, bits))  # the fill bits go before the end-of-block code of the last block
        return parts, length + bits

    def _remainder(self, change: np.ndarray, count: int) -> np.ndarray:
        """The part of `change` (int64 [n, 3]) that `count` MCUs cannot reach."""
        rest = change.copy()
        for number, component in self._first_blocks.items():
            for _ in range(count):
                rest[:, component] -= self._dc[number].largest_step(rest[:, component])
        return rest


class _DifferenceCodes:
    """The codes of DC differences in one table (T.81, section F.1.2.1)."""

    def __init__(self, table: HuffmanTable) -> None:
        codes = table.codes
        if 0 not in codes:
            raise UnsupportedTables
        self._codes = np.array([codes.get(bits, (0, 0)) for bits in range(MAX_DC_BITS + 1)], np.int64)
        # For each number of bits: the largest number of bits that has a code and is not larger.
        self._codable_bits = np.maximum.accumulate(np.where(self._codes[:, 1] > 0, np.arange(MAX_DC_BITS + 1), 0))

    def largest_step(self, difference: np.ndarray) -> np.ndarray:
        """The largest part of each `difference` that has a code."""
        bits = np.minimum(_bit_length(difference), MAX_DC_BITS)
        codable = self._codable_bits[bits]
        return np.where(_bit_length(difference) == codable, difference, np.sign(difference) * ((1 << codable) - 1))

    def encode(self, difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Encodes differences; returns (values int64 [n], bits of each value int64 [n])."""
        bits = _bit_length(difference)
        code, length = self._codes[bits].T
        number = np.where(difference >= 0, difference, difference + (1 << bits) - 1)
        return code << bits | number, length + bits


def _bit_length(numbers: np.ndarray) -> np.ndarray:
    """The number of bits of each absolute value."""
    return np.frexp(np.abs(numbers).astype(np.float64))[1].astype(np.int64)


def _join_bits(parts: list[tuple[np.ndarray, np.ndarray]], length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joins the bits of all parts to whole bytes and stuffs a zero after each 0xFF (T.81, section F.1.2.3).

    Args:
      parts: [(values int64 [n], bits of each int64 [n])], in order.
      length: int64 [n], the sum of the bits: a multiple of 8.

    Returns:
      codes: uint8 [m], the bytes of all n results, concatenated.
      lengths: int64 [n], bytes of each result.
    """
    bits = np.zeros((len(length), int(length.max(initial=0))), np.uint8)
    rows, position = np.arange(len(length)), np.zeros_like(length)
    for values, count in parts:
        for bit in range(int(count.max(initial=0))):
            present = np.flatnonzero(bit < count)
            bits[rows[present], position[present] + bit] = values[present] >> (count[present] - 1 - bit) & 1
        position = position + count
    packed = np.packbits(bits, axis=1)
    inside = np.arange(packed.shape[1]) < length[:, None] // 8
    is_ff = (packed == 0xFF) & inside
    stuffed = np.repeat(packed[inside], 1 + is_ff[inside])
    stuffed[np.flatnonzero(np.repeat(is_ff[inside], 1 + is_ff[inside]))[1::2]] = 0
    return stuffed, length // 8 + is_ff.sum(axis=1)


@functools.lru_cache(maxsize=1024)
def _fill_codes(table: HuffmanTable) -> tuple[tuple[int, int], ...]:
    """Codes of few AC coefficients that lengthen a block by 0 to 7 bits modulo 8, as (codes, their bits) for each."""
    best: dict[int, tuple[int, int, int]] = {0: (0, 0, 0)}  # {bits modulo 8: (coefficients, codes, bits)}
    queue = [0]
    candidates = [
        ((symbol >> 4) + 1, code << (symbol & 15), length + (symbol & 15))
        for symbol, (code, length) in table.codes.items()
        if symbol & 15
    ]
    while queue:
        coefficients, codes, bits = best[queue.pop(0)]
        for more, added, length in candidates:
            phase = (bits + length) % 8
            if coefficients + more <= AC_COEFFICIENTS and (phase not in best or coefficients + more < best[phase][0]):
                best[phase] = coefficients + more, codes << length | added, bits + length
                queue.append(phase)
    if len(best) < 8 or max(bits for _, _, bits in best.values()) > MAX_FILL_BITS:
        raise UnsupportedTables
    return tuple((codes, bits) for _, (_, codes, bits) in sorted(best.items()))
