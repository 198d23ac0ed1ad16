"""What is said of a worker that has gone, and that one process agrees with itself; `test_multiworker` has real ones."""

from __future__ import annotations

import pytest
import tensorflow as tf

from evenkeel.models.distribute import collective
from evenkeel.pipeline.errors import UsageError

# As TensorFlow 2.21 words it in a survivor.
GRAPH = (
    "Graph execution error:\n\nDetected at node while/CollectiveReduceV2 defined at (most recent call last):\n"
    "Collective ops is aborted by: recvmsg:Connection reset by peer\nAdditional GRPC error information from remote"
    " target /job:worker/replica:0/task:0:\n:UNKNOWN The error could be from a previous operation. Restart."
)
SICK = (
    "{{function_node __wrapped__CollectiveBcastSend_device_/job:worker}} Collective ops is aborted by: The following"
    " tasks are unhealthy (stopped sending heartbeats):\n/job:worker/replica:0/task:1\nThe error could be from a"
    " previous operation. Restart your program to reset. [Op:CollectiveBcastSend]"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GRAPH, "recvmsg:Connection reset by peer"),
        (SICK, "The following tasks are unhealthy (stopped sending heartbeats): /job:worker/replica:0/task:1"),
        ("Socket closed", "Socket closed"),
    ],
)
def test_the_reason_is_taken_out_of_what_surrounds_it(text: str, expected: str) -> None:
    assert collective.told(tf.errors.UnavailableError(None, None, text)) == expected


def test_one_process_agrees_with_itself() -> None:
    devices = tf.distribute.get_strategy()
    assert collective.summed(devices, [3, 5]) == [3, 5]
    collective.check_alike(devices, [1, 200])
    with pytest.raises(UsageError, match="own words"), collective.agreed(devices):
        raise UsageError("own words")


def test_an_error_on_one_process_is_no_lost_worker() -> None:
    devices = tf.distribute.get_strategy()
    error = tf.errors.UnavailableError(None, None, "Socket closed")
    with pytest.raises(tf.errors.UnavailableError), collective.together(devices):
        raise error
