"""A run of suites that is stopped by SIGTERM, and one whose suite fails."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time

import pytest

from evenkeel.benchmarks import results
from evenkeel.benchmarks.results import ROOT


def find_processes(text: str) -> dict[int, str]:
    """{pid: command line} of living processes whose command line holds `text`."""
    processes = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # the process has just ended
            continue
        if text in line:
            processes[int(path.parent.name)] = line
    return processes


def children(process: int) -> list[int]:
    """Pids of the living children of a process."""
    try:
        return [int(pid) for pid in pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def is_alive(process: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_stopped_run_leaves_no_process_behind(tmp_path: pathlib.Path) -> None:
    line = [sys.executable, "-m", "benchmarks.run", "--only=startup", f"--output={tmp_path / 'result.json'}"]
    with subprocess.Popen(line, cwd=ROOT, stderr=subprocess.DEVNULL) as run:
        started: list[int] = []
        while not started:  # until the suite has started a training process
            assert run.poll() is None
            training = find_processes("-m tools.train")
            started = [pid for suite in children(run.pid) for pid in children(suite) if pid in training]
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=20) == 75  # at once: a suite that ignores SIGTERM would have 30 s
    assert find_processes(str(tmp_path)) == {}
    deadline = time.monotonic() + 20
    while any(map(is_alive, started)):  # a killed process ends soon, but not before `kill` returns
        assert time.monotonic() < deadline


@pytest.mark.slow
def test_a_failing_suite_is_listed_as_skipped_and_the_exit_code_is_4(tmp_path: pathlib.Path) -> None:
    output = tmp_path / "result.json"
    (tmp_path / "result.json.pipeline.json").write_text("the file of an earlier run")
    missing = "--data.source=/nowhere/photos"
    line = [sys.executable, "-m", "benchmarks.run", "--only=pipeline", missing, f"--output={output}"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 4, done.stderr
    assert "skipped: pipeline: ended with exit code " in done.stdout
    report = results.read(output)
    assert report.results == []
    assert "pipeline" in [entry.case for entry in report.skipped]
