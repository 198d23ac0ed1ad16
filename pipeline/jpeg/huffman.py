"""Finds where the MCUs of JPEGs begin in their Huffman codes, for many images at once.

    for number, starts in find_mcu_starts((number, layout, scan) for ...):
        mcu, bit, *predictions = starts[0]

The position of a code is known only when all codes before it have been read, one by one. So images are read side by
side, as lanes of one compiled loop. A photograph of 103 KB takes 3 ms of CPU, in a process in which each operation uses
one thread. A decoder takes half of this time, but no decoder in TensorFlow reports positions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.jpeg.layout import MAX_BLOCKS, HuffmanTable, Layout, Scan
from evenkeel.pipeline.system import tensor_memory

LANES = 256
LANE_WORDS = 8 * 16001  # words of 4 bytes per lane (an odd number of cache lines): longer images are not supported
CODES_PER_CHECK = 12  # codes, or pairs of codes, between two checks of the positions of the lanes
CHECKS_PER_CALL = 512  # each call costs 1 ms, and lanes that have ended wait until the call ends
MAX_GRID_COLUMNS = 16  # grid points in a row of MCUs
MAX_CODE_BITS = 16
SHORT_CODE_BITS = 9  # bits looked up at once: more bits find more pairs of codes, but need more of the cache
MAX_LONG_ENTRIES = 2048  # values of 16 bits (of 65,536) that begin with a code of more than SHORT_CODE_BITS
TABLE_ENTRIES = (1 << SHORT_CODE_BITS) + MAX_LONG_ENTRIES + 16
MAX_TABLES = 4  # two for DC and two for AC: the most that baseline allows
PREDICTION_BITS = 20  # bits of the prediction of a component; three predictions share an integer
MAX_PREDICTION = 1 << 15  # far above the predictions of any pixels
MAX_DC_BITS = 11  # bits of a difference (T.81, table F.1)
MAX_MCUS_PER_SIDE = 1 << 13  # MCUs in a row, and rows of MCUs, that the state has room for
END_OF_BLOCK = 128  # coefficients by which the end of a block advances: more than a block has


def grid_step(layout: Layout) -> int:
    """Columns of MCUs between two grid points of a row: a power of two."""
    step, min_step = 1, -(-CODES_PER_CHECK // (2 * len(layout.blocks)))
    # Every block has two or more codes, so at most one grid point lies between two checks if a row has enough codes.
    while -(-layout.mcus_across // step) > MAX_GRID_COLUMNS or (
        (layout.mcus_across % step or step) < min_step and step < layout.mcus_across
    ):
        step *= 2
    return step


def find_mcu_starts(images: Iterable[tuple[int, Layout, Scan]]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (number, starts) of each image, in the order in which the images end.

    `starts` is int64 [n, 5]: the number of an MCU, the bit of the codes at which it begins, and its three DC
    predictions. The MCUs are on the grid (columns 0, `grid_step`, ... of each row), row by row; the last entry is the
    end of the codes. n is 0 if the codes are damaged or end too soon, if no encoder writes tables like these, or if the
    image is too long, too tall or too narrow.
    """
    waiting = iter(images)
    lanes = _Lanes()
    while True:
        for lane in lanes.idle_lanes():
            for number, layout, scan in waiting:
                if lanes.load(lane, number, layout, scan):
                    break
                yield number, np.zeros((0, 5), np.int64)
        if not lanes.numbers:
            return
        yield from lanes.advance()


