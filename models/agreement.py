"""What the workers of a cluster have to agree on, so that none waits for what another one never does.

    with together(devices):                           # what the end of another one does to this one, in one line
        signals = summed(devices, [int(signalled)])   # every worker calls, and gets the same

One process is a cluster of one, and agrees with itself at no cost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import tensorflow as tf

from models import strategy
from models.failing import reason
from pipeline.config import UsageError

# What a worker sees of another one that has gone.
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


@contextlib.contextmanager
def together(devices: tf.distribute.Strategy) -> Iterator[None]:
    """Raises `UsageError` where another worker ends before training has begun: it has said why."""
    try:
        yield
    except LOST as error:
        if not strategy.of_several(devices):
            raise
        raise UsageError(f"another worker has ended ({reason(error)}): look at what it says.") from error


def summed(devices: tf.distribute.Strategy, values: Sequence[int]) -> list[int]:
    """The sums over all workers of what each of them gives, exact up to 2^24: float32, which any device adds up.

    A collective operation: every worker calls it, at the same place between its compiled calls.
    """
    if not strategy.of_several(devices):
        return list(values)
    local = devices.num_replicas_in_sync // strategy.workers(devices)
    own = tf.constant([float(value) for value in values])

    def of_replica(context: tf.distribute.ValueContext) -> tf.Tensor:
        return own if context.replica_id_in_sync_group % local == 0 else tf.zeros_like(own)

    total = devices.reduce("SUM", devices.experimental_distribute_values_from_function(of_replica), axis=None)
    return [round(value) for value in total.numpy().tolist()]
