"""Standard output whose reader may go before its end, as in `python -m tools.train --help | head`.

with output.may_break():
    main()
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def may_break() -> Iterator[None]:
    """Ends the process without a word, and as SIGPIPE would have, where what it says is read by nobody any more."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _broken():  # another pipe is, to a worker say: an error like any
            raise
        # The interpreter flushes once more at its end, and would say that it could not.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _broken() -> bool:
    """Whether standard output is a pipe that has no reader any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