class _Lanes:
    """The memory of the compiled loop, and the grid points seen so far.

    Attributes:
      numbers: {lane: number of its image}.
    """

    def __init__(self) -> None:
        # These arrays are written between two calls, and no call keeps a reference to them. So tensors share their
        # memory, and no call copies it.
        self._words = tensor_memory.allocate_bytes(8 * LANES * LANE_WORDS).view(np.uint64).reshape(LANES, LANE_WORDS)
        self._blocks = tensor_memory.allocate_bytes(8 * LANES * MAX_BLOCKS).view(np.int64).reshape(LANES, MAX_BLOCKS)
        self._tables = (
            tensor_memory.allocate_bytes(4 * LANES * MAX_TABLES * TABLE_ENTRIES)
            .view(np.uint32)
            .reshape(LANES, MAX_TABLES, TABLE_ENTRIES)
        )
        self._tensors = [
            tensor_memory.share_as_tensor(array.reshape(-1)) for array in (self._words, self._blocks, self._tables)
        ]
        self._across, self._last_block = np.ones((2, LANES), np.int32)
        self._grid, self._bits, self._mcus = np.zeros((3, LANES), np.int64)
        self._state = np.zeros((4, LANES), np.int64)
        self.numbers: dict[int, int] = {}
        self._seen: dict[int, list[np.ndarray]] = {}  # {lane: (state, predictions) at each grid point}
        self._expected: dict[int, np.ndarray] = {}  # {lane: the MCUs on the grid}

    def idle_lanes(self) -> list[int]:
        return [lane for lane in range(LANES) if lane not in self.numbers]

    def load(self, lane: int, number: int, layout: Layout, scan: Scan) -> bool:
        """Puts an image into a lane; returns False if the image is not supported."""
        all_lookups = {(kind, which): _lookup(table, kind == 0) for (kind, which), table in layout.tables.items()}
        lookups = {key: lookup for key, lookup in all_lookups.items() if lookup is not None and key[1] < 2}
        if not all((0, dc) in lookups and (1, ac) in lookups for _, dc, ac in layout.blocks):
            return False
        size = len(scan.codes) // 4 + 3
        # Lanes that have ended continue until the call ends, into rows that do not exist: half of the rows are spare.
        if size > LANE_WORDS or layout.mcus_across >= MAX_MCUS_PER_SIDE or layout.mcus_down >= MAX_MCUS_PER_SIDE // 2:
            return False
        padded = np.zeros(4 * size, np.uint8)
        padded[: len(scan.codes)] = scan.codes
        words = padded.view(">u4").astype(np.uint64)
        self._words[lane, : size - 1] = words[:-1] << np.uint64(32) | words[1:]
        for (kind, which), lookup in lookups.items():
            self._tables[lane, 2 * kind + which] = lookup.entries
        for block, (component, dc, ac) in enumerate(layout.blocks):
            dc_long_from, ac_long_from = lookups[0, dc].long_from, lookups[1, ac].long_from
            self._blocks[lane, block] = (
                component * PREDICTION_BITS | dc << 6 | 2 + ac << 8 | dc_long_from << 10 | ac_long_from << 27
            )
        self._across[lane], self._last_block[lane] = layout.mcus_across, len(layout.blocks) - 1
        self._grid[lane] = 255 << COEFFICIENT | 15 << BLOCK | grid_step(layout) - 1 << COLUMN
        self._bits[lane], self._mcus[lane] = 8 * len(scan.codes), layout.mcus_across * layout.mcus_down
        columns = np.arange(0, layout.mcus_across, grid_step(layout))
        rows = np.arange(0, self._mcus[lane], layout.mcus_across)
        self._expected[lane] = np.append(rows[:, None] + columns, self._mcus[lane])
        self._state[:, lane] = 0
        self.numbers[lane], self._seen[lane] = number, []
        return True

    def advance(self) -> list[tuple[int, np.ndarray]]:
        """Reads CHECKS_PER_CALL times CODES_PER_CHECK codes in every lane; returns the images that have ended."""
        previous, constants = self._state[0], (self._across, self._last_block, self._grid)
        checks, state = (tensor.numpy() for tensor in _compiled_advance()(*self._tensors, *constants, self._state))
        self._state = state.copy()
        changes = np.flatnonzero((checks[1:, 0] != checks[:-1, 0]).T)  # by lane, and in a lane by time
        lane_of, time = changes // CHECKS_PER_CALL, changes % CHECKS_PER_CALL + 1
        seen = checks[time, :, lane_of]
        ends = np.searchsorted(lane_of, np.arange(LANES + 1))
        is_done = self._mcu(state[0]) >= self._mcus
        ended = []
        for lane in np.flatnonzero(is_done | (state[0] == previous)).tolist():
            if lane not in self.numbers:
                continue
            parts = [*self._seen.pop(lane), seen[ends[lane] : ends[lane + 1]]]
            ended.append((self.numbers.pop(lane), self._starts(lane, np.concatenate(parts))))
        for lane in self.numbers:
            self._seen[lane].append(seen[ends[lane] : ends[lane + 1]])
        return ended

    def _mcu(self, state: np.ndarray, lane: int | slice = slice(None)) -> np.ndarray:
        """The number of the MCU in which a lane is."""
        return (state >> ROW) * self._across[lane] + (state >> COLUMN & MAX_MCUS_PER_SIDE - 1)

    def _starts(self, lane: int, seen: np.ndarray) -> np.ndarray:
        """The starts of `find_mcu_starts` from int64 [n, 2]: the state and the predictions at each grid point."""
        mcus, bits, rest = self._mcu(seen[:, 0], lane), seen[:, 0] & BIT_MASK, seen[:, 1]
        predictions = []
        for _ in range(3):
            low = (rest + (1 << PREDICTION_BITS - 1)) % (1 << PREDICTION_BITS) - (1 << PREDICTION_BITS - 1)
            predictions.append(low)
            rest = (rest - low) >> PREDICTION_BITS
        starts = np.stack([mcus, bits, *predictions], axis=1)[mcus <= self._mcus[lane]]
        starts = np.concatenate([np.zeros((1, 5), np.int64), starts])
        is_sound = starts[-1, 1] <= self._bits[lane] and np.abs(starts[:, 2:]).max() < MAX_PREDICTION
        return starts if is_sound and np.array_equal(starts[:, 0], self._expected[lane]) else starts[:0]


