"""Files that are written completely or not at all.

with atomic_write("index.npz") as file:
    np.savez(file, **columns)
write_text("summary.json", text)
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import IO

TEMPORARY = ".tmp"  # ending of a file that is not complete; a killed process leaves it behind


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that becomes `path` when the block ends; if the block raises, `path` is unchanged.

    The bytes go into a temporary file in the same directory, which is flushed to disk and renamed. The temporary name
    is random and must not exist yet, so that neither another process nor a symbolic link can interfere. `path` may be a
    URL that tf.io.gfile knows.
    """
    path = os.fspath(path)
    temporary = f"{path}.{secrets.token_hex(8)}{TEMPORARY}"
    if "://" in path:
        with _atomic_write_remote(temporary, path) as file:
            yield file
        return
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def _atomic_write_remote(temporary: str, path: str) -> Iterator[IO[bytes]]:
    from tensorflow.io import gfile  # takes seconds to import, and local files do not need it

    try:
        with gfile.GFile(temporary, "wb") as file:
            yield file
        gfile.rename(temporary, path, overwrite=True)
    except BaseException:
        if gfile.exists(temporary):
            gfile.remove(temporary)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` as UTF-8 with `atomic_write`; characters that UTF-8 cannot encode become escape sequences."""
    with atomic_write(path) as file:
        file.write(text.encode(errors="backslashreplace"))
