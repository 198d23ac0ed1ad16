"""A directory that shows whether it is whole: a checksum of every file, and all of it on disk.

seal("checkpoints/writing-00000780")
fault("checkpoints/step-00000780")     # "" where it is whole, else what is wrong with which file
"""

from __future__ import annotations

import errno
import hashlib
import json
import os

import tensorflow as tf

SUMS = "checksums.json"
BLOCK = 1 << 20  # bytes


def seal(directory: str) -> None:
    """Writes the checksums of the files in `directory`; returns when they and the files are on disk.

    On disk, that is, where `directory` is in a local file system; others keep what they have confirmed.
    """
    sums = {name: _sum(os.path.join(directory, name)) for name in sorted(tf.io.gfile.listdir(directory))}
    path = os.path.join(directory, SUMS)
    with tf.io.gfile.GFile(path, "w") as file:
        file.write(json.dumps(sums))
    for name in (*sums, SUMS):
        flush(os.path.join(directory, name))
    flush(directory)


def fault(directory: str) -> str:
    """What shows that `directory` is not as it was sealed; empty where it is."""
    try:
        with tf.io.gfile.GFile(os.path.join(directory, SUMS)) as file:
            sums = json.loads(file.read())
    except tf.errors.OpError:
        return f"{SUMS} cannot be read"
    except ValueError:  # of JSON or of Unicode
        return f"{SUMS} is not JSON"
    if not isinstance(sums, dict):
        return f"{SUMS} is not a list of files"
    for name, expected in sums.items():
        try:
            found = _sum(os.path.join(directory, name))
        except tf.errors.OpError:
            return f"{name} cannot be read"
        if found != expected:
            return f"{name} is not what was written"
    return ""


def flush(path: str) -> None:
    """Returns when the file, or the names in the directory, at a local `path` are on disk."""
    if not os.path.exists(path):
        return  # of another file system
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        # Some network file systems flush no directories.
        if not os.path.isdir(path) or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(opened)


def _sum(path: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with tf.io.gfile.GFile(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
