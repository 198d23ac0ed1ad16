"""Locks between processes: one that lets a single process work on a directory, and one that says a file is in use.

with exclusive_lock("/data/pets-256"):
    ...    # other processes wait at their `with` until this block ends
hold_shared("/cache/pets.used")     # until this process ends
is_held("/cache/pets.used")         # True
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from absl import logging

_held: dict[str, int] = {}  # {path: descriptor} of the files that this process holds


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


def hold_shared(path: str) -> None:
    """Marks a local file as in use until this process ends, however it ends; creates the file if it does not exist.

    Without flock on this storage, nothing is marked.
    """
    if path not in _held or not os.path.exists(path) or not os.path.samestat(os.fstat(_held[path]), os.stat(path)):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        _held[path] = descriptor


def is_held(path: str) -> bool:
    """Whether any process, this one included, holds the file; also if that cannot be found out."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
