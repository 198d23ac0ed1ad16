"""evenkeel cache: lists what the cache of prepared images holds, and clears it."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable

from absl import flags

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.sources.cache_dir import cache_dir, cache_errors
from evenkeel.pipeline.sources.cache_entries import CacheEntry, list_entries, remove_entry
from evenkeel.pipeline.system.printable import printable
from evenkeel.tools import cli

FLAGS = flags.FLAGS
USAGE = """
Lists what the cache of prepared images holds, or clears it. It is ~/.cache/evenkeel, or $EVENKEEL_CACHE. Whatever is
cleared is made again when it is needed.

  evenkeel cache
  evenkeel cache --clear=stale
  evenkeel cache --clear=/data/pets
  evenkeel cache --clear=all

An entry is stale if its source is gone, if it was never finished, or if an earlier version made it. Entries that a
process uses are never cleared.
"""
UNITS = ("B", "KB", "MB", "GB", "TB")

flags.DEFINE_string("clear", "", "stale | all | a source or a path that the list shows: removes these entries")


def main(argv: list[str]) -> int:
    entries = list_entries()
    if FLAGS.clear:
        with cache_errors():
            print("\n".join(clear(entries, FLAGS.clear)))
        return 0
    lines = [format_entry(entry) for entry in entries]
    print("\n".join([*lines, f"{format_size(sum(entry.size for entry in entries))} in {cache_dir()}"]))
    return 0


def clear(entries: list[CacheEntry], which: str) -> list[str]:
    """Removes the `entries` that `which` names; returns a line for each.

    Raises:
      UsageError: `which` is neither stale nor all nor the source or path of an entry.
    """
    wanted: dict[str, Callable[[CacheEntry], bool]] = {"all": lambda entry: True, "stale": lambda entry: entry.stale}
    named = {which, os.path.realpath(which)}
    chosen = [
        entry for entry in entries if wanted.get(which, lambda entry: bool(named & {entry.source, entry.path}))(entry)
    ]
    if not chosen and which not in wanted:
        raise UsageError(
            f"--clear ({which}) is neither stale, nor all, nor a source in the cache ({cache_dir()}): `evenkeel cache`"
            " lists them."
        )
    removed = [entry for entry in chosen if remove_entry(entry)]
    lines = [
        f"{'removed' if entry in removed else 'kept, because a process uses it'}: {format_entry(entry)}"
        for entry in chosen
    ]
    return [*lines, f"{format_size(sum(entry.size for entry in removed))} removed from {cache_dir()}"]


def format_entry(entry: CacheEntry) -> str:
    """One line: size, day of the last use, kind, state, source, path."""
    day = datetime.datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
    state = "in use" if entry.in_use else "stale" if entry.stale else ""
    source = printable(entry.source) or "-"
    return f"{format_size(entry.size):>8}  {day}  {entry.kind:<14}  {state:<6}  {source}  ({printable(entry.path)})"


def format_size(size: int) -> str:
    """Bytes in a unit that gives at most four digits, such as 113 MB."""
    number = float(size)
    for unit in UNITS:
        if number < 1000 or unit == UNITS[-1]:
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"


COMMAND = cli.Command(main, USAGE, own=("clear",))

if __name__ == "__main__":
    cli.run(COMMAND)
