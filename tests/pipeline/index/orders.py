"""Replica shards, and a test for correlation."""

from __future__ import annotations

import itertools

import numpy as np

from evenkeel.pipeline.index.replica_shard import ReplicaShard


def workers(count: int, batch: int, local: int = 1) -> list[ReplicaShard]:
    return [ReplicaShard(batch, count * local, worker * local, local) for worker in range(count)]


def correlated_pairs(orders: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of orders that correlate by more than 5 / sqrt(n): noise does so once in 1.7 million pairs."""
    limit = 5 / np.sqrt(orders.shape[1])
    table = np.corrcoef(orders)
    return [(a, b) for a, b in itertools.combinations(range(len(orders)), 2) if abs(table[a, b]) > limit]
