"""Files of a source: their contents, and a fingerprint to tell whether any of them has changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

import tensorflow as tf


def read_file(path: str, count: int = -1) -> bytes:
    """The first `count` bytes of a file, or all; names of local files may be of any bytes, see os.fsdecode.

    Raises:
      OSError, OpError: the file cannot be read.
    """
    if "://" in path:
        with tf.io.gfile.GFile(path, "rb") as remote:
            return remote.read(count)
    with open(path, "rb") as file:
        return file.read(count)


READ_ERRORS = (OSError, tf.errors.OpError)  # what `read_file` raises


def read_error(error: Exception) -> str:
    """Why a file is not used that `read_file` could not read, in one line."""
    reason = getattr(error, "strerror", None) or getattr(error, "message", None) or type(error).__name__
    return f"cannot be read: {' '.join(str(reason).split())}"


def file_state(path: str) -> tuple[int, ...]:
    """Numbers of which one changes when the file is replaced or written to, even by one of equal size and time.

    They are the length, the time of modification and, of local files, the time of the last change of the inode, which
    programs cannot set, and the inode.
    """
    if "://" in path:
        remote = tf.io.gfile.stat(path)
        return remote.length, remote.mtime_nsec
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def try_state(path: str) -> tuple[int, ...]:
    """The result of `file_state`; empty if the file is gone, or a link that leads nowhere: reading it says so."""
    try:
        return file_state(path)
    except READ_ERRORS:
        return ()


def fingerprint_files(name: str, paths: list[str], state_of: Callable[[str], tuple[int, ...]] = file_state) -> str:
    """16 hex digits computed from `name` and from the path and the state of each file."""
    content = repr([name, paths, [state_of(path) for path in paths]])
    return hashlib.blake2b(content.encode(errors="surrogateescape"), digest_size=8).hexdigest()
