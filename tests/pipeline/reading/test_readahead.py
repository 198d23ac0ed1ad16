"""What is announced is read ahead, in a graph and outside of one; and whoever announces can still end."""

from __future__ import annotations

import ctypes
import mmap
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.pipeline.reading import memory_map, readahead

ROOT = pathlib.Path(__file__).parents[3]
PAGE = mmap.PAGESIZE
pytestmark = pytest.mark.skipif(not memory_map.available, reason="shards are mapped on Linux only")
# Buffers that are never full: their threads announce until the very end.
SCRIPT = """
import tensorflow as tf
from pipeline import readahead

def announced(row):
    readahead.announce(0 * row[None], 0 * row[None])
    return row

def made(row):
    return tf.reduce_sum(tf.random.uniform([10_000]))

rows = tf.data.Dataset.range(10**9).map(announced).prefetch(64)
images = rows.map(made, num_parallel_calls=2).batch(64).prefetch(10_000)
batches = [iter(images) for _ in range(4)]
print([next(each).shape[0] for each in batches])
"""


def cold(path: pathlib.Path, size: int) -> int:
    """The address of a file that is mapped, and of which no page is in memory."""
    path.write_bytes(np.random.default_rng(0).bytes(size))
    address = int(memory_map.addresses((str(path),), (size,))[0])
    descriptor, deadline = os.open(path, os.O_RDONLY), time.monotonic() + 20
    try:
        while left := resident(address, size):
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if time.monotonic() > deadline:
                assert left == size // PAGE, "some pages stay in memory, and others do not"
                pytest.skip("this file system keeps its files in memory")
    finally:
        os.close(descriptor)
    return address


def resident(address: int, length: int) -> int:
    """Pages that are in memory (mincore(2))."""
    pages = (ctypes.c_ubyte * -(-length // PAGE))()
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    assert mincore(address, length, pages) == 0, ctypes.get_errno()
    return sum(page & 1 for page in pages)


def comes_into_memory(address: int, pages: int) -> None:
    deadline = time.monotonic() + 20
    while resident(address, pages * PAGE) < pages:
        assert time.monotonic() < deadline, "announced pages were not read"


def test_what_is_announced_is_read_ahead_and_nothing_else(tmp_path: pathlib.Path) -> None:
    size = 4096 * PAGE
    address = cold(tmp_path / "shard", size)
    begin = tf.constant([address + 10 * PAGE + 5, address + 3000 * PAGE])
    readahead.announce(begin, tf.constant([2 * PAGE, 1], tf.int64))
    comes_into_memory(address + 10 * PAGE, 3)
    comes_into_memory(address + 3000 * PAGE, 1)
    assert resident(address, size) < 200  # the kernel may round up


def test_a_data_set_announces_what_it_passes_on(tmp_path: pathlib.Path) -> None:
    size = 4096 * PAGE
    address = cold(tmp_path / "shard", size)

    def announced(page: tf.Tensor) -> tf.Tensor:
        readahead.announce(address + PAGE * page[None], tf.constant([PAGE], tf.int64))
        return page

    assert list(tf.data.Dataset.range(100, 4000, 1000).map(announced).as_numpy_iterator()) == [100, 1100, 2100, 3100]
    for page in (100, 1100, 2100, 3100):
        comes_into_memory(address + page * PAGE, 1)
    assert resident(address, size) < 400


def test_who_is_too_far_behind_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a thread that does nothing, a data set goes on."""
    monkeypatch.setattr(readahead, "_advise", lambda queue: None)
    readahead._queue.cache_clear()
    monkeypatch.setattr(readahead, "PENDING", 10)

    def announced(row: tf.Tensor) -> tf.Tensor:
        readahead.announce(0 * row[None], 0 * row[None])
        return row

    assert sum(1 for _ in tf.data.Dataset.range(100).map(announced)) == 100
    assert readahead._queue().size() == 10
    readahead._queue.cache_clear()


def test_a_script_that_holds_iterators_in_globals_ends() -> None:
    line = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == f"{[64] * 4}\n"