class _Lookup(NamedTuple):
    """A lookup table of codes.

    Attributes:
      entries: uint32 [TABLE_ENTRIES], indexed by the next SHORT_CODE_BITS bits; or, if the next 16 bits are
        `long_from` or more, by (1 << SHORT_CODE_BITS) + their excess over `long_from`. From the lowest bit on, an entry
        holds: bits of the code and its number (5), coefficients to advance (8), bits of the code (5); and, if the next
        code is known too, bits (5) and coefficients (9) of both together. 0 if there is no such code.
      long_from: see `entries`.
    """

    entries: np.ndarray
    long_from: int


@functools.lru_cache(maxsize=4 * LANES)  # many files have the standard's tables
def _lookup(table: HuffmanTable, is_dc: bool) -> _Lookup | None:
    """The lookup table; None if too many codes are long, or if the table is invalid."""
    lengths, symbols = np.zeros((2, 1 << MAX_CODE_BITS), np.int64)
    for symbol, (code, length) in table.codes.items():
        if code >> length or (is_dc and symbol > MAX_DC_BITS):
            return None
        values = slice(code << MAX_CODE_BITS - length, code + 1 << MAX_CODE_BITS - length)
        lengths[values], symbols[values] = length, symbol
    short = 1 << MAX_CODE_BITS - SHORT_CODE_BITS
    long = np.flatnonzero((lengths > SHORT_CODE_BITS) | (lengths == 0))
    long_from = int(long[0]) // short * short if len(long) else 1 << MAX_CODE_BITS
    if (1 << MAX_CODE_BITS) - long_from > MAX_LONG_ENTRIES:
        return None
    runs, sizes = (symbols >> 4, symbols & 15) if not is_dc else (np.zeros_like(symbols), symbols)
    bits = lengths + sizes
    advance = np.where(is_dc | (sizes > 0), runs + 1, np.where(runs == 15, 16, END_OF_BLOCK))
    single = np.where(lengths > 0, bits | advance << 5 | lengths << 13, 0)
    first = np.arange(0, 1 << MAX_CODE_BITS, short)
    second = first << np.minimum(bits[first], MAX_CODE_BITS) & (1 << MAX_CODE_BITS) - 1
    is_pair = (
        (lengths[first] > 0)
        & (advance[first] < END_OF_BLOCK)
        & (lengths[second] > 0)
        & (bits[first] + lengths[second] <= SHORT_CODE_BITS)
    )
    pair = np.where(is_pair & (not is_dc), bits[first] + bits[second] | advance[first] + advance[second] << 5, 0)
    entries = np.zeros(TABLE_ENTRIES, np.uint32)
    entries[: 1 << SHORT_CODE_BITS] = single[first] | pair << 18
    entries[1 << SHORT_CODE_BITS : (1 << SHORT_CODE_BITS) + (1 << MAX_CODE_BITS) - long_from] = single[long_from:]
    return _Lookup(entries, long_from)


# The state of a lane is four integers: its position, its DC predictions, and both at the last grid point. A position
# consists of, from the lowest bit on: the bit, the coefficient, the block, the column of MCUs, and the row of MCUs.
COEFFICIENT, BLOCK, COLUMN, ROW = 25, 33, 37, 50
BIT_MASK = (1 << COEFFICIENT) - 1


