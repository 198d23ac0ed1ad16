"""Writes and verifies checksums of the files in a directory, and flushes files to disk.

write_checksums("checkpoints/writing-00000780")
find_damage("checkpoints/step-00000780")     # "" if the directory is intact, else which file is wrong and how
"""

from __future__ import annotations

import errno
import hashlib
import json
import os

import tensorflow as tf

CHECKSUM_FILE = "checksums.json"
BLOCK_BYTES = 1 << 20


def write_checksums(directory: str) -> None:
    """Writes the checksum of every file in `directory`; returns when the files and the checksums are on disk.

    Only local files are flushed. Other file systems, such as gs://, keep what they have confirmed.
    """
    checksums = {name: _checksum(os.path.join(directory, name)) for name in sorted(tf.io.gfile.listdir(directory))}
    path = os.path.join(directory, CHECKSUM_FILE)
    with tf.io.gfile.GFile(path, "w") as file:
        file.write(json.dumps(checksums))
    for name in (*checksums, CHECKSUM_FILE):
        sync_to_disk(os.path.join(directory, name))
    sync_to_disk(directory)


def find_damage(directory: str) -> str:
    """Describes the first file of `directory` that differs from its checksum; "" if the directory is intact."""
    try:
        with tf.io.gfile.GFile(os.path.join(directory, CHECKSUM_FILE)) as file:
            checksums = json.loads(file.read())
    except tf.errors.OpError:
        return f"{CHECKSUM_FILE} cannot be read"
    except ValueError:  # raised by JSON and by the decoding of UTF-8
        return f"{CHECKSUM_FILE} is not JSON"
    if not isinstance(checksums, dict):
        return f"{CHECKSUM_FILE} is not a list of files"
    for name, expected in checksums.items():
        try:
            actual = _checksum(os.path.join(directory, name))
        except tf.errors.OpError:
            return f"{name} cannot be read"
        if actual != expected:
            return f"{name} is not what was written"
    return ""


def sync_to_disk(path: str) -> None:
    """Flushes the file or the directory entries at a local `path`; returns when they are on disk."""
    if not os.path.exists(path):
        return  # not a local file system
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush directories.
        if not os.path.isdir(path) or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _checksum(path: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with tf.io.gfile.GFile(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
