"""Memory-mapped shards: they hold the bytes of the files, sizes are checked, and anonymous memory does not grow."""

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


def write_files(directory: pathlib.Path, *sizes: int) -> tuple[list[bytes], tuple[str, ...]]:
    """Writes files of random bytes; returns their contents and paths."""
    contents = [np.random.default_rng(number).bytes(size) for number, size in enumerate(sizes)]
    paths = [directory / f"shard-{number}" for number in range(len(sizes))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return contents, tuple(map(str, paths))


def anonymous_bytes() -> int:
    """Anonymous memory of this process, in bytes."""
    match = re.search(r"RssAnon:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) << 10


@pytest.mark.parametrize(
    "sizes",
    [(1,), (PAGE,), (PAGE - 1, PAGE + 1), (5, 0, 3 * PAGE, 17), (0, 9), (9, 0), (300_000, 2 * PAGE, 1)],
    ids=str,
)
def test_mapped_memory_holds_the_bytes_of_the_files(tmp_path: pathlib.Path, sizes: tuple[int, ...]) -> None:
    contents, paths = write_files(tmp_path, *sizes)
    memory, starts = memory_map.map_files(paths, sizes)
    assert memory.dtype == tf.uint8
    assert memory.shape[0] == sum(-(-size // PAGE) * PAGE for size in sizes)
    assert starts.dtype == np.int64
    for content, start in zip(contents, starts, strict=True):
        assert memory[start : start + len(content)].numpy().tobytes() == content


def test_zeros_follow_the_end_of_a_file(tmp_path: pathlib.Path) -> None:
    _, paths = write_files(tmp_path, 10, 10)
    memory, _ = memory_map.map_files(paths, (10, 10))
    assert not memory.numpy()[10:PAGE].any()


def test_slices_inside_tf_data_are_the_bytes_of_the_files(tmp_path: pathlib.Path) -> None:
    contents, paths = write_files(tmp_path, 1000, 5000)
    memory, starts = memory_map.map_files(paths, (1000, 5000))
    spans = [(0, 0, 1000), (1, 0, 1), (1, 4999, 1), (0, 500, 0), (1, 123, 4321)]
    ds = tf.data.Dataset.from_tensor_slices([(starts[shard] + offset, length) for shard, offset, length in spans])
    slices = ds.map(lambda span: tf.slice(memory, span[:1], span[1:]), num_parallel_calls=2)
    for (shard, offset, length), slice_ in zip(spans, slices.as_numpy_iterator(), strict=True):
        assert slice_.tobytes() == contents[shard][offset : offset + length]


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_whose_size_differs_from_the_index_is_named(tmp_path: pathlib.Path, change: int) -> None:
    _, paths = write_files(tmp_path, 1000, 1000)
    pathlib.Path(paths[1]).write_bytes(b"x" * (1000 + change))
    with pytest.raises(UsageError, match=f"{paths[1]} has {1000 + change} bytes, but its index says 1000"):
        memory_map.map_files(paths, (1000, 1000))


@pytest.mark.slow
def test_mapping_and_reading_does_not_grow_anonymous_memory(tmp_path: pathlib.Path) -> None:
    size, path = 512 << 20, tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size - 5)
        file.write(b"hello")
    before = anonymous_bytes()
    memory, _ = memory_map.map_files((str(path),), (size,))
    for start in range(0, size // 2, 1 << 20):
        assert tf.math.count_nonzero(memory[start : start + (1 << 20)]) == 0
    assert memory[-5:].numpy().tobytes() == b"hello"
    assert anonymous_bytes() - before < 64 << 20
