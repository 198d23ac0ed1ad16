"""Random numbers for a batch, independent of the number of replicas."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.pipeline.index import batch_draws
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from tests.pipeline.index.orders import correlated_pairs, workers


@pytest.mark.parametrize(("count", "local"), [(1, 2), (2, 1), (2, 2), (3, 1), (1, 4)])
def test_uniforms_of_the_replicas_are_those_of_the_global_batch(count: int, local: int) -> None:
    batch, step = 12, 5
    whole = batch_draws.uniforms(7, tf.constant(step, tf.int64), ReplicaShard(batch), columns=3)
    parts = [
        batch_draws.uniforms(7, tf.constant(step * local + replica, tf.int64), replica_shard, columns=3)
        for replica_shard in workers(count, batch, local)
        for replica in range(local)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_uniforms_are_uniform_and_differ_by_step_seed_row_and_column() -> None:
    replica_shard = ReplicaShard(5000)
    drawn = [
        batch_draws.uniforms(seed, tf.constant(step, tf.int64), replica_shard, columns=2).numpy()
        for seed, step in ((0, 0), (0, 1), (1, 0))
    ]
    columns = np.concatenate(drawn, axis=1).T
    assert columns.dtype == np.float32
    assert columns.min() >= 0
    assert columns.max() < 1
    assert np.abs(columns.mean(axis=1) - 0.5).max() < 5 * np.sqrt(1 / 12 / 5000)
    assert np.abs(columns.var(axis=1) - 1 / 12).max() < 5 * np.sqrt(1 / 180 / 5000)
    assert correlated_pairs(columns.astype(float)) == []


@pytest.mark.parametrize("batch", [1, 4, 7, 9, 64])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_cells_are_equal_parts_of_the_global_batch_on_any_number_of_replicas(batch: int, count: int) -> None:
    whole = np.arange(batch) * count // batch
    sizes = np.bincount(whole, minlength=count)
    assert sizes.max() - sizes.min() <= 1
    for replicas in (r for r in (1, 2, 4) if batch % r == 0):
        replica_shard = ReplicaShard(batch, replicas, 0, replicas)
        found = [
            batch_draws.cells(tf.constant(replica, tf.int64), replica_shard, count).numpy()
            for replica in range(replicas)
        ]
        np.testing.assert_array_equal(np.concatenate(found), whole)
        for replica, mine in enumerate(found):
            starts = batch_draws.cell_starts(tf.constant(replica, tf.int64), replica_shard, count).numpy()
            assert (starts[0], starts[-1]) == (0, len(mine))
            np.testing.assert_array_equal(np.searchsorted(starts, np.arange(len(mine)), side="right") - 1, mine)


def test_a_permutation_is_equal_on_all_replicas_and_uniform_over_steps() -> None:
    replica_shard = ReplicaShard(8, 2, 0, 2)
    permutation = tf.function(lambda element: batch_draws.permutation(3, element, replica_shard, 5))
    drawn = np.stack([permutation(tf.constant(element, tf.int64)).numpy() for element in range(1200)])
    np.testing.assert_array_equal(drawn[::2], drawn[1::2])
    np.testing.assert_array_equal(np.sort(drawn, axis=1), np.tile(np.arange(5), (1200, 1)))
    counts = np.stack([np.bincount(column, minlength=5) for column in drawn[::2].T])
    assert np.sum((counts - 120) ** 2 / 120) < 60  # chi squared with 16 degrees of freedom: p = 1e-6
