"""Where each row of a JPEG's MCUs begins in its Huffman codes, for many images at once.

    for number, starts in row_starts((number, layout, coded) for ...):
        row, bit, *predictions = starts[0]

A code's place is known only when all before it have been read, one by one; so images are read side by side, as lanes
of one compiled loop: 11 ns a symbol, 1 ms for the first half of a photograph of 100 KB. A decoder takes a third of
that, but none of TensorFlow's says where it is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from pipeline import memory
from pipeline.jpeg_layout import Coded, Layout, Table

LANES = 256
ROOM = 8 * 4001  # words of 4 bytes that a lane holds (an odd number of cache lines): who has more is followed so far
STEPS = 1024  # symbols between two looks at where the lanes are
LOOKS = 8  # in a call: every call costs 1 ms, and lanes that have ended wait for its end
SHARE = 0.5  # of an image's rows that are followed: few crops begin below
FIRST, LONGEST = 10, 16  # bits looked up at once, and then the rest of the longest code
REST = LONGEST - FIRST
MOST_LONG = 16  # beginnings of FIRST bits that longer codes may share in one table
TABLE = (1 << FIRST) + (MOST_LONG << REST) + 32
TABLES = 4  # two of DC and two of AC, which is what baseline allows
BLOCKS = 10
SPACE = 20  # bits for each component's prediction, in one integer
LONG = 1 << 15


def row_starts(images: Iterable[tuple[int, Layout, Coded]]) -> Iterator[tuple[int, np.ndarray]]:
    """(number, int64 [n, 5]) of each image, as they end: row of MCUs, the bit of the coded data that it begins at, and
    the DC predictions there.

    Of rows 1 to SHARE of all, though not of each: STEPS symbols or more lie between two. None of an image whose codes
    are damaged before that, or whose tables are like no encoder's.
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
        kinds = {"bits": np.int32, "across": np.int32, "rows": np.int32, "blocks": np.int32}
        self._fixed = {name: np.zeros(LANES, kind) for name, kind in kinds.items()}
        # Written between two calls, none of which keeps anything: shared with tensors and not copied every time.
        self._words = memory.empty(8 * LANES * ROOM).view(np.uint64).reshape(LANES, ROOM)
        self._of_block = memory.empty(4 * LANES * BLOCKS).view(np.int32).reshape(LANES, BLOCKS)
        self._tables = memory.empty(2 * LANES * TABLES * TABLE).view(np.uint16).reshape(LANES, TABLES, TABLE)
        self._shared = [memory.tensor_over(of.reshape(-1)) for of in (self._words, self._of_block, self._tables)]
        self._state = [np.zeros(LANES, kind.as_numpy_dtype) for kind in STATE]
        self.numbers: dict[int, int] = {}  # lane: its image
        self._seen: dict[int, list[np.ndarray]] = {}

    def idle(self) -> list[int]:
        return [lane for lane in range(LANES) if lane not in self.numbers]

    def take(self, lane: int, number: int, layout: Layout, codes: Coded) -> bool:
        """False where this image cannot be followed."""
        rows = min(layout.down - 1, int(layout.down * SHARE))
        lookups = {2 * kind + which: _lookup(table) for (kind, which), table in layout.tables.items() if which < 2}
        if rows < 1 or any(lookup is None for lookup in lookups.values()):
            return False
        if any(max(dc, ac) > 1 for _, dc, ac in layout.blocks):
            return False
        data = codes.data[: 4 * (ROOM - 3)]
        size = len(data) // 4 + 3
        padded = np.zeros(4 * size, np.uint8)
        padded[: len(data)] = data
        big = padded.view(">u4").astype(np.uint64)
        self._words[lane, : size - 1] = big[:-1] << np.uint64(32) | big[1:]
        for place, lookup in lookups.items():
            self._tables[lane, place] = lookup
        for place, (component, dc, ac) in enumerate(layout.blocks):
            self._of_block[lane, place] = component * SPACE | dc << 8 | (2 + ac) << 12
        for name, value in zip(self._fixed, (8 * len(data), layout.across, rows, len(layout.blocks)), strict=True):
            self._fixed[name][lane] = value
        for of in self._state:
            of[lane] = 0
        self.numbers[lane], self._seen[lane] = number, []
        return True

    def advance(self) -> list[tuple[int, np.ndarray]]:
        """LOOKS times STEPS symbols further; the images that have ended."""
        told, *self._state = (of.numpy().copy() for of in _advance()(*self._shared, *self._fixed.values(), self._state))
        _, _, _, _, row, _, fault, *_ = self._state
        for lane in self.numbers:
            self._seen[lane].append(told[:, lane])
        ended = []
        for lane in np.flatnonzero((fault != 0) | (row >= self._fixed["rows"])).tolist():
            if lane in self.numbers:
                seen = np.concatenate(self._seen.pop(lane))
                ended.append((self.numbers.pop(lane), _apart(seen if fault[lane] != DAMAGED else seen[:0])))
                self._fixed["rows"][lane] = 0
        return ended


def _apart(seen: np.ndarray) -> np.ndarray:
    """(row, bit, predictions in one integer) at each look -> as `row_starts`."""
    of = seen[seen[:, 0] > np.concatenate([[0], seen[:-1, 0]])]
    predictions, rest = [], of[:, 2]
    for _ in range(3):
        low = (rest + (1 << SPACE - 1)) % (1 << SPACE) - (1 << SPACE - 1)
        predictions.append(low)
        rest = (rest - low) >> SPACE
    return np.stack([of[:, 0], of[:, 1], *predictions], axis=1)


