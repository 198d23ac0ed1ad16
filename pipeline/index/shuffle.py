"""The order of training images: a stateless permutation of all rows for every epoch.

    rows = shuffled_rows(positions, size=50_000, seed=0)    # at any positions of the endless training sequence

Position p belongs to epoch p // size. There is no buffer and no state: the rows of step 10,000 cost as much as those of
step 0, and the same positions always have the same rows. `ReplicaShard` divides each batch among the replicas.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

# RandomIndexShuffle's default of 4 rounds leaves the orders of two epochs correlated by 0.62 at 50,000 rows.
ROUNDS = 16


def mix64(x: tf.Tensor) -> tf.Tensor:
    """The finalizer of SplitMix64, a bijective hash of uint64 of any shape (Steele, Lea and Flood 2014, figure 16)."""
    shift = tf.bitwise.right_shift
    x = (x ^ shift(x, tf.constant(30, tf.uint64))) * tf.constant(0xBF58476D1CE4E5B9, tf.uint64)
    x = (x ^ shift(x, tf.constant(27, tf.uint64))) * tf.constant(0x94D049BB133111EB, tf.uint64)
    return x ^ shift(x, tf.constant(31, tf.uint64))


def hash_words(seed: int, values: tf.Tensor, words: int) -> tf.Tensor:
    """Hash bits, int32 [..., words], of int64 `values` [...] under `seed`; the hashes of neighbours are unrelated."""
    golden = tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    state = mix64(mix64(tf.cast(seed, tf.uint64) + golden) + tf.cast(values, tf.uint64))[..., None]
    streams = tf.cast(tf.range(1, words + 1), tf.uint64)
    return tf.bitcast(
        tf.cast(mix64(state + streams * golden) & tf.constant(0xFFFFFFFF, tf.uint64), tf.uint32), tf.int32
    )


def shuffled_rows(positions: tf.Tensor, size: int, seed: int) -> tf.Tensor:
    """Rows (int64 [n], in [0, size)) at int64 `positions` [n] of the endless shuffled sequence over `size` rows."""
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % size,
        seed=hash_words(seed, positions // size, words=3),
        max_index=tf.constant(size - 1, tf.int64),
        rounds=ROUNDS,
    )


def balanced_rows(labels: np.ndarray, seed: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from int64 positions [n] to rows int64 [n] with every class of `labels` [rows] equally frequent.

    With k classes, each block of k positions (from a multiple of k on) holds each class once, in random order. Each
    class cycles through its own rows, in a new random order for each pass.
    """
    labels_present, counts = np.unique(labels, return_counts=True)
    by_class = tf.constant(np.argsort(labels, kind="stable"), tf.int64)
    sizes, firsts = tf.constant(counts, tf.int64), tf.constant(np.cumsum(counts) - counts, tf.int64)
    classes = len(labels_present)

    def rows(positions: tf.Tensor) -> tf.Tensor:
        visit = positions // classes
        class_number = tf.raw_ops.RandomIndexShuffle(
            index=positions % classes,
            seed=hash_words(seed, visit, words=3),
            max_index=tf.constant(classes - 1, tf.int64),
            rounds=ROUNDS,
        )
        size = tf.gather(sizes, class_number)
        # A seed of its own for each pass of each class; negative, so that it differs from the seed of every visit.
        within = tf.raw_ops.RandomIndexShuffle(
            index=visit % size,
            seed=hash_words(seed, -1 - (visit // size * classes + class_number), words=3),
            max_index=size - 1,
            rounds=ROUNDS,
        )
        return tf.gather(by_class, tf.gather(firsts, class_number) + within)

    return rows


@dataclasses.dataclass(frozen=True)
class ReplicaShard:
    """The part of each global batch that one worker's input pipeline reads.

    Element e of its data set is the batch of one replica: of step e // local_replicas, for replica
    first_replica + e % local_replicas.

    Attributes:
      global_batch_size: images per step over all replicas.
      replicas: number of replicas over all workers.
      first_replica: the first replica of this worker.
      local_replicas: number of replicas of this worker.
    """

    global_batch_size: int
    replicas: int = 1
    first_replica: int = 0
    local_replicas: int = 1

    @property
    def batch_size(self) -> int:
        """Images per step of one replica."""
        return self.global_batch_size // self.replicas

    def step(self, element: tf.Tensor) -> tf.Tensor:
        return element // self.local_replicas

    def batch_indices(self, element: tf.Tensor) -> tf.Tensor:
        """Indices (int64 [batch_size]) of the element's images in the global batch."""
        replica = self.first_replica + element % self.local_replicas
        return replica * self.batch_size + tf.range(self.batch_size, dtype=tf.int64)

    def positions(self, element: tf.Tensor) -> tf.Tensor:
        """Positions (int64 [batch_size]) of the element's images in the endless sequence."""
        return self.step(element) * self.global_batch_size + self.batch_indices(element)


def uniforms(seed: int, element: tf.Tensor, replica_shard: ReplicaShard, columns: int) -> tf.Tensor:
    """Uniform random numbers in [0, 1), float32 [batch_size, columns], one row per image of the element.

    They are drawn for the whole global batch and then sliced, so that a step's images get the same numbers on one
    replica as on eight. Use a different seed for each purpose.
    """
    # `permutation` uses the other two of the four words: a graph then holds the hash only once.
    key = hash_words(seed, replica_shard.step(element), words=4)[:2]
    whole = tf.random.stateless_uniform([replica_shard.global_batch_size, columns], key)
    return tf.gather(whole, replica_shard.batch_indices(element))


def permutation(seed: int, element: tf.Tensor, replica_shard: ReplicaShard, cells: int) -> tf.Tensor:
    """The numbers 0 to `cells` - 1 in a random order, int32 [cells], drawn per step and equal on all replicas."""
    keys = tf.random.stateless_uniform([cells], hash_words(seed, replica_shard.step(element), words=4)[2:])
    return tf.argsort(keys, stable=True)


def cell_starts(element: tf.Tensor, replica_shard: ReplicaShard, cells: int) -> tf.Tensor:
    """The element's first image of each cell, int32 [cells + 1]; the cells are equal parts of the global batch.

    Image i of the element belongs to cell c if starts[c] <= i < starts[c + 1].
    """
    bounds = tf.constant([-(-cell * replica_shard.global_batch_size // cells) for cell in range(cells + 1)], tf.int64)
    return tf.cast(
        tf.clip_by_value(bounds - replica_shard.batch_indices(element)[0], 0, replica_shard.batch_size), tf.int32
    )


def cells(element: tf.Tensor, replica_shard: ReplicaShard, count: int) -> tf.Tensor:
    """The cell of each of the element's images, int32 [batch_size]; see `cell_starts`."""
    return tf.cast(replica_shard.batch_indices(element) * count // replica_shard.global_batch_size, tf.int32)
