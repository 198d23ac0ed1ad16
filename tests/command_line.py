"""Commands in processes of their own, and what tests of them share."""

from __future__ import annotations

import pathlib
import socket
import subprocess
import sys
import tempfile

from evenkeel.benchmarks.results import Result, ResultFile


def result_file(value: float, commit: str, cpu: str = "a CPU") -> ResultFile:
    results = [
        Result("pipeline", "decode <b>", "cpu_ms_per_image", "ms", "lower", (value, 1.1 * value, 0.9 * value)),
        Result("stability", "heldout", "recall", "share", "higher", (0.95,), interval=(0.9, 0.98)),
    ]
    return ResultFile({"cpu": cpu, "cores": 2, "gpu": None, "os": "Linux", "git_commit": commit}, results, [])


TINY = (
    "--data.shapes.size=16",
    "--data.shapes.count=300",
    "--data.image_size=16",
    "--batch_size=20",
    "--model.width=4",
)


def tool(name: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs `evenkeel NAME ARGUMENTS` in another directory than the checkout."""
    command = [sys.executable, "-m", "evenkeel", name, *arguments]
    return subprocess.run(command, cwd=tempfile.gettempdir(), capture_output=True, text=True)


def refused(done: subprocess.CompletedProcess) -> str:
    """The one line that a refusal comes to."""
    lines = [line for line in done.stderr.splitlines() if line]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def run_git(repository: pathlib.Path, *arguments: str) -> str:
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    process = subprocess.run(
        ["git", "-C", str(repository), *author, *arguments], capture_output=True, text=True, check=True
    )
    return process.stdout.strip()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
