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
    path = lock_file(directory)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    while True:
        with open(path, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logging.warning("another process is preparing %s: waiting until it ends", directory)
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                logging.warning(
                    "%s cannot be locked (%s): do not prepare it in another process at the same time", directory, error
                )
            if _is_file_of(path, lock.fileno()):  # else the process that held the lock has removed the file
                yield
                return


def lock_file(directory: str) -> str:
    """The file that `exclusive_lock` locks; a process that holds the lock may remove it."""
    parent, name = os.path.split(directory)
    return os.path.join(parent, f".{name}.lock")


def hold_shared(path: str) -> None:
    """Marks a local file as in use until this process ends, however it ends; creates the file if it does not exist.

    Without flock on this storage, nothing is marked.
    """
    if path not in _held or not _is_file_of(path, _held[path]):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        _held[path] = descriptor


def is_held(path: str) -> bool:
    """Whether any process, this one included, holds the file; also if that cannot be found out."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):  # the latter for NAME/lock if NAME is a file
        return False
    except OSError:
        return True
    return False


def _is_file_of(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