@functools.cache
def _compiled_advance() -> tf.types.experimental.PolymorphicFunction:
    """The compiled loop. Compilation takes 2 s of CPU, so the first use compiles it."""
    right, left, bit_and = tf.bitwise.right_shift, tf.bitwise.left_shift, tf.bitwise.bitwise_and
    lanes = tf.range(LANES)

    def bit_field(value: tf.Tensor, lowest: int, bits: int) -> tf.Tensor:
        return tf.cast(bit_and(right(value, lowest), (1 << bits) - 1), tf.int32)

    def uint64(value: tf.Tensor) -> tf.Tensor:
        return tf.cast(value, tf.uint64)

    @tf.function(jit_compile=True, autograph=False)
    def advance(
        words: tf.Tensor,
        blocks: tf.Tensor,
        tables: tf.Tensor,
        across: tf.Tensor,
        last_block: tf.Tensor,
        grid: tf.Tensor,
        state: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Reads CHECKS_PER_CALL times CODES_PER_CHECK codes in every lane.

        Returns:
          checks: int64 [1 + CHECKS_PER_CALL, 2, LANES], the position and the predictions at the last grid point:
            before the first codes, and after each CODES_PER_CHECK codes.
          state: int64 [4, LANES], after all codes.
        """

        def read_code(position: tf.Tensor, predictions: tf.Tensor, *last: tf.Tensor) -> tuple[tf.Tensor, ...]:
            bit, coefficient = bit_field(position, 0, 25), bit_field(position, 25, 8)
            block, column = bit_field(position, 33, 4), bit_field(position, 37, 13)
            # At least 33 bits from here on: enough for the longest code (16) and the bits of its number (at most 11).
            next_bits = left(tf.gather(words, lanes * LANE_WORDS + right(bit, 5)), uint64(bit_and(bit, 31)))
            block_info = tf.gather(blocks, lanes * MAX_BLOCKS + block)
            is_dc = tf.equal(coefficient, 0)
            table = tf.where(is_dc, bit_field(block_info, 6, 2), bit_field(block_info, 8, 2))
            long_from = tf.where(is_dc, bit_field(block_info, 10, 17), bit_field(block_info, 27, 17))
            next16 = tf.cast(right(next_bits, uint64(48)), tf.int32)
            excess = next16 - long_from
            index = tf.where(
                excess >= 0, (1 << SHORT_CODE_BITS) + excess, right(next16, MAX_CODE_BITS - SHORT_CODE_BITS)
            )
            entry = tf.cast(tf.gather(tables, (lanes * MAX_TABLES + table) * TABLE_ENTRIES + index), tf.int64)

            bits, step, length = bit_field(entry, 0, 5), bit_field(entry, 5, 8), bit_field(entry, 13, 5)
            value = tf.cast(
                right(right(left(next_bits, uint64(length)), uint64(1)), uint64(63 - (bits - length))), tf.int32
            )
            limit = left(1, bits - length)
            difference = tf.where(value < right(limit, 1), value - limit + 1, value)  # T.81, figure F.12
            difference = left(tf.cast(difference, tf.int64), bit_and(block_info, 63))
            predictions += tf.where(is_dc, difference, tf.constant(0, tf.int64))

            pair = bit_field(entry, 18, 5)
            is_pair = (pair > 0) & (coefficient + step < 64)  # else the block ends with the first code
            bits, step = tf.where(is_pair, pair, bits), tf.where(is_pair, bit_field(entry, 23, 9), step)
            after = coefficient + step
            is_damaged = (after > 64) & (after < END_OF_BLOCK)  # the lane stops here, which `_Lanes.advance` detects
            bit, after = tf.where(is_damaged, bit, bit + bits), tf.where(is_damaged, coefficient, after)
            block_ends = after >= 64
            mcu_ends = block_ends & tf.equal(block, last_block)
            block = tf.where(mcu_ends, 0, block + tf.cast(block_ends, tf.int32))
            column += tf.cast(mcu_ends, tf.int32)
            row_ends = tf.equal(column, across)
            position = left(right(position, ROW) + tf.cast(row_ends, tf.int64), ROW)
            for value, lowest in (bit, 0), (tf.where(block_ends, 0, after), COEFFICIENT), (block, BLOCK):
                position += left(tf.cast(value, tf.int64), lowest)
            position += left(tf.cast(tf.where(row_ends, 0, column), tf.int64), COLUMN)
            on_grid = tf.equal(bit_and(position, grid), 0)
            return (
                position,
                predictions,
                *(tf.where(on_grid, new, old) for new, old in zip((position, predictions), last, strict=True)),
            )

        def check(n: tf.Tensor, checks: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
            checks = tf.tensor_scatter_nd_update(checks, [[n]], tf.stack(state[2:])[None])
            _, *state = tf.while_loop(
                lambda n, *_: n < CODES_PER_CHECK, lambda n, *lane: (n + 1, *read_code(*lane)), (0, *state)
            )
            return n + 1, checks, *state

        checks = tf.zeros([1 + CHECKS_PER_CALL, 2, LANES], tf.int64)
        _, checks, *state = tf.while_loop(lambda n, *_: n < CHECKS_PER_CALL, check, (0, checks, *tf.unstack(state)))
        return tf.tensor_scatter_nd_update(checks, [[CHECKS_PER_CALL]], tf.stack(state[2:])[None]), tf.stack(state)

    return advance
