"""The memory budget out of the kernel's files; arrays and tensors that share bytes."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.system import memory

MEMINFO = "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    8000 kB\n"


def test_free_is_the_kernels_estimate_or_what_a_containers_limit_leaves(tmp_path: pathlib.Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(MEMINFO)
    free = lambda: memory.free(meminfo, tmp_path)  # noqa: E731
    assert free() == 8000 << 10
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1024\n")
    assert free() == 8000 << 10
    (tmp_path / "memory.max").write_text("5120\n")
    assert free() == 4096
    (tmp_path / "memory.max").write_text("512\n")
    assert free() == 0


def test_the_budget_is_what_is_given_or_half_of_what_is_free() -> None:
    assert memory.budget(3) == 3 << 20
    assert 0 < memory.budget(0) < memory.free()


def test_what_does_not_fit_is_refused_with_both_numbers() -> None:
    memory.refuse_beyond(5 << 20, 5 << 20, "7 images")
    with pytest.raises(UsageError, match=r"7 images take 6 MiB, and the budget is 5 MiB: raise data\.cache_budget_mb"):
        memory.refuse_beyond(6 << 20, 5 << 20, "7 images")


def test_a_tensor_shares_the_arrays_memory() -> None:
    array = memory.empty(5000)
    array[:] = np.arange(5000) % 251
    tensor = memory.tensor_over(array)
    array[7] = 255
    np.testing.assert_array_equal(tensor, array)
    assert tensor[7] == 255


def test_any_bytes_of_memory_as_text() -> None:
    array = memory.empty(3 * memory.ALIGNED)
    array[:] = np.arange(len(array))
    tensor = memory.tensor_over(array)
    for at in range(len(array)):
        for length in (0, 1, 63, 64, 65, len(array)):
            if at + length <= len(array):
                found = memory.text(tensor, tf.constant([*memory.around(at, length), length], tf.int64))
                assert found.numpy() == array[at : at + length].tobytes(), (at, length)


@pytest.mark.parametrize(("at", "length"), [(0, 1), (63, 2), (64, 64), (70, 100), (191, 1)])
def test_what_is_sliced_around_bytes_is_no_copy(at: int, length: int) -> None:
    array = memory.empty(3 * memory.ALIGNED)
    begin, size, first = memory.around(at, length)
    assert begin <= at
    assert at + length <= begin + size <= len(array)
    assert begin + size + first == at
    sliced = tf.slice(memory.tensor_over(array), [begin], [size])
    array[at] = 77
    assert sliced[at - begin] == 77
