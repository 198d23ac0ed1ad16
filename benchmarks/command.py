"""Runs the command line of a benchmark with `tools.cli`, and checks and writes its output files.

if __name__ == "__main__":
    command.run(main)
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from absl import flags

from evenkeel.pipeline.errors import UsageError, require
from evenkeel.tools import cli

USAGE_ERROR, STOPPED = cli.USAGE_ERROR, 75


def run(main: Callable[[list[str]], int], positional: bool = False) -> None:
    """Parses the flags, calls `main` with the other arguments and exits with the code that `main` returns.

    `--help` shows the docstring and the flags of the module that runs. SIGTERM raises SystemExit with exit code 75, so
    that work trees, workers and temporary files are removed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))
    own = tuple(flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]))
    usage = sys.modules[main.__module__].__doc__ or ""
    cli.run(cli.Command(main, usage, own=own, positional=positional))


def require_writable(name: str, path: str) -> None:
    """Raises `UsageError` before the measurement if the file `path`, given by the flag `name`, cannot be written."""
    if path:
        directory = os.path.dirname(path) or "."
        usable = os.path.isdir(directory) and os.access(directory, os.W_OK) and not os.path.isdir(path)
        require(usable, f"--{name} ({path}) must be a file in a directory that exists and can be written.")


def write_output(name: str, path: str, text: str) -> None:
    """Writes `text` to the file `path`, given by the flag `name`.

    Raises:
      UsageError: the file cannot be written.
    """
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"--{name} ({path}) cannot be written: {error.strerror}; choose another path.") from error
