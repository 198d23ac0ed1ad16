"""What the workers of a cluster have to agree on, so that none waits for what another one never does.

    with together(devices):                           # the end of another worker is told in one line
        with agreed(devices):                         # where one refuses, all do
            data = open_data(config.data)
        signals = summed(devices, [int(signalled)])   # every worker calls, and gets the same

One process is a cluster of one, and agrees with itself at no cost.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

import tensorflow as tf

from evenkeel.models.distribute import strategy
from evenkeel.models.distribute.io_errors import reason
from evenkeel.pipeline.errors import UsageError

# What TensorFlow raises where another worker has gone; where it has come again before this one noticed, by its words.
GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
TOLD = ("Collective ops is aborted", "oordination service", "incarnation", "peer has restarted", "NCCL")


class WorkerLost(Exception):
    """Another worker has gone; one line."""


def lost(error: Exception, devices: tf.distribute.Strategy) -> bool:
    """Whether `error` comes of another worker's end."""
    of_tensorflow = isinstance(error, tf.errors.OpError) and strategy.of_several(devices)
    return of_tensorflow and (isinstance(error, GONE) or any(words in str(error) for words in TOLD))


@contextlib.contextmanager
def together(devices: tf.distribute.Strategy) -> Iterator[None]:
    """Raises `WorkerLost` where another worker ends."""
    try:
        yield
    except tf.errors.OpError as error:
        if not lost(error, devices):
            raise
        raise WorkerLost(f"another worker is gone ({told(error)})") from error


def told(error: Exception) -> str:
    """What TensorFlow says of it, without the graph, the remote procedure and the advice around it."""
    found = re.search(r"aborted by: (.+?)(?=Additional GRPC|The error could|$)", " ".join(str(error).split()))
    return reason(found[1].strip() if found else error)


@contextlib.contextmanager
def agreed(devices: tf.distribute.Strategy) -> Iterator[None]:
    """Where a worker raises a `UsageError` inside, all of them do. No collective operation may be inside."""
    refusal = None
    try:
        yield
    except UsageError as error:
        refusal = error
    (refusing,) = summed(devices, [int(refusal is not None)])
    if refusal:
        raise refusal
    if refusing:
        raise UsageError(f"{refusing} of {strategy.workers(devices)} workers cannot start: look at what they say.")


def check_alike(devices: tf.distribute.Strategy, numbers: Sequence[int]) -> None:
    """Raises `UsageError`, on every worker, where `numbers` (0 to 255) are not the same on all of them."""
    count = strategy.workers(devices)
    totals = summed(devices, [*numbers, *(number**2 for number in numbers)])
    # Both sums are `count` times one's own only where nobody differs.
    if totals != [count * number for number in numbers] + [count * number**2 for number in numbers]:
        raise UsageError("the workers were started with different flags (--resume is one of them): give all the same.")


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
