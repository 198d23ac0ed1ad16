"""Standard output that its reader may close early, as in `evenkeel train --helpfull | head`.

with ignore_broken_pipe():
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
def ignore_broken_pipe() -> Iterator[None]:
    """Ends the process silently, with the exit code of SIGPIPE, if the reader of standard output has gone."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _stdout_is_broken():  # a different pipe broke, for example one to a worker: an ordinary error
            raise
        # The interpreter flushes again when it ends and would print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _stdout_is_broken() -> bool:
    """Whether standard output is a pipe without a reader."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
