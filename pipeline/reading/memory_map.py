"""Memory-mapped shard files as one flat uint8 tensor, without a copy.

    memory, starts = map_files(("a.tfrecord", "b.tfrecord"), sizes)
    length_bytes = memory[starts[1] + 12 : starts[1] + 20]    # of b.tfrecord

All files lie in ONE reserved address range, so all shards together are one tensor, and one offset locates an image.
The pages belong to the kernel's page cache, so anonymous memory does not grow. A graph that captures the tensor cannot
be serialized. Linux only; elsewhere `available` is False and the shards are streamed.
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

# Constants of <sys/mman.h> on Linux. Python's mmap module cannot map at a given address.
PROT_NONE, PROT_READ = 0x0, 0x1
MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE = 0x02, 0x10, 0x20, 0x4000
MAP_FAILED = ctypes.c_void_p(-1).value


@functools.cache  # a mapping is never released: tensors over it may be alive anywhere in the process
def map_files(paths: tuple[str, ...], sizes: tuple[int, ...]) -> tuple[tf.Tensor, np.ndarray]:
    """Maps the files `paths` read-only, one after another.

    Returns:
      memory: uint8 [total]; each file takes whole pages, filled up with zeros.
      starts: int64 [files], the offset of each file in `memory`.

    Raises:
      UsageError: the size of a file differs from `sizes` (reading past the end of a shorter file would raise SIGBUS).
    """
    base, starts = _map_files(paths, sizes)
    total = int(starts[-1])
    return share_as_tensor(np.ctypeslib.as_array((ctypes.c_uint8 * total).from_address(base))), starts[:-1]


def file_addresses(paths: tuple[str, ...], sizes: tuple[int, ...]) -> np.ndarray:
    """The address in this process at which `map_files` maps each file, int64 [files]."""
    base, starts = _map_files(paths, sizes)
    return base + starts[:-1]


@functools.cache
def _map_files(paths: tuple[str, ...], sizes: tuple[int, ...]) -> tuple[int, np.ndarray]:
    """The address of the mapping, and the offsets of the files and of the end, int64 [files + 1]."""
    for path, size in zip(paths, sizes, strict=True):
        current_size = os.path.getsize(path)
        if current_size != size:
            raise UsageError(
                f"{path} has {current_size} bytes, but its index says {size}: the file changed while it was read; start"
                " again."
            )
    page_sizes = [-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for size in sizes]
    starts = np.concatenate([[0], np.cumsum(page_sizes)]).astype(np.int64)
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


def _mmap(address: int | None, size: int, protection: int, flags: int, descriptor: int) -> int:
    """Calls mmap(2) at offset 0 of the file and returns the address."""
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    c = ctypes
    function.argtypes = [c.c_void_p, c.c_size_t, c.c_int, c.c_int, c.c_int, c.c_int64]
    mapped_address = function(address, size, protection, flags, descriptor, 0)
    if mapped_address == MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, f"mmap of {size} bytes: {os.strerror(code)}")
    return mapped_address
