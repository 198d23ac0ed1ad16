"""How each global batch is divided among replicas and workers.

replica_shard = ReplicaShard(global_batch_size=256, replicas=8, first_replica=4, local_replicas=4)    # of worker 1
positions = replica_shard.positions(batch_number)
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class ReplicaShard:
    """The part of each global batch that one worker's input pipeline reads.

        shard = evenkeel.ReplicaShard(128)    # the whole batch, for one device

    Batch n of the worker is for one replica, first_replica + n % local_replicas, in step n // local_replicas.

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

    def step(self, batch_number: tf.Tensor) -> tf.Tensor:
        return batch_number // self.local_replicas

    def batch_indices(self, batch_number: tf.Tensor) -> tf.Tensor:
        """Indices (int64 [batch_size]) of the batch's images in the global batch."""
        replica = self.first_replica + batch_number % self.local_replicas
        return replica * self.batch_size + tf.range(self.batch_size, dtype=tf.int64)

    def positions(self, batch_number: tf.Tensor) -> tf.Tensor:
        """Positions (int64 [batch_size]) of the batch's images in the endless sequence."""
        return self.step(batch_number) * self.global_batch_size + self.batch_indices(batch_number)
