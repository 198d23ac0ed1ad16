"""A run of suites that is told to stop, and one whose suite fails."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys

import pytest

from evenkeel.benchmarks import results
from evenkeel.benchmarks.results import ROOT


def alive(mark: str) -> dict[int, str]:
    """{process: its command line}, of those that live and in whose line `mark` stands."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has just ended
            continue
        if mark in line:
            found[int(path.parent.name)] = line
    return found


def children(process: int) -> list[int]:
    """Of processes that live: those that it started."""
    try:
        return [int(each) for each in pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    line = [sys.executable, "-m", "benchmarks.run", "--only=startup", f"--output={tmp_path / 'result.json'}"]
    with subprocess.Popen(line, cwd=ROOT, stderr=subprocess.DEVNULL) as run:
        begun: list[int] = []
        while not begun:  # until the suite has a process of its own, which trains
            assert run.poll() is None
            trained = alive("-m tools.train")
            begun = [own for suite in children(run.pid) for own in children(suite) if own in trained]
        run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=20) == 75  # at once: a suite that does not listen has 30 s
    assert alive(str(tmp_path)) == {}
    assert not [process for process in begun if pathlib.Path(f"/proc/{process}").exists()]


def test_a_suite_that_cannot_be_run_is_named_and_the_exit_code_is_4(tmp_path: pathlib.Path) -> None:
    output = tmp_path / "result.json"
    (tmp_path / "result.json.pipeline.json").write_text("what an earlier run left")
    missing = "--data.source=/nowhere/photos"
    line = [sys.executable, "-m", "benchmarks.run", "--only=pipeline", missing, f"--output={output}"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 4, done.stderr
    assert "skipped: pipeline: ended with exit code " in done.stdout
    report = results.read(output)
    assert report.results == []
    assert "pipeline" in [entry.case for entry in report.skipped]
