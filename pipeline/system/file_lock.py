"""One process at a time for a directory.

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

    The lock is the file `.NAME.lock` beside `directory`, which need not exist yet. There is no lock for a URL, nor on
    storage without flock: processes there are not kept apart, which the second case logs as a warning.
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
            logging.warning(
                "%s cannot be locked (%s): do not prepare it in another process at the same time", directory, error
            )
        yield
