"""A lock that lets one process at a time work on a directory.

with exclusive_lock("/data/pets-256"):
    ...    # other processes wait at their `with` until this block ends
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from absl import logging


@contextlib.contextmanager
def exclusive_lock(directory: str) -> Iterator[None]:
    """Waits for the lock of `directory` and holds it inside the block.

    The lock is the file `.NAME.lock` beside `directory`; the directory need not exist yet. A URL is not locked. A
    directory on storage without flock is not locked either, and a warning is logged.
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
            logging.warning("another process is preparing %s: waiting until it ends", directory)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            logging.warning(
                "%s cannot be locked (%s): do not prepare it in another process at the same time", directory, error
            )
        yield
