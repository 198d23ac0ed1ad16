"""Errors of reading and writing files: full or vanished disks, and a one-line summary of the cause."""

from __future__ import annotations

import re

import tensorflow as tf

WRITE_ERRORS = (OSError, tf.errors.OpError)
MAX_SUMMARY_CHARACTERS = 200


def summarize_error(error: BaseException | str) -> str:
    """Returns the cause in one line of at most 200 characters, without TensorFlow's node and op names.

    A longer text loses its middle: TensorFlow puts the path first and the cause last.
    """
    text = " ".join(re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error)).split())
    return text if len(text) <= MAX_SUMMARY_CHARACTERS else f"{text[:95]} ... {text[-100:]}"
