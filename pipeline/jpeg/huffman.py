"""Where MCUs of a JPEG begin in its Huffman codes, for many images at once.

    for number, starts in mcu_starts((number, layout, coded) for ...):
        mcu, bit, *predictions = starts[0]

A code's place is known only when all before it have been read, one by one; so images are read side by side, as lanes
of one compiled loop: 3 ms of CPU for a photograph of 103 KB, in a process whose operations use one thread. A
decoder takes half of that, but none of TensorFlow's says where it is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.jpeg.layout import Coded, Layout, Table
from evenkeel.pipeline.system import tensor_memory

LANES = 256
ROOM = 8 * 16001  # words of 4 bytes that a lane holds (an odd number of cache lines): longer images are not followed
STEPS = 12  # codes between two looks at where the lanes are, one or two at a time
LOOKS = 512  # in a call: every call costs 1 ms, and lanes that have ended wait for its end
COLUMNS = 16  # of an image's MCUs, at most, are told of in each row
LONGEST = 16  # bits of a code
FIRST = 9  # bits looked up at once: more know more pairs of codes, and take more of the cache
LONG = 2048  # of the 65,536 ways 16 bits can be, those that begin with a code of more than FIRST
TABLE = (1 << FIRST) + LONG + 16
TABLES = 4  # two of DC and two of AC, which is what baseline allows
BLOCKS = 10  # in an MCU, at most
SPACE = 20  # bits for each component's prediction, in one integer
LARGEST = 1 << 15  # prediction: far beyond what pixels can come to
DC_BITS = 11  # of a difference: T.81, table F.1
SIDE = 1 << 13  # MCUs in a row, and rows of them, that there is room for
END = 128  # coefficients on: the end of a block


def step_of(layout: Layout) -> int:
    """Columns of MCUs between two that are told of: a power of two."""
    step, fewest = 1, -(-STEPS // (2 * len(layout.blocks)))
    # Every block has two codes or more, so that no two such MCUs lie between two looks, unless a row has fewer codes.
    while -(-layout.across // step) > COLUMNS or ((layout.across % step or step) < fewest and step < layout.across):
        step *= 2
    return step


def mcu_starts(images: Iterable[tuple[int, Layout, Coded]]) -> Iterator[tuple[int, np.ndarray]]:
    """(number, int64 [n, 5]) of each image, as they end: an MCU, the bit of the coded data that it begins at, and the
    DC predictions there.

    Of the MCUs in columns 0, `step_of`, ..., row by row, and of the end: of all of them, or of none where the codes are
    damaged or end too soon, the tables are like no encoder's, or the image is too long, too tall or too narrow.
    """
    waiting = iter(images)
    lanes = _Lanes()
    while True:
        for lane in lanes.idle():
            for number, layout, codes in waiting:
                if lanes.take(lane, number, layout, codes):
                    break
                yield number, np.zeros((0, 5), np.int64)
        if not lanes.numbers:
            return
        yield from lanes.advance()


class _Lanes:
    """The compiled loop's memory, and what it has told so far."""

    def __init__(self) -> None:
        # Written between two calls, none of which keeps anything: shared with tensors and not copied every time.
        self._words = tensor_memory.allocate_bytes(8 * LANES * ROOM).view(np.uint64).reshape(LANES, ROOM)
        self._blocks = tensor_memory.allocate_bytes(8 * LANES * BLOCKS).view(np.int64).reshape(LANES, BLOCKS)
        self._tables = tensor_memory.allocate_bytes(4 * LANES * TABLES * TABLE).view(np.uint32).reshape(LANES, TABLES, TABLE)
        self._shared = [tensor_memory.share_as_tensor(of.reshape(-1)) for of in (self._words, self._blocks, self._tables)]
        self._across, self._last_block = np.ones((2, LANES), np.int32)
        self._grid, self._bits, self._mcus = np.zeros((3, LANES), np.int64)
        self._state = np.zeros((4, LANES), np.int64)
        self.numbers: dict[int, int] = {}  # lane: its image
        self._seen: dict[int, list[np.ndarray]] = {}
        self._expected: dict[int, np.ndarray] = {}  # lane: the MCUs that are to be seen

    def idle(self) -> list[int]:
        return [lane for lane in range(LANES) if lane not in self.numbers]

    def take(self, lane: int, number: int, layout: Layout, codes: Coded) -> bool:
        """False where this image cannot be followed."""
        found = {(kind, which): _lookup(table, kind == 0) for (kind, which), table in layout.tables.items()}
        lookups = {at: lookup for at, lookup in found.items() if lookup is not None and at[1] < 2}
        if not all((0, dc) in lookups and (1, ac) in lookups for _, dc, ac in layout.blocks):
            return False
        size = len(codes.data) // 4 + 3
        # Lanes that have ended go on to the end of a call, into rows that there are not.
        if size > ROOM or layout.across >= SIDE or layout.down >= SIDE // 2:
            return False
        padded = np.zeros(4 * size, np.uint8)
        padded[: len(codes.data)] = codes.data
        words = padded.view(">u4").astype(np.uint64)
        self._words[lane, : size - 1] = words[:-1] << np.uint64(32) | words[1:]
        for (kind, which), lookup in lookups.items():
            self._tables[lane, 2 * kind + which] = lookup.entries
        for place, (component, dc, ac) in enumerate(layout.blocks):
            first, second = lookups[0, dc].long_from, lookups[1, ac].long_from
            self._blocks[lane, place] = component * SPACE | dc << 6 | 2 + ac << 8 | first << 10 | second << 27
        self._across[lane], self._last_block[lane] = layout.across, len(layout.blocks) - 1
        self._grid[lane] = 255 << COEFFICIENT | 15 << BLOCK | step_of(layout) - 1 << COLUMN
        self._bits[lane], self._mcus[lane] = 8 * len(codes.data), layout.across * layout.down
        columns = np.arange(0, layout.across, step_of(layout))
        rows = np.arange(0, self._mcus[lane], layout.across)
        self._expected[lane] = np.append(rows[:, None] + columns, self._mcus[lane])
        self._state[:, lane] = 0
        self.numbers[lane], self._seen[lane] = number, []
        return True

    def advance(self) -> list[tuple[int, np.ndarray]]:
        """LOOKS times STEPS codes further; the images that have ended."""
        before, fixed = self._state[0], (self._across, self._last_block, self._grid)
        told, state = (of.numpy() for of in _advance()(*self._shared, *fixed, self._state))
        self._state = state.copy()
        new = np.flatnonzero((told[1:, 0] != told[:-1, 0]).T)  # by lanes, and in each of them by time
        lane_of, at = new // LOOKS, new % LOOKS + 1
        seen = told[at, :, lane_of]
        ends = np.searchsorted(lane_of, np.arange(LANES + 1))
        done = self._mcu(state[0]) >= self._mcus
        ended = []
        for lane in np.flatnonzero(done | (state[0] == before)).tolist():
            if lane not in self.numbers:
                continue
            parts = [*self._seen.pop(lane), seen[ends[lane] : ends[lane + 1]]]
            ended.append((self.numbers.pop(lane), self._starts(lane, np.concatenate(parts))))
        for lane in self.numbers:
            self._seen[lane].append(seen[ends[lane] : ends[lane + 1]])
        return ended

    def _mcu(self, state: np.ndarray, lane: int | slice = slice(None)) -> np.ndarray:
        return (state >> ROW) * self._across[lane] + (state >> COLUMN & SIDE - 1)

    def _starts(self, lane: int, seen: np.ndarray) -> np.ndarray:
        """(state, predictions in one integer) at each look -> as `mcu_starts`."""
        mcus, bits, rest = self._mcu(seen[:, 0], lane), seen[:, 0] & BIT, seen[:, 1]
        predictions = []
        for _ in range(3):
            low = (rest + (1 << SPACE - 1)) % (1 << SPACE) - (1 << SPACE - 1)
            predictions.append(low)
            rest = (rest - low) >> SPACE
        starts = np.stack([mcus, bits, *predictions], axis=1)[mcus <= self._mcus[lane]]
        starts = np.concatenate([np.zeros((1, 5), np.int64), starts])
        sound = starts[-1, 1] <= self._bits[lane] and np.abs(starts[:, 2:]).max() < LARGEST
        return starts if sound and np.array_equal(starts[:, 0], self._expected[lane]) else starts[:0]


