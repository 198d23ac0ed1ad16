"""Runs commands and functions in processes that are forked from one that has imported TensorFlow.

Most of the time of a short command is the import. It starts no threads except those of OpenBLAS, which survives
forks, and runs no operation, so a forked process behaves like a new one. Tests of the start of commands, such as
test_cli, call `python -m` instead.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import IO, Any

from tensorflow.python.eager import context

ROOT = pathlib.Path(__file__).parents[1]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tensorflow_datasets", "matplotlib.figure", "pytest", "evenkeel.models.train"])
TIMEOUT_SECONDS = 900  # the longest command takes 80
Target = str | Callable[..., object]


def run(
    target: Target, *arguments: str, cwd: pathlib.Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m TARGET ARGUMENTS`, or the function; returns its output and exit code."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = start(target, *arguments, out=out, err=err, cwd=cwd, **environment)
        process.join(TIMEOUT_SECONDS)
        hangs = process.is_alive()
        process.kill()
        process.join()
        for file in (out, err):
            file.seek(0)
        assert not hangs, f"{target} has not ended after {TIMEOUT_SECONDS} s: {err.read()[-3000:]}"
        return subprocess.CompletedProcess(arguments, process.exitcode or 0, out.read(), err.read())


def start(
    target: Target,
    *arguments: str,
    out: IO[str],
    err: IO[str] | None = None,
    cwd: pathlib.Path = ROOT,
    **environment: str,
) -> BaseProcess:
    """Starts the process; its output goes to `out`, and its errors to `err` if that is given."""
    files = [
        Connection(os.dup(file.fileno())) for file in (out, err or out)
    ]  # in a form that can be sent to the process
    process = SERVER.Process(target=_run_target, args=(files, cwd, {**os.environ, **environment}, target, arguments))
    process.start()
    return process


class Popen:
    """What benchmarks use of `subprocess.Popen`, for `python -m MODULE ARGUMENTS`, by a fork of this process.

    For processes that were started here, which have imported TensorFlow and have run no operation.
    """

    def __init__(self, command: Sequence[str], stdout: IO[str], stderr: IO[str] | int) -> None:
        assert command[1] == "-m", command
        files = [stdout, stdout if stderr == subprocess.STDOUT else stderr]
        arguments = (files, os.getcwd(), dict(os.environ), command[2], tuple(command[3:]))
        # Without this process's exit functions, which remove its temporary directories.
        self._process = multiprocessing.get_context("fork").Process(target=_run_in_environment, args=arguments)
        self._process.start()
        self.pid, self.kill = self._process.pid, self._process.kill

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)


def fork_processes_of(module: Any) -> None:
    """Makes a module, which starts processes by `subprocess.Popen`, fork them; for the rest of this process."""
    module.subprocess = types.SimpleNamespace(**{**vars(subprocess), "Popen": Popen})


def main(module: str, *arguments: str) -> None:
    """Does in a forked process what `python -m MODULE ARGUMENTS` does."""
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _run_target(*arguments: Any) -> None:
    try:
        _run_in_environment(*arguments)
    finally:
        atexit._run_exitfuncs()  # multiprocessing does not run them


def _run_in_environment(
    files: Sequence[Any],
    cwd: str | pathlib.Path,
    environment: dict[str, str],
    target: Target,
    arguments: tuple[str, ...],
) -> None:
    for number, file in enumerate(files, 1):
        os.dup2(file.fileno(), number)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    assert not context.context()._initialized, (
        "an import has run an operation: its threads are missing here, and waiting for them hangs"
    )
    if isinstance(target, str):
        main(target, *arguments)
    else:
        target(*arguments)
