"""Calls a function in threads: results in order, few calls ahead.

for result in parallel_map(read, paths, threads=4):
    ...
"""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def parallel_map(function: Callable[[T], R], items: Iterable[T], threads: int) -> Generator[R]:
    """Yields `function(item)` of every item, in order; at most `threads + 1` results wait.

    `items` is iterated in the caller's thread. An error of `items` or of `function` ends the calls and is raised.
    """
    pending: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # an interruption waits for the running calls only
            for future in pending:
                future.cancel()
