"""numpy arrays and TensorFlow tensors that share memory, so that large data is not copied.

TensorFlow shares memory only if it starts at a multiple of 64 bytes; `aligned_span` finds such starts.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import tensorflow as tf

ALIGNMENT_BYTES = 64  # EIGEN_MAX_ALIGN_BYTES: TensorFlow aligns a tensor's memory to it


def allocate_bytes(size: int) -> np.ndarray:
    """Zeros, uint8 [size], at the start of a memory page and so aligned for TensorFlow."""
    return np.frombuffer(mmap.mmap(-1, max(1, size)), np.uint8)[:size]


def share_as_tensor(array: np.ndarray) -> tf.Tensor:
    """A tensor that shares the memory of `array`; tf.constant would copy it.

    TensorFlow assumes that a tensor does not change: do not write to `array` while an operation may read the tensor.
    """
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def aligned_span(offset: Any, length: Any) -> tuple[Any, Any, Any]:
    """The smallest aligned span around some bytes.

    A slice shares memory, without a copy, if both of its ends are multiples of `ALIGNMENT_BYTES`.

    Args:
      offset: int64 [...], the first byte.
      length: int64 [...], the number of bytes.

    Returns:
      begin: int64 [...], the first byte of the span.
      size: int64 [...], the bytes in the span.
      position: int64 [...], `offset` counted from the end of the span: negative.
    """
    begin, end = offset // ALIGNMENT_BYTES * ALIGNMENT_BYTES, -(-(offset + length) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return begin, end - begin, offset - end


def slice_string(memory: tf.Tensor, span: tf.Tensor) -> tf.Tensor:
    """The bytes of `memory` that `span` selects, as a string [].

    Args:
      memory: uint8 [n], n a multiple of `ALIGNMENT_BYTES`.
      span: int64 [4], the three numbers of `aligned_span` and the length of the string.
    """
    begin, size, position, length = tf.unstack(span, 4)
    # A serialized tensor ends with its content, so this is the cheapest way from uint8 memory to a string.
    return tf.strings.substr(tf.io.serialize_tensor(tf.slice(memory, [begin], [size])), position, length)
