"""Arrays and tensors that share memory, and slices of them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.pipeline.system import tensor_memory


def test_a_tensor_shares_the_memory_of_its_array() -> None:
    array = tensor_memory.allocate_bytes(5000)
    array[:] = np.arange(5000) % 251
    tensor = tensor_memory.share_as_tensor(array)
    array[7] = 255
    np.testing.assert_array_equal(tensor, array)
    assert tensor[7] == 255


def test_any_bytes_can_be_sliced_as_a_string() -> None:
    array = tensor_memory.allocate_bytes(3 * tensor_memory.ALIGNMENT_BYTES)
    array[:] = np.arange(len(array))
    tensor = tensor_memory.share_as_tensor(array)
    for offset in range(len(array)):
        for length in (0, 1, 63, 64, 65, len(array)):
            if offset + length <= len(array):
                span = tf.constant([*tensor_memory.aligned_span(offset, length), length], tf.int64)
                text = tensor_memory.slice_string(tensor, span)
                assert text.numpy() == array[offset : offset + length].tobytes(), (offset, length)


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (63, 2), (64, 64), (70, 100), (191, 1)])
def test_a_slice_of_an_aligned_span_is_no_copy(offset: int, length: int) -> None:
    array = tensor_memory.allocate_bytes(3 * tensor_memory.ALIGNMENT_BYTES)
    begin, size, position = tensor_memory.aligned_span(offset, length)
    assert begin <= offset
    assert offset + length <= begin + size <= len(array)
    assert begin + size + position == offset
    span = tf.slice(tensor_memory.share_as_tensor(array), [begin], [size])
    array[offset] = 77
    assert span[offset - begin] == 77
