"""What can fail while a run is written, on a full or a vanished disk, and how it is said."""

from __future__ import annotations

import re

import tensorflow as tf

UNWRITTEN = (OSError, tf.errors.OpError)


def reason(error: BaseException | str) -> str:
    """The cause in one line of at most 200 characters, without what TensorFlow says of its own insides.

    Of a longer one the middle is left out: paths come first, and what is the matter last.
    """
    text = " ".join(re.sub(r"\{\{.*?\}\}|\[Op:.*", "", str(error)).split())
    return text if len(text) <= 200 else f"{text[:95]} ... {text[-100:]}"
