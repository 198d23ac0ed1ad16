"""The directory for prepared data, and the errors of a cache that is full or cannot be written to."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import tempfile
from collections.abc import Iterator

from absl import logging

from evenkeel.pipeline.errors import UsageError, require

# A full disk, a quota; a limit of file sizes, storage that must not be written to, a path that cannot exist.
FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT, errno.EEXIST)


def cache_dir() -> str:
    """The cache directory: $EVENKEEL_CACHE, else `evenkeel` in the user's cache directory.

    Where the latter cannot be written to, it is a directory of the user below the system's temporary directory, and a
    warning says so, once.

    Raises:
      UsageError: $EVENKEEL_CACHE is a URL, or there is no directory to write to.
    """
    chosen = os.environ.get("EVENKEEL_CACHE")
    if chosen:
        require(
            "://" not in chosen,
            f"EVENKEEL_CACHE ({chosen}) must be a directory of this machine, or mounted: it is written to and locked.",
        )
        return chosen
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return _writable(os.path.join(home, "evenkeel"))


@functools.cache
def _writable(directory: str) -> str:
    """`directory`, created if necessary, or the temporary directory."""
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        return _temporary(directory, error.strerror or str(error))
    return directory if os.access(directory, os.W_OK | os.X_OK) else _temporary(directory, "no permission")


def _temporary(instead_of: str, reason: str) -> str:
    directory = os.path.join(tempfile.gettempdir(), f"evenkeel-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    status = os.lstat(directory)
    require(
        stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077,
        f"the cache {instead_of} cannot be written to ({reason}), and {directory} is not a directory of yours alone:"
        " set EVENKEEL_CACHE to a directory that you can write to.",
    )
    logging.warning(
        "the cache %s cannot be written to (%s): %s is used, which may not outlive a restart of the machine; set"
        " EVENKEEL_CACHE to choose another directory",
        instead_of,
        reason,
        directory,
    )
    return directory


@contextlib.contextmanager
def cache_errors() -> Iterator[None]:
    """Converts errors of writing to the cache, raised inside the block, into a one-line `UsageError`."""
    try:
        yield
    except Exception as error:
        reason = _find_reason(error)
        if not reason:
            raise
        raise UsageError(
            f"the cache ({cache_dir()}) {reason}: free space or correct its permissions, or set EVENKEEL_CACHE to"
            " another directory. `evenkeel cache` lists what it holds, and clears it."
        ) from error


def _find_reason(error: BaseException | None) -> str:
    """Why the cache cannot be written to, if that is what `error` or its causes mean; else an empty string."""
    while error is not None:
        code = error.errno if isinstance(error, OSError) else _code_in_text(error)
        if code in FULL:
            return f"is full ({os.strerror(code)})"
        if code in UNWRITABLE and (code == errno.EFBIG or _is_in_cache(error)):
            return f"cannot be written to ({os.strerror(code)})"
        error = error.__cause__ or error.__context__
    return ""


def _code_in_text(error: BaseException) -> int | None:
    """The number of the operating system's error that an error of TensorFlow or TFDS quotes; None if it quotes none."""
    found = [code for code in (*FULL, *UNWRITABLE) if os.strerror(code) in str(error)]
    return found[0] if found and not isinstance(error, UsageError) else None


def _is_in_cache(error: BaseException) -> bool:
    """Whether an error is about a path in the cache, or a folder around it, and not about a file of the source."""
    path = os.fspath(error.filename) if isinstance(error, OSError) and error.filename else ""
    return cache_dir() in str(error) or (bool(path) and cache_dir().startswith(os.fsdecode(path)))