@functools.lru_cache(maxsize=4 * LANES)  # many files have the standard's own
def _lookup(table: Table) -> np.ndarray | None:
    """uint16 [TABLE]: length and symbol (length << 8 | symbol) by the next FIRST bits; where a code is longer, LONG and
    the number of a part that is looked up by the REST. 0 where there is no such code; None where there are too many."""
    found = np.zeros(TABLE, np.uint16)
    parts = 0
    for symbol, (code, length) in table.codes.items():
        if code >> length:
            return None
        if length <= FIRST:
            found[code << FIRST - length : code + 1 << FIRST - length] = length << 8 | symbol
            continue
        begin = code >> length - FIRST
        if not found[begin]:
            if parts == MOST_LONG:
                return None
            found[begin], parts = LONG | parts, parts + 1
        part = (1 << FIRST) + ((int(found[begin]) & LONG - 1) << REST)
        rest = (code & (1 << length - FIRST) - 1) << LONGEST - length
        found[part + rest : part + rest + (1 << LONGEST - length)] = length << 8 | symbol
    return found


DAMAGED, OVER = 1, 2
# Of each lane: bit, coefficient, block, column, row, predictions, fault; and at the last start of a row its number, bit and
# predictions.
STATE = (*[tf.int32] * 5, tf.int64, tf.int32, tf.int32, tf.int32, tf.int64)


@functools.cache
def _advance() -> tf.types.experimental.PolymorphicFunction:
    """Compiled when it is first needed, for 2 CPU seconds."""
    right, left, both = tf.bitwise.right_shift, tf.bitwise.left_shift, tf.bitwise.bitwise_and
    lanes = tf.range(LANES)

    @tf.function(jit_compile=True, autograph=False)
    def advance(
        words: tf.Tensor,
        of_block: tf.Tensor,
        tables: tf.Tensor,
        bits: tf.Tensor,
        across: tf.Tensor,
        rows: tf.Tensor,
        blocks: tf.Tensor,
        state: list[tf.Tensor],
    ) -> tuple[tf.Tensor, ...]:
        """The last start of a row after every STEPS symbols, int64 [LOOKS, LANES, 3], and the state after all."""

        def step(bit, coefficient, block, column, row, predictions, fault, *last):  # type: ignore[no-untyped-def]
            active = (row < rows) & tf.equal(fault, 0)
            # 33 bits or more from here on: the longest code, 16, and the bits of its number, 11 at most.
            ahead = left(tf.gather(words, lanes * ROOM + right(bit, 5)), _u64(both(bit, 31)))
            next16 = tf.cast(right(ahead, _u64(48)), tf.int32)
            component = tf.gather(of_block, lanes * BLOCKS + block)
            is_dc = tf.equal(coefficient, 0)
            table = (lanes * TABLES + tf.where(is_dc, both(right(component, 8), 15), right(component, 12))) * TABLE
            code = tf.cast(tf.gather(tables, table + right(next16, REST)), tf.int32)
            rest = table + (1 << FIRST) + left(both(code, LONG - 1), REST) + both(next16, (1 << REST) - 1)
            long = code >= LONG
            code = tf.where(long, tf.cast(tf.gather(tables, tf.where(long, rest, 0)), tf.int32), code)
            length, run, size = right(code, 8), both(right(code, 4), 15), both(code, 15)

            value = tf.cast(right(right(left(ahead, _u64(length)), _u64(1)), _u64(63 - size)), tf.int32)
            whole = left(1, size)
            difference = tf.where(value < right(whole, 1), value - whole + 1, value)  # T.81, figure F.12
            difference = left(tf.cast(difference, tf.int64), tf.cast(both(component, 255), tf.int64))
            predictions = tf.where(is_dc & active, predictions + difference, predictions)

            after = tf.where(is_dc, 1, tf.where(tf.equal(size, 0) & (run < 15), 64, coefficient + run + 1))
            fault = tf.where(active & (tf.equal(length, 0) | (after > 64)), DAMAGED, fault)
            bit = tf.where(active, bit + length + size, bit)
            fault = tf.where(bit > bits, OVER, fault)
            done = after >= 64
            coefficient = tf.where(done, 0, after)
            block = tf.where(done, block + 1, block)
            full = tf.equal(block, blocks)
            block = tf.where(full, 0, block)
            column = tf.where(full, column + 1, column)
            wrapped = tf.equal(column, across)
            column = tf.where(wrapped, 0, column)
            row = tf.where(wrapped & active, row + 1, row)
            begun = wrapped & active
            last = tuple(tf.where(begun, new, old) for new, old in zip((row, bit, predictions), last, strict=True))
            return bit, coefficient, block, column, row, predictions, fault, *last

        def two(n: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return n + 2, *step(*step(*state))

        def look(n: tf.Tensor, told: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
            state = tf.while_loop(lambda n, *_: n < STEPS, two, (tf.constant(0), *state))[1:]
            row, bit, predictions = state[-3:]
            last = tf.stack([tf.cast(row, tf.int64), tf.cast(bit, tf.int64), predictions], axis=1)
            return n + 1, tf.tensor_scatter_nd_update(told, [[n]], last[None]), *state

        told = tf.zeros([LOOKS, LANES, 3], tf.int64)
        _, told, *state = tf.while_loop(lambda n, *_: n < LOOKS, look, (tf.constant(0), told, *state))
        return told, *state

    return advance


def _u64(of: tf.Tensor) -> tf.Tensor:
    return tf.cast(of, tf.uint64)
