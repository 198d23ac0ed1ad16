"""The one-line summary of an error."""

from __future__ import annotations

import errno
import os

import tensorflow as tf

from evenkeel.models.distribute.io_errors import WRITE_ERRORS, summarize_error


def test_the_summary_is_one_short_line_with_path_and_cause() -> None:
    error = tf.errors.ResourceExhaustedError(
        None,
        None,
        "{{function_node __wrapped__SaveV2}} /runs/" + 300 * "x" + "/part; No space left\n on device [Op:SaveV2]",
    )
    assert isinstance(error, WRITE_ERRORS)
    summary = summarize_error(error)
    assert len(summary) == 200
    assert summary.startswith("/runs/xxx")
    assert summary.endswith("/part; No space left on device")
    short = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert summarize_error(short) == "[Errno 28] No space left on device"
