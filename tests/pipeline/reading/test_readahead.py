"""Requested bytes are read ahead, in a graph and outside of one, and a process that requests them can still end."""

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
# The buffers are never full: their threads send requests until the process ends.
SCRIPT = """
import tensorflow as tf
from evenkeel.pipeline.reading import readahead

def request_row(row):
    readahead.request(0 * row[None], 0 * row[None])
    return row

def make_image(row):
    return tf.reduce_sum(tf.random.uniform([10_000]))

rows = tf.data.Dataset.range(10**9).map(request_row).prefetch(64)
images = rows.map(make_image, num_parallel_calls=2).batch(64).prefetch(10_000)
iterators = [iter(images) for _ in range(4)]
print([next(iterator).shape[0] for iterator in iterators])
"""


def map_cold_file(path: pathlib.Path, size: int) -> int:
    """Maps a new file; returns its address once none of its pages is in memory."""
    path.write_bytes(np.random.default_rng(0).bytes(size))
    address = int(memory_map.file_addresses((str(path),), (size,))[0])
    descriptor, deadline = os.open(path, os.O_RDONLY), time.monotonic() + 20
    try:
        while left := resident_pages(address, size):
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            if time.monotonic() > deadline:
                assert left == size // PAGE, "some pages stay in memory, and others do not"
                pytest.skip("this file system keeps its files in memory")
    finally:
        os.close(descriptor)
    return address


def resident_pages(address: int, length: int) -> int:
    """Number of pages that are in memory (mincore(2))."""
    pages = (ctypes.c_ubyte * -(-length // PAGE))()
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    assert mincore(address, length, pages) == 0, ctypes.get_errno()
    return sum(page & 1 for page in pages)


def wait_until_resident(address: int, pages: int) -> None:
    deadline = time.monotonic() + 20
    while resident_pages(address, pages * PAGE) < pages:
        assert time.monotonic() < deadline, "requested pages were not read"


def test_only_requested_bytes_are_read_ahead(tmp_path: pathlib.Path) -> None:
    size = 4096 * PAGE
    address = map_cold_file(tmp_path / "shard", size)
    begin = tf.constant([address + 10 * PAGE + 5, address + 3000 * PAGE])
    readahead.request(begin, tf.constant([2 * PAGE, 1], tf.int64))
    wait_until_resident(address + 10 * PAGE, 3)
    wait_until_resident(address + 3000 * PAGE, 1)
    assert resident_pages(address, size) < 200  # the kernel may round up


def test_requests_work_inside_a_data_set(tmp_path: pathlib.Path) -> None:
    size = 4096 * PAGE
    address = map_cold_file(tmp_path / "shard", size)

    def request_page(page: tf.Tensor) -> tf.Tensor:
        readahead.request(address + PAGE * page[None], tf.constant([PAGE], tf.int64))
        return page

    assert list(tf.data.Dataset.range(100, 4000, 1000).map(request_page).as_numpy_iterator()) == [100, 1100, 2100, 3100]
    for page in (100, 1100, 2100, 3100):
        wait_until_resident(address + page * PAGE, 1)
    assert resident_pages(address, size) < 400


def test_a_full_queue_drops_requests_and_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set continues even if the thread serves no request."""
    monkeypatch.setattr(readahead, "_serve", lambda queue: None)
    readahead._queue.cache_clear()
    monkeypatch.setattr(readahead, "MAX_PENDING_REQUESTS", 10)

    def request_row(row: tf.Tensor) -> tf.Tensor:
        readahead.request(0 * row[None], 0 * row[None])
        return row

    assert sum(1 for _ in tf.data.Dataset.range(100).map(request_row)) == 100
    assert readahead._queue().size() == 10
    readahead._queue.cache_clear()


@pytest.mark.slow
def test_a_script_with_iterators_in_globals_ends() -> None:
    command = [sys.executable, "-c", SCRIPT]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)
    assert result.stdout == f"{[64] * 4}\n"
