"""Random numbers for a batch, which do not depend on how the batch is divided among replicas.

draws = uniforms(seed, batch_number, replica_shard, columns=3)    # one row per image
"""

from __future__ import annotations

import tensorflow as tf

from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.index.shuffle import hash_words


def uniforms(seed: int, batch_number: tf.Tensor, replica_shard: ReplicaShard, columns: int) -> tf.Tensor:
    """Uniform random numbers in [0, 1), float32 [batch_size, columns], one row per image of the batch.

    The numbers are drawn for the whole global batch and then sliced, so that a step's images get the same numbers on
    one replica as on eight. Use a different seed for each purpose.
    """
    # `permutation` uses the last two of the four words, so that a graph holds the hash only once.
    key = hash_words(seed, replica_shard.step(batch_number), words=4)[:2]
    whole = tf.random.stateless_uniform([replica_shard.global_batch_size, columns], key)
    return tf.gather(whole, replica_shard.batch_indices(batch_number))


def permutation(seed: int, batch_number: tf.Tensor, replica_shard: ReplicaShard, cells: int) -> tf.Tensor:
    """The numbers 0 to `cells` - 1 in a random order, int32 [cells], drawn per step and equal on all replicas."""
    keys = tf.random.stateless_uniform([cells], hash_words(seed, replica_shard.step(batch_number), words=4)[2:])
    return tf.argsort(keys, stable=True)


def cell_starts(batch_number: tf.Tensor, replica_shard: ReplicaShard, cells: int) -> tf.Tensor:
    """The position of the batch's first image in each cell, int32 [cells + 1]; cells are equal parts of a global batch.

    Image i of the batch belongs to cell c if starts[c] <= i < starts[c + 1].
    """
    bounds = tf.constant([-(-cell * replica_shard.global_batch_size // cells) for cell in range(cells + 1)], tf.int64)
    return tf.cast(
        tf.clip_by_value(bounds - replica_shard.batch_indices(batch_number)[0], 0, replica_shard.batch_size), tf.int32
    )


def cells(batch_number: tf.Tensor, replica_shard: ReplicaShard, count: int) -> tf.Tensor:
    """The cell of each of the batch's images, int32 [batch_size]; see `cell_starts`."""
    return tf.cast(replica_shard.batch_indices(batch_number) * count // replica_shard.global_batch_size, tf.int32)
