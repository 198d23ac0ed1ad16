"""Commands and functions in processes of their own that need not import TensorFlow: they are forked from one that has.

The import is most of what a short command takes. It starts no thread but those of OpenBLAS, which minds forks, and runs
no op: what is forked after it is as good as new. That commands begin well with `python -m` is for the tests that call
them so, test_cli's above all.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import IO

from tensorflow.python.eager import context

ROOT = pathlib.Path(__file__).parents[1]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tensorflow_datasets", "matplotlib.figure", "pytest", "evenkeel.models.train"])
PATIENCE = 900  # seconds that a command has; the longest takes 80
Target = str | Callable[..., object]


def run(
    target: Target, *arguments: str, cwd: pathlib.Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """What `python -m TARGET ARGUMENTS` said, or what the function did, and the exit code."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = start(target, *arguments, out=out, err=err, cwd=cwd, **environment)
        process.join(PATIENCE)
        hangs = process.is_alive()
        process.kill()
        process.join()
        for file in (out, err):
            file.seek(0)
        assert not hangs, f"{target} has not ended after {PATIENCE} s: {err.read()[-3000:]}"
        return subprocess.CompletedProcess(arguments, process.exitcode or 0, out.read(), err.read())


def start(
    target: Target,
    *arguments: str,
    out: IO[str],
    err: IO[str] | None = None,
    cwd: pathlib.Path = ROOT,
    **environment: str,
) -> BaseProcess:
    """The process, begun; what it says goes to `out`, and its errors to `err` where that is another file."""
    files = [Connection(os.dup(file.fileno())) for file in (out, err or out)]  # as what can be handed over
    process = SERVER.Process(target=_begun, args=(files, cwd, {**os.environ, **environment}, target, arguments))
    process.start()
    return process


def main(module: str, *arguments: str) -> None:
    """In such a process: what `python -m MODULE ARGUMENTS` does."""
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _begun(
    files: list[Connection], cwd: pathlib.Path, environment: dict[str, str], target: Target, arguments: tuple[str, ...]
) -> None:
    for number, file in enumerate(files, 1):
        os.dup2(file.fileno(), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    assert not context.context()._initialized, (
        "an import runs an op: its threads are not here, who waits for them hangs"
    )
    try:
        if isinstance(target, str):
            main(target, *arguments)
        else:
            target(*arguments)
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
