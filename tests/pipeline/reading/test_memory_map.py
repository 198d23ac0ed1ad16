"""Mapped shards: the files' own bytes, sizes checked, and no memory of our own."""

from __future__ import annotations

import mmap
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.reading import memory_map

PAGE = mmap.PAGESIZE
pytestmark = pytest.mark.skipif(not memory_map.available, reason="shards are mapped on Linux only")


def write(directory: pathlib.Path, *sizes: int) -> tuple[list[bytes], tuple[str, ...]]:
    """Files of random bytes: their contents and their paths."""
    contents = [np.random.default_rng(number).bytes(size) for number, size in enumerate(sizes)]
    paths = [directory / f"shard-{number}" for number in range(len(sizes))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return contents, tuple(map(str, paths))


def anonymous() -> int:
    """Bytes of this process's anonymous memory."""
    found = re.search(r"RssAnon:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


@pytest.mark.parametrize(
    "sizes",
    [(1,), (PAGE,), (PAGE - 1, PAGE + 1), (5, 0, 3 * PAGE, 17), (0, 9), (9, 0), (300_000, 2 * PAGE, 1)],
    ids=str,
)
def test_mapped_bytes_are_those_of_the_files(tmp_path: pathlib.Path, sizes: tuple[int, ...]) -> None:
    contents, paths = write(tmp_path, *sizes)
    memory, starts = memory_map.flat_memory(paths, sizes)
    assert memory.dtype == tf.uint8
    assert memory.shape[0] == sum(-(-size // PAGE) * PAGE for size in sizes)
    assert starts.dtype == np.int64
    for content, start in zip(contents, starts, strict=True):
        assert memory[start : start + len(content)].numpy().tobytes() == content


def test_behind_the_end_of_a_file_lie_zeros(tmp_path: pathlib.Path) -> None:
    _, paths = write(tmp_path, 10, 10)
    memory, _ = memory_map.flat_memory(paths, (10, 10))
    assert not memory.numpy()[10:PAGE].any()


def test_slices_inside_tf_data_are_the_files_bytes(tmp_path: pathlib.Path) -> None:
    contents, paths = write(tmp_path, 1000, 5000)
    memory, starts = memory_map.flat_memory(paths, (1000, 5000))
    places = [(0, 0, 1000), (1, 0, 1), (1, 4999, 1), (0, 500, 0), (1, 123, 4321)]
    ds = tf.data.Dataset.from_tensor_slices([(starts[shard] + offset, length) for shard, offset, length in places])
    slices = ds.map(lambda place: tf.slice(memory, place[:1], place[1:]), num_parallel_calls=2)
    for (shard, offset, length), found in zip(places, slices.as_numpy_iterator(), strict=True):
        assert found.tobytes() == contents[shard][offset : offset + length]


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_size_than_indexed_is_named(tmp_path: pathlib.Path, change: int) -> None:
    _, paths = write(tmp_path, 1000, 1000)
    pathlib.Path(paths[1]).write_bytes(b"x" * (1000 + change))
    with pytest.raises(UsageError, match=f"{paths[1]} holds {1000 + change} bytes, its index says 1000"):
        memory_map.flat_memory(paths, (1000, 1000))


def test_anonymous_memory_does_not_grow_with_what_is_mapped_and_read(tmp_path: pathlib.Path) -> None:
    size, path = 512 << 20, tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size - 5)
        file.write(b"hello")
    before = anonymous()
    memory, _ = memory_map.flat_memory((str(path),), (size,))
    for start in range(0, size // 2, 1 << 20):
        assert tf.math.count_nonzero(memory[start : start + (1 << 20)]) == 0
    assert memory[-5:].numpy().tobytes() == b"hello"
    assert anonymous() - before < 64 << 20
