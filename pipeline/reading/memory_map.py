"""Shard files -> one flat uint8 tensor over mapped memory, without a copy.

    memory, starts = flat_memory(("a.tfrecord", "b.tfrecord"))
    first = memory[starts[1] + 12 : starts[1] + 20]    # bytes of b.tfrecord

All files lie in ONE reserved address range, so any number of shards is one tensor and an index row needs one offset.
Pages are the kernel's: anonymous memory does not grow. A graph that captures the tensor cannot be serialized.
Linux only; elsewhere `available` is False and the streaming reader serves.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.system.tensor_memory import share_as_tensor

available = sys.platform.startswith("linux")

# <sys/mman.h> on Linux; Python's mmap module cannot map at a chosen address.
PROT_NONE, PROT_READ = 0x0, 0x1
MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE = 0x02, 0x10, 0x20, 0x4000
MAP_FAILED = ctypes.c_void_p(-1).value


def _mmap(address: int | None, size: int, protection: int, flags: int, descriptor: int) -> int:
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    c = ctypes
    function.argtypes = [c.c_void_p, c.c_size_t, c.c_int, c.c_int, c.c_int, c.c_int64]
    got = function(address, size, protection, flags, descriptor, 0)
    if got == MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, f"mmap of {size} bytes: {os.strerror(code)}")
    return got


@functools.cache  # a mapping lives as long as the process: tensors over it may live anywhere
def flat_memory(paths: tuple[str, ...], sizes: tuple[int, ...]) -> tuple[tf.Tensor, np.ndarray]:
    """Maps the files `paths` read-only, one behind the other.

    Returns:
      memory: uint8 [total], each file rounded up to whole pages (zeros behind its end).
      starts: int64 [files], where each file begins in `memory`.

    Raises:
      UsageError: a file's size is not the one in `sizes` (reading behind a cut end would be a SIGBUS).
    """
    base, starts = _mapped(paths, sizes)
    total = int(starts[-1])
    return share_as_tensor(np.ctypeslib.as_array((ctypes.c_uint8 * total).from_address(base))), starts[:-1]


@functools.cache
def _mapped(paths: tuple[str, ...], sizes: tuple[int, ...]) -> tuple[int, np.ndarray]:
    """The address of the mapping, and where in it each file begins and the last one ends."""
    for path, size in zip(paths, sizes, strict=True):
        found = os.path.getsize(path)
        if found != size:
            raise UsageError(f"{path} holds {found} bytes, its index says {size}: it changed while it was being read.")
    rooms = [-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for size in sizes]
    starts = np.concatenate([[0], np.cumsum(rooms)]).astype(np.int64)
    base = _mmap(None, int(starts[-1]), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1)
    for path, size, start in zip(paths, sizes, starts[:-1], strict=True):
        if size == 0:
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            _mmap(base + int(start), size, PROT_READ, MAP_PRIVATE | MAP_FIXED, descriptor)
        finally:
            os.close(descriptor)
    return base, starts


def addresses(paths: tuple[str, ...], sizes: tuple[int, ...]) -> np.ndarray:
    """int64 [files]: where in this process's address space each file of `flat_memory` begins."""
    base, starts = _mapped(paths, sizes)
    return base + starts[:-1]
