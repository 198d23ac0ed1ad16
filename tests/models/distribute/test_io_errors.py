"""What an error is said to be."""

from __future__ import annotations

import errno
import os

import tensorflow as tf

from evenkeel.models.distribute.io_errors import UNWRITTEN, reason


def test_the_cause_is_one_short_line_with_path_and_matter() -> None:
    error = tf.errors.ResourceExhaustedError(
        None,
        None,
        "{{function_node __wrapped__SaveV2}} /runs/" + 300 * "x" + "/part; No space left\n on device [Op:SaveV2]",
    )
    assert isinstance(error, UNWRITTEN)
    told = reason(error)
    assert len(told) == 200
    assert told.startswith("/runs/xxx")
    assert told.endswith("/part; No space left on device")
    short = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert reason(short) == "[Errno 28] No space left on device"
