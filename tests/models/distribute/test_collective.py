"""Collective operations in one process, and reasons in TensorFlow's messages; `test_multiworker` runs clusters."""

from __future__ import annotations

import pytest
import tensorflow as tf

from evenkeel.models.distribute import collective
from evenkeel.pipeline.errors import UsageError

# Messages of TensorFlow 2.21 in a worker that survives.
CONNECTION_RESET = (
    "Graph execution error:\n\nDetected at node while/CollectiveReduceV2 defined at (most recent call last):\n"
    "Collective ops is aborted by: recvmsg:Connection reset by peer\nAdditional GRPC error information from remote"
    " target /job:worker/replica:0/task:0:\n:UNKNOWN The error could be from a previous operation. Restart."
)
UNHEALTHY = (
    "{{function_node __wrapped__CollectiveBcastSend_device_/job:worker}} Collective ops is aborted by: The following"
    " tasks are unhealthy (stopped sending heartbeats):\n/job:worker/replica:0/task:1\nThe error could be from a"
    " previous operation. Restart your program to reset. [Op:CollectiveBcastSend]"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CONNECTION_RESET, "recvmsg:Connection reset by peer"),
        (UNHEALTHY, "The following tasks are unhealthy (stopped sending heartbeats): /job:worker/replica:0/task:1"),
        ("Socket closed", "Socket closed"),
    ],
)
def test_the_abort_reason_is_extracted_from_the_message(text: str, expected: str) -> None:
    assert collective.abort_reason(tf.errors.UnavailableError(None, None, text)) == expected


def test_collective_operations_work_in_one_process() -> None:
    devices = tf.distribute.get_strategy()
    assert collective.all_reduce_sum(devices, [3, 5]) == [3, 5]
    collective.check_equal(devices, [1, 200])
    with pytest.raises(UsageError, match="own message"), collective.all_or_none(devices):
        raise UsageError("own message")


def test_an_error_in_one_process_is_not_a_lost_worker() -> None:
    devices = tf.distribute.get_strategy()
    error = tf.errors.UnavailableError(None, None, "Socket closed")
    with pytest.raises(tf.errors.UnavailableError), collective.raise_on_worker_loss(devices):
        raise error
