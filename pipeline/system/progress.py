"""Progress of long work on stderr: a bar on a terminal, else a line now and then, with the rate and the time left.

with progress(total=100_000, what="reading images") as advance:
    advance(64)
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0


@contextlib.contextmanager
def progress(total: int, what: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[int], object]]:
    """Yields a function to call with the number of images done since its last call."""
    if sys.stderr.isatty():
        with tqdm(total=total, desc=what, unit=" images", delay=1) as bar:
            yield bar.update
        return
    start = shown = clock()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        if clock() - shown >= SECONDS_BETWEEN_LINES:
            shown = clock()
            print(tqdm.format_meter(done, total, shown - start, prefix=what, unit=" images", ncols=0), file=sys.stderr)

    yield advance
