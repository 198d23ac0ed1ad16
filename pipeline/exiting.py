"""Python that is called by threads of tf.data, and the end of the interpreter.

A call that comes while the interpreter is torn down never returns, and who destroys an iterator then waits for it for
ever: a script that holds one in a global would not end.
"""

from __future__ import annotations

import atexit
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

SETTLED = 0.05  # seconds without a call: each fails at once now, so buffers are full of failures after some of them
PATIENCE = 2.0  # seconds

_ending = threading.Event()
_last_call = 0.0


def until_exit(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, for `tf.numpy_function`; when the interpreter ends, it ends its data set instead."""
    _registered()

    def called(*arguments: Any) -> Any:
        global _last_call
        _last_call = time.monotonic()
        if _ending.is_set():
            raise StopIteration  # OutOfRange, to TensorFlow
        return function(*arguments)

    return called


@functools.cache
def _registered() -> None:
    atexit.register(_settle)


def _settle() -> None:
    """Waits, with the interpreter whole, until no thread calls any more."""
    _ending.set()
    begun = time.monotonic()
    while (now := time.monotonic()) < begun + PATIENCE and now < max(begun, _last_call) + SETTLED:
        time.sleep(SETTLED / 5)
