"""The commands of the benchmark history: add a result file, show the page."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from evenkeel.benchmarks import results
from evenkeel.benchmarks.results import Result

ROOT = pathlib.Path(__file__).parents[2]


def report(value: float, commit: str, cpu: str = "a CPU") -> results.ResultFile:
    made = [
        Result("pipeline", "decode <b>", "cpu_ms_per_image", "ms", "lower", (value, 1.1 * value, 0.9 * value)),
        Result("stability", "heldout", "recall", "share", "higher", (0.95,), interval=(0.9, 0.98)),
    ]
    where = {"cpu": cpu, "cores": 2, "gpu": None, "os": "Linux", "git_commit": commit}
    return results.ResultFile(where, made, [])


@pytest.mark.slow
def test_the_commands_add_and_show(tmp_path: pathlib.Path) -> None:
    made = report(1.0, "aaa")
    results.write(tmp_path / "result.json", made.results, made.environment)

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "benchmarks.history", *arguments, f"--history={tmp_path / 'lines'}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = run("add", str(tmp_path / "result.json"))
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "lines").glob("*.jsonl")
    assert done.stdout == f"added to {path}\n"
    assert json.loads(path.read_text())["commit"] == "aaa"
    done = run("show", f"--output={tmp_path / 'page.html'}")
    assert done.returncode == 0, done.stderr
    assert "<svg" in (tmp_path / "page.html").read_text()
    for arguments, words in (
        ((), "the first argument must be add or show"),
        (("add",), "give one result file"),
        (("show", "x"), "no file"),
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
