"""TFDS prepares a data set once, whoever else wants it at the same time.

prepare(builder)           # with `file_format` tfrecord; nothing is done where it has been prepared
"""

from __future__ import annotations

import fcntl
import os
from typing import Any


def prepare(builder: Any, **options: Any) -> None:
    """`download_and_prepare`, by one process at a time: TFDS removes what another one has begun.

    The others wait, and find it done. On storage that is no file system of this machine each is on its own.
    """
    if builder.is_prepared():
        return
    directory = str(builder.data_dir)
    if "://" in directory:
        builder.download_and_prepare(file_format="tfrecord", **options)
        return
    parent, name = os.path.split(directory)
    os.makedirs(parent, exist_ok=True)
    with open(os.path.join(parent, f".{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        builder.download_and_prepare(file_format="tfrecord", **options)
