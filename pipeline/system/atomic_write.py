"""Files that are written whole or not at all.

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


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that appears as `path` when the block ends without an error, and not at all otherwise.

    The bytes go into a temporary file of the same directory, reach the disk, and are renamed. The temporary name is
    random and the file must not exist, so that no other process and no symbolic link can take its place. `path` may be
    a URL that tf.io.gfile knows.
    """
    path = os.fspath(path)
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    if "://" in path:
        with _remote(temporary, path) as file:
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
def _remote(temporary: str, path: str) -> Iterator[IO[bytes]]:
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
    """Writes `text` as UTF-8; what UTF-8 cannot hold is written as an escape sequence."""
    with atomic_write(path) as file:
        file.write(text.encode(errors="backslashreplace"))
