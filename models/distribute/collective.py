"""Collective operations for the workers of a cluster: all of them raise, or none.

    with raise_on_worker_loss(devices):                  # TensorFlow's errors about a lost worker become WorkerLost
        with all_or_none(devices):                       # a UsageError on one worker stops all of them
            data = load_dataset(config.data)
        signals = all_reduce_sum(devices, [signalled])   # every worker calls this and gets the same sum

In a run of one process all of these functions return at once.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence

import tensorflow as tf

from evenkeel.models.distribute import strategy
from evenkeel.models.distribute.io_errors import summarize_error
from evenkeel.pipeline.errors import UsageError

# TensorFlow raises one of these classes when another worker is gone.
WORKER_LOSS_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
# If the lost worker restarted before this one noticed, the class varies, but the message holds one of these phrases.
WORKER_LOSS_PHRASES = (
    "Collective ops is aborted",
    "oordination service",
    "incarnation",
    "peer has restarted",
    "NCCL",
)


class WorkerLost(Exception):
    """Another worker of the cluster is gone; the message is one line."""


@contextlib.contextmanager
def raise_on_worker_loss(devices: tf.distribute.Strategy) -> Iterator[None]:
    """Turns TensorFlow's error about a lost worker into `WorkerLost`; other errors pass through."""
    try:
        yield
    except tf.errors.OpError as error:
        if not is_worker_loss(error, devices):
            raise
        raise WorkerLost(f"another worker is gone ({abort_reason(error)})") from error


def is_worker_loss(error: Exception, devices: tf.distribute.Strategy) -> bool:
    """Whether `error` was caused by the loss of another worker."""
    is_tensorflow_error = isinstance(error, tf.errors.OpError) and strategy.is_multi_worker(devices)
    return is_tensorflow_error and (
        isinstance(error, WORKER_LOSS_ERRORS) or any(phrase in str(error) for phrase in WORKER_LOSS_PHRASES)
    )


def abort_reason(error: Exception) -> str:
    """The reason inside TensorFlow's message, without the graph, the gRPC details and the advice around it."""
    match = re.search(r"aborted by: (.+?)(?=Additional GRPC|The error could|$)", " ".join(str(error).split()))
    return summarize_error(match[1].strip() if match else error)


@contextlib.contextmanager
def all_or_none(devices: tf.distribute.Strategy) -> Iterator[None]:
    """Raises `UsageError` on every worker if the block raises one on any of them.

    The block must not contain a collective operation: a worker that failed would never join it.
    """
    own_error = None
    try:
        yield
    except UsageError as error:
        own_error = error
    (failed,) = all_reduce_sum(devices, [int(own_error is not None)])
    if own_error:
        raise own_error
    if failed:
        raise UsageError(
            f"{failed} of {strategy.worker_count(devices)} workers cannot start: correct the errors in their output."
        )


def check_equal(devices: tf.distribute.Strategy, numbers: Sequence[int]) -> None:
    """Raises `UsageError` on every worker if the workers pass different `numbers` (0 to 255)."""
    count = strategy.worker_count(devices)
    totals = all_reduce_sum(devices, [*numbers, *(number**2 for number in numbers)])
    # The sum and the sum of squares are both `count` times this worker's value only if all values are equal.
    if totals != [count * number for number in numbers] + [count * number**2 for number in numbers]:
        raise UsageError(
            "the workers were started with different flags (--resume is one of them): start all with the same flags."
        )


def all_reduce_sum(devices: tf.distribute.Strategy, values: Sequence[int]) -> list[int]:
    """Returns the sums of `values` over all workers, the same on each worker; exact up to 2^24.

    The sums are computed in float32, which works on any device. This is a collective operation: every worker must call
    it at the same place between its compiled calls.
    """
    if not strategy.is_multi_worker(devices):
        return list(values)
    local_replicas = devices.num_replicas_in_sync // strategy.worker_count(devices)
    own = tf.constant([float(value) for value in values])

    def replica_value(context: tf.distribute.ValueContext) -> tf.Tensor:
        return own if context.replica_id_in_sync_group % local_replicas == 0 else tf.zeros_like(own)

    total = devices.reduce("SUM", devices.experimental_distribute_values_from_function(replica_value), axis=None)
    return [round(value) for value in total.numpy().tolist()]
