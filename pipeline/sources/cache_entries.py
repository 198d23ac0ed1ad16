"""What the cache holds: an entry for each prepared source, the processes that use it, and how entries are removed.

use_entry(directory, source="/data/pets")     # until this process ends
for entry in list_entries():
    remove_entry(entry)
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import shutil

from evenkeel.pipeline.sources.cache_dir import cache_dir
from evenkeel.pipeline.system.atomic_write import TEMPORARY
from evenkeel.pipeline.system.file_lock import exclusive_lock, hold_shared, is_held, lock_file

# {directory in the cache: kind of its entries}. Nothing else in the cache is listed or removed.
KINDS = {
    "folders": "folder",
    "tiers": "storage tier",
    "shapes": "shapes",
    "indexes": "index",
    "entries": "JPEG positions",
    "decoded": "decoded images",
    "peers": "benchmark",
    "dirt": "benchmark",
}


UNFINISHED, REMOVED = ".unfinished", ".removed"  # endings of what a killed process leaves behind


@dataclasses.dataclass(frozen=True)
class CacheEntry:
    """Something in the cache that can be removed by itself.

    Attributes:
      path: its file or directory.
      kind: a value of `KINDS`.
      source: the data source that it was made from; empty if it is not known.
      size: bytes of its files.
      used: time of its last use, seconds since 1970.
      in_use: whether a process uses it or is writing it.
      stale: whether it serves nothing any more: its source is gone, it is unfinished, or of an earlier version.
    """

    path: str
    kind: str
    source: str
    size: int
    used: float
    in_use: bool
    stale: bool


def use_entry(path: str, source: str) -> None:
    """Marks an entry, which need not exist yet, as used by this process until it ends, and notes its source.

    An entry in a cache that is read-only is used without a mark.

    Raises:
      OSError: the cache cannot be written to, and the entry does not exist.
    """
    marker = _marker(path)
    try:
        os.makedirs(os.path.dirname(marker), exist_ok=True)
        hold_shared(marker)
        with open(marker, "r+b") as file:  # never replaced by another file: the processes that hold it are known by it
            file.write(os.fsencode(source))
            file.truncate()
        os.utime(marker)
    except OSError:
        if not os.path.exists(path):
            raise


def is_used(path: str) -> bool:
    """Whether any process, this one included, uses an entry."""
    return is_held(_marker(path))


def list_entries() -> list[CacheEntry]:
    """All entries, the last used one first."""
    paths = {
        path: kind
        for directory, kind in KINDS.items()
        for path in sorted(glob.glob(os.path.join(glob.escape(cache_dir()), directory, "*")))
    }
    return sorted((_describe(path, kind) for path, kind in paths.items()), key=lambda entry: -entry.used)


def remove_entry(entry: CacheEntry) -> bool:
    """Removes an entry; returns False, and removes nothing, if a process uses it."""
    if not entry.path.endswith(REMOVED):
        if _is_in_use(entry.path):
            return False
        with exclusive_lock(entry.path):
            os.rename(entry.path, entry.path + REMOVED)  # so that a part of an entry is never taken for the whole
            os.unlink(lock_file(entry.path))
    path = entry.path.removesuffix(REMOVED) + REMOVED
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_marker(entry.path))
    return True


def remove_superseded(path: str) -> None:
    """Removes the storage tiers that the tier `path` replaces: those made from the same source before it changed."""
    options = os.path.basename(path).partition("-")[2]
    for entry in list_entries():
        name = os.path.basename(entry.path).removesuffix(UNFINISHED).removesuffix(REMOVED)
        same = os.path.dirname(entry.path) == os.path.dirname(path) and name.partition("-")[2] == options
        if same and entry.path != path and entry.source == _read_source(path):
            remove_entry(entry)


def _describe(path: str, kind: str) -> CacheEntry:
    source, in_use = _read_source(path), _is_in_use(path)
    gone = os.path.isabs(source) and not os.path.exists(source)
    earlier = kind == "folder" and not source
    leftover = path.endswith((UNFINISHED, REMOVED, TEMPORARY))
    files = [os.path.join(directory, name) for directory, _, names in os.walk(path) for name in names] or [path]
    return CacheEntry(
        path=path,
        kind=kind,
        source=source,
        size=sum(os.lstat(file).st_size for file in files if os.path.lexists(file)),
        used=os.stat(_marker(path) if source else path).st_mtime,
        in_use=in_use,
        stale=(gone or earlier or leftover) and not in_use,
    )


def _is_in_use(path: str) -> bool:
    locks = [lock_file(path), os.path.join(path, "lock")]
    locks += glob.glob(os.path.join(glob.escape(path), ".*.lock"))
    return is_used(path) or any(map(is_held, locks))


def _read_source(path: str) -> str:
    try:
        with open(_marker(path), "rb") as file:
            return os.fsdecode(file.read())
    except FileNotFoundError:
        return ""


def _marker(path: str) -> str:
    """The file beside an entry that says what its source is; processes that use the entry hold it."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name.removesuffix(REMOVED).removesuffix(UNFINISHED)}.used")
