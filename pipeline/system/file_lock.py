"""A data set is prepared once, whoever else wants it at the same time.

prepare(builder)           # TFDS's download_and_prepare; nothing is done where it has been prepared
with alone(directory):     # whoever comes later waits
    ...
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from absl import logging


def prepare(builder: Any, **options: Any) -> None:
    """`download_and_prepare`, by one process at a time: TFDS removes what another one has begun.

    The others wait, and find it done; what `builder` knows of its splits may then be old: read its directory.
    """
    directory = str(builder.data_dir)
    # Not builder.is_prepared(), which warns where there is nothing yet.
    if not tf.io.gfile.exists(os.path.join(directory, "dataset_info.json")):
        with alone(directory):
            builder.download_and_prepare(file_format="tfrecord", **options)


@contextlib.contextmanager
def alone(directory: str) -> Iterator[None]:
    """Waits for other processes that are inside for the same `directory`.

    Each is on its own where the storage has no locks: that of another machine, reached by an URL or without them.
    """
    if "://" in directory:
        yield
        return
    parent, name = os.path.split(directory)
    os.makedirs(parent, exist_ok=True)
    with open(os.path.join(parent, f".{name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.warning("another process prepares %s: waiting for it", directory)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            logging.warning("%s cannot be locked (%s): no other process should prepare it now", directory, error)
        yield


def state_of(of: str, paths: list[str]) -> str:
    """A name for what the files hold now and `of`, by their lengths and times."""
    stats = [tf.io.gfile.stat(path) for path in paths]
    whole = repr([of, paths, [(s.length, s.mtime_nsec) for s in stats]])
    return hashlib.blake2b(whole.encode(errors="surrogateescape"), digest_size=8).hexdigest()