class _Lookup(NamedTuple):
    """`entries`, uint32 [TABLE]: what the next bits mean: FIRST of them, or from `long_from` on all 16, whose place is
    then (1 << FIRST) + what they exceed it by.

    From the lowest bit on: bits that the code and its number take (5), coefficients that it goes on (8), bits of the
    code (5); and of the pair, where the next code is known too, bits (5) and coefficients (9). 0 where there is no such
    code.
    """

    entries: np.ndarray
    long_from: int


@functools.lru_cache(maxsize=4 * LANES)  # many files have the standard's own
def _lookup(table: Table, of_dc: bool) -> _Lookup | None:
    """None where too many codes are long, or where they are no code."""
    lengths, symbols = np.zeros((2, 1 << LONGEST), np.int64)
    for symbol, (code, length) in table.codes.items():
        if code >> length or (of_dc and symbol > DC_BITS):
            return None
        chosen = slice(code << LONGEST - length, code + 1 << LONGEST - length)
        lengths[chosen], symbols[chosen] = length, symbol
    short = 1 << LONGEST - FIRST
    long = np.flatnonzero((lengths > FIRST) | (lengths == 0))
    long_from = int(long[0]) // short * short if len(long) else 1 << LONGEST
    if (1 << LONGEST) - long_from > LONG:
        return None
    runs, sizes = (symbols >> 4, symbols & 15) if not of_dc else (np.zeros_like(symbols), symbols)
    bits = lengths + sizes
    on = np.where(of_dc | (sizes > 0), runs + 1, np.where(runs == 15, 16, END))
    single = np.where(lengths > 0, bits | on << 5 | lengths << 13, 0)
    begin = np.arange(0, 1 << LONGEST, short)
    after = begin << np.minimum(bits[begin], LONGEST) & (1 << LONGEST) - 1
    known = (lengths[begin] > 0) & (on[begin] < END) & (lengths[after] > 0) & (bits[begin] + lengths[after] <= FIRST)
    pair = np.where(known & (not of_dc), bits[begin] + bits[after] | on[begin] + on[after] << 5, 0)
    entries = np.zeros(TABLE, np.uint32)
    entries[: 1 << FIRST] = single[begin] | pair << 18
    entries[1 << FIRST : (1 << FIRST) + (1 << LONGEST) - long_from] = single[long_from:]
    return _Lookup(entries, long_from)


