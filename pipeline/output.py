"""Standard output whose reader may go before its end, as in `python -m tools.train --help | head`.

with output.may_break():
    main()
"""

from __future__ import annotations

import contextlib
import os
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
        # The interpreter flushes once more at its end, and would say that it could not.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
