"""(seed, epoch, step) -> rows: a stateless permutation of the data set for every epoch.

    rows = rows_at(positions, size=50_000, seed=0)    # any position of the endless training sequence, at any time

Position p belongs to epoch p // size. There is no buffer and no state: the order of step 10,000 costs what that of
step 0 costs, and asking twice gives the same rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

# RandomIndexShuffle's default of 4 rounds leaves the orders of two epochs correlated by 0.62 at 50,000 rows.
ROUNDS = 16


def mix(x: tf.Tensor) -> tf.Tensor:
    """SplitMix64's finalizer on uint64 of any shape (Steele, Lea and Flood 2014, figure 16): a bijective hash."""
    shift = tf.bitwise.right_shift
    x = (x ^ shift(x, tf.constant(30, tf.uint64))) * tf.constant(0xBF58476D1CE4E5B9, tf.uint64)
    x = (x ^ shift(x, tf.constant(27, tf.uint64))) * tf.constant(0x94D049BB133111EB, tf.uint64)
    return x ^ shift(x, tf.constant(31, tf.uint64))


def hashed(seed: int, values: tf.Tensor, words: int) -> tf.Tensor:
    """int32 [..., words] of hash bits for int64 `values` [...] under `seed`: neighbours are unrelated."""
    golden = tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    state = mix(mix(tf.cast(seed, tf.uint64) + golden) + tf.cast(values, tf.uint64))[..., None]
    streams = tf.cast(tf.range(1, words + 1), tf.uint64)
    return tf.bitcast(tf.cast(mix(state + streams * golden) & tf.constant(0xFFFFFFFF, tf.uint64), tf.uint32), tf.int32)


def rows_at(positions: tf.Tensor, size: int, seed: int) -> tf.Tensor:
    """Rows (int64 [n], in [0, size)) at int64 `positions` [n] of the endless shuffled sequence over `size` rows."""
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % size,
        seed=hashed(seed, positions // size, words=3),
        max_index=tf.constant(size - 1, tf.int64),
        rounds=ROUNDS,
    )


def balanced_rows(labels: np.ndarray, seed: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from int64 positions [n] to rows (int64 [n]) that has every class of `labels` [rows] equally often.

    Every k consecutive positions from a multiple of k on hold each of the k classes once, in a drawn order; each class
    goes through its own rows in shuffled order, again and again.
    """
    kinds, counts = np.unique(labels, return_counts=True)
    by_class = tf.constant(np.argsort(labels, kind="stable"), tf.int64)
    sizes, firsts = tf.constant(counts, tf.int64), tf.constant(np.cumsum(counts) - counts, tf.int64)
    classes = len(kinds)

    def rows(positions: tf.Tensor) -> tf.Tensor:
        visit = positions // classes
        of_class = tf.raw_ops.RandomIndexShuffle(
            index=positions % classes,
            seed=hashed(seed, visit, words=3),
            max_index=tf.constant(classes - 1, tf.int64),
            rounds=ROUNDS,
        )
        size = tf.gather(sizes, of_class)
        # Each class's every pass is an order of its own; negative, so that it is no visit's.
        within = tf.raw_ops.RandomIndexShuffle(
            index=visit % size,
            seed=hashed(seed, -1 - (visit // size * classes + of_class), words=3),
            max_index=size - 1,
            rounds=ROUNDS,
        )
        return tf.gather(by_class, tf.gather(firsts, of_class) + within)

    return rows


@dataclasses.dataclass(frozen=True)
class ReplicaShard:
    """What one worker's input pipeline contributes to each global batch.

    The global batch is split over `replicas`; this worker feeds `local_replicas` of them, from `first_replica` on.
    Element e of its data set is the batch of one replica: step e // local_replicas, replica first + e % local.
    """

    global_batch_size: int
    replicas: int = 1
    first_replica: int = 0
    local_replicas: int = 1

    @property
    def batch_size(self) -> int:
        """Images per replica and step."""
        return self.global_batch_size // self.replicas

    def step(self, element: tf.Tensor) -> tf.Tensor:
        return element // self.local_replicas

    def places(self, element: tf.Tensor) -> tf.Tensor:
        """Places (int64 [batch_size]) of the element's images inside the global batch."""
        replica = self.first_replica + element % self.local_replicas
        return replica * self.batch_size + tf.range(self.batch_size, dtype=tf.int64)

    def positions(self, element: tf.Tensor) -> tf.Tensor:
        """Positions (int64 [batch_size]) of the element's images in the endless sequence."""
        return self.step(element) * self.global_batch_size + self.places(element)


def uniforms(seed: int, element: tf.Tensor, share: ReplicaShard, columns: int) -> tf.Tensor:
    """float32 [batch_size, columns] in [0, 1), a row for each image of the element.

    Drawn for the whole global batch and then cut, so that a step's images get the same numbers on one replica as on
    eight. Distinct uses pass distinct seeds.
    """
    # Four words, of which `permutation` takes the others: a graph then holds the hash once.
    key = hashed(seed, share.step(element), words=4)[:2]
    whole = tf.random.stateless_uniform([share.global_batch_size, columns], key)
    return tf.gather(whole, share.places(element))


def permutation(seed: int, element: tf.Tensor, share: ReplicaShard, cells: int) -> tf.Tensor:
    """int32 [cells]: 0 to `cells` - 1 in an order drawn for the element's step, the same on all replicas."""
    keys = tf.random.stateless_uniform([cells], hashed(seed, share.step(element), words=4)[2:])
    return tf.argsort(keys, stable=True)


def cell_starts(element: tf.Tensor, share: ReplicaShard, cells: int) -> tf.Tensor:
    """int32 [cells + 1]: the global batch is split into `cells` equal parts; which of the element's images begin them.

    Image i of the element belongs to cell c where starts[c] <= i < starts[c + 1].
    """
    bounds = tf.constant([-(-cell * share.global_batch_size // cells) for cell in range(cells + 1)], tf.int64)
    return tf.cast(tf.clip_by_value(bounds - share.places(element)[0], 0, share.batch_size), tf.int32)


def cells(element: tf.Tensor, share: ReplicaShard, count: int) -> tf.Tensor:
    """int32 [batch_size]: the cell of each of the element's images; see `cell_starts`."""
    return tf.cast(share.places(element) * count // share.global_batch_size, tf.int32)