# A lane's state is four integers: where it stands, the DC predictions, and both at the last MCU on the grid. Where it
# stands, from the lowest bit on: the bit, the coefficient, the block, the column of MCUs, and their row.
COEFFICIENT, BLOCK, COLUMN, ROW = 25, 33, 37, 50
BIT = (1 << COEFFICIENT) - 1


@functools.cache
def _advance() -> tf.types.experimental.PolymorphicFunction:
    """Compiled when it is first needed, for 2 CPU seconds."""
    right, left, both = tf.bitwise.right_shift, tf.bitwise.left_shift, tf.bitwise.bitwise_and
    lanes = tf.range(LANES)

    def part(of: tf.Tensor, at: int, bits: int) -> tf.Tensor:
        return tf.cast(both(right(of, at), (1 << bits) - 1), tf.int32)

    def wide(of: tf.Tensor) -> tf.Tensor:
        return tf.cast(of, tf.uint64)

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
        """The last MCU on the grid and the predictions there, after each of LOOKS times STEPS codes and before the
        first, int64 [1 + LOOKS, 2, LANES]; and the state after all, int64 [4, LANES]."""

        def step(at: tf.Tensor, predictions: tf.Tensor, *last: tf.Tensor) -> tuple[tf.Tensor, ...]:
            bit, coefficient, block, column = part(at, 0, 25), part(at, 25, 8), part(at, 33, 4), part(at, 37, 13)
            # 33 bits or more from here on: the longest code, 16, and the bits of its number, 11 at most.
            ahead = left(tf.gather(words, lanes * ROOM + right(bit, 5)), wide(both(bit, 31)))
            of_block = tf.gather(blocks, lanes * BLOCKS + block)
            is_dc = tf.equal(coefficient, 0)
            table = tf.where(is_dc, part(of_block, 6, 2), part(of_block, 8, 2))
            long_from = tf.where(is_dc, part(of_block, 10, 17), part(of_block, 27, 17))
            next16 = tf.cast(right(ahead, wide(48)), tf.int32)
            beyond = next16 - long_from
            place = tf.where(beyond >= 0, (1 << FIRST) + beyond, right(next16, LONGEST - FIRST))
            entry = tf.cast(tf.gather(tables, (lanes * TABLES + table) * TABLE + place), tf.int64)

            bits, on, length = part(entry, 0, 5), part(entry, 5, 8), part(entry, 13, 5)
            value = tf.cast(right(right(left(ahead, wide(length)), wide(1)), wide(63 - (bits - length))), tf.int32)
            whole = left(1, bits - length)
            difference = tf.where(value < right(whole, 1), value - whole + 1, value)  # T.81, figure F.12
            difference = left(tf.cast(difference, tf.int64), both(of_block, 63))
            predictions += tf.where(is_dc, difference, tf.constant(0, tf.int64))

            pair = part(entry, 18, 5)
            both_fit = (pair > 0) & (coefficient + on < 64)  # else the block ends with the first of them
            bits, on = tf.where(both_fit, pair, bits), tf.where(both_fit, part(entry, 23, 9), on)
            after = coefficient + on
            damaged = (after > 64) & (after < END)  # it stays where it is, and so it is found
            bit, after = tf.where(damaged, bit, bit + bits), tf.where(damaged, coefficient, after)
            done = after >= 64
            full = done & tf.equal(block, last_block)
            block = tf.where(full, 0, block + tf.cast(done, tf.int32))
            column += tf.cast(full, tf.int32)
            wrapped = tf.equal(column, across)
            at = left(right(at, ROW) + tf.cast(wrapped, tf.int64), ROW)
            for of, place in (bit, 0), (tf.where(done, 0, after), COEFFICIENT), (block, BLOCK):
                at += left(tf.cast(of, tf.int64), place)
            at += left(tf.cast(tf.where(wrapped, 0, column), tf.int64), COLUMN)
            on_grid = tf.equal(both(at, grid), 0)
            return (
                at,
                predictions,
                *(tf.where(on_grid, new, old) for new, old in zip((at, predictions), last, strict=True)),
            )

        def look(n: tf.Tensor, told: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
            told = tf.tensor_scatter_nd_update(told, [[n]], tf.stack(state[2:])[None])
            _, *state = tf.while_loop(lambda n, *_: n < STEPS, lambda n, *of: (n + 1, *step(*of)), (0, *state))
            return n + 1, told, *state

        told = tf.zeros([1 + LOOKS, 2, LANES], tf.int64)
        _, told, *state = tf.while_loop(lambda n, *_: n < LOOKS, look, (0, told, *tf.unstack(state)))
        return tf.tensor_scatter_nd_update(told, [[LOOKS]], tf.stack(state[2:])[None]), tf.stack(state)

    return advance
