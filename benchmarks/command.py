"""What every command line of the benchmarks shares: flags parsed, errors in one line, exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags

from evenkeel.pipeline.errors import UsageError, require
from evenkeel.tools import stdout

USAGE_ERROR, STOPPED = 2, 75


def run(main: Callable[[list[str]], int]) -> None:
    """Parses the flags, calls `main` with what is left and exits with what it returns."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # As an exception, so that work trees, workers and scratch files go, as they do after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            fail(" ".join(str(error).split()))

    def checked(argv: list[str]) -> int:
        try:
            return main(argv)
        except UsageError as error:
            fail(str(error))
        except KeyboardInterrupt:
            return 130

    with stdout.ignore_broken_pipe():
        app.run(checked, flags_parser=parse)


def check_output(name: str, path: str) -> None:
    """Raises `UsageError` where the file that flag `name` asks for could not be written; now, not after measuring."""
    if path:
        directory = os.path.dirname(path) or "."
        usable = os.path.isdir(directory) and os.access(directory, os.W_OK) and not os.path.isdir(path)
        require(usable, f"--{name} ({path}) must be a file in a directory that exists and can be written.")


def write(name: str, path: str, text: str) -> None:
    """Writes the file that flag `name` asks for; raises `UsageError` where it cannot be written."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"--{name} ({path}) cannot be written: {error.strerror}; choose another.") from error


def check_arguments(argv: list[str]) -> None:
    """Raises `UsageError` where something is left that is no flag."""
    require(len(argv) == 1, f"argument ({' '.join(argv[1:])}) is not understood: every option starts with --.")


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(USAGE_ERROR)
