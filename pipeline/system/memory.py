"""Memory for decoded images: how much there may be, and arrays that TensorFlow uses without a copy."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.errors import UsageError

SHARE = 0.5  # of what is free: the model, tf.data's buffers and others want some too
ALIGNED = 64  # bytes: EIGEN_MAX_ALIGN_BYTES, what TensorFlow aligns a tensor's memory to
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def budget(megabytes: int) -> int:
    """Bytes that images may take: `megabytes` MiB, or where that is 0 half of what is free now."""
    return megabytes << 20 if megabytes else int(SHARE * free())


def free(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int:
    """Bytes that can still be allocated: the kernel's estimate, or what a container's limit leaves if that is less."""
    fields = (line.split() for line in meminfo.read_text().splitlines())
    found = [1024 * next(int(field[1]) for field in fields if field[0] == "MemAvailable:")]
    limit, used = cgroup / "memory.max", cgroup / "memory.current"
    if limit.is_file() and limit.read_text().strip() != "max":
        found.append(int(limit.read_text()) - int(used.read_text()))
    return max(0, min(found))


def refuse_beyond(needed: int, allowed: int, what: str) -> None:
    """Raises `UsageError` with both numbers where `what` does not fit."""
    if needed > allowed:
        raise UsageError(
            f"data.cache=memory: {what} take {needed >> 20} MiB, and the budget is {allowed >> 20} MiB: raise"
            " data.cache_budget_mb (its default is half of what is free), or use data.cache=none."
        )


def empty(size: int) -> np.ndarray:
    """uint8 [size], from the start of a page: TensorFlow wants its tensors aligned."""
    return np.frombuffer(mmap.mmap(-1, max(1, size)), np.uint8)[:size]


def tensor_over(array: np.ndarray) -> tf.Tensor:
    """A tensor that shares the memory of `array`, where tf.constant would copy it; do not write to it any more."""
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def around(at: Any, length: Any) -> tuple[Any, Any, Any]:
    """Where a slice around `length` bytes from `at` on (both int64 [...]) begins, how long it is, and where in it these
    bytes begin, from its end: a slice that begins and ends at multiples of `ALIGNED` is no copy."""
    begin, end = at // ALIGNED * ALIGNED, -(-(at + length) // ALIGNED) * ALIGNED
    return begin, end - begin, at - end


def text(memory: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
    """Bytes of `memory` (uint8 [n], n a multiple of `ALIGNED`) as a string []; `place` is int64 [4], what `around` says
    of them, and how many they are."""
    begin, size, first, length = tf.unstack(place, 4)
    # A serialized tensor ends with its content: the cheapest way from uint8 memory to a string.
    return tf.strings.substr(tf.io.serialize_tensor(tf.slice(memory, [begin], [size])), first, length)
