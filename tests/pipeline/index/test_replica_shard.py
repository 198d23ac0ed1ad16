"""Global batches divided among workers without loss."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.pipeline.index import shuffle
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from tests.pipeline.index.orders import workers


def elements(replica_shard: ReplicaShard, steps: int) -> tf.Tensor:
    return tf.range(steps * replica_shard.local_replicas, dtype=tf.int64)


@settings(max_examples=30)
@given(
    count=st.integers(1, 5), local=st.integers(1, 4), per_replica=st.integers(1, 6), element_step=st.integers(0, 2**40)
)
def test_the_shards_of_all_workers_make_up_the_global_batch(
    count: int, local: int, per_replica: int, element_step: int
) -> None:
    batch = count * local * per_replica
    parts = [
        replica_shard.positions(tf.constant(element_step * local + replica, tf.int64)).numpy()
        for replica_shard in workers(count, batch, local)
        for replica in range(local)
    ]
    assert {len(part) for part in parts} == {per_replica}
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(element_step * batch, (element_step + 1) * batch))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("size", [48, 50, 7])
def test_every_row_is_read_once_per_epoch_over_all_workers(count: int, size: int) -> None:
    seen: list[tuple[int, int]] = []
    for replica_shard in workers(count, 12):
        positions = tf.concat(
            [replica_shard.positions(element) for element in elements(replica_shard, steps=3 * size // 12 + 1)], 0
        )
        seen += zip(positions.numpy().tolist(), shuffle.shuffled_rows(positions, size, 0).numpy().tolist(), strict=True)
    for epoch in range(3):
        rows = [row for position, row in seen if position // size == epoch]
        assert sorted(rows) == list(range(size))
