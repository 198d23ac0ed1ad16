"""What is read of a process while it runs, and how its growth is told."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[3]
SCRIPT = """
import os, sys, threading
from benchmarks import long_run
{body}
"""


def said(body: str) -> str:
    """What `body` prints, in a process where no other benchmark has defined flags."""
    command = [sys.executable, "-c", SCRIPT.format(body=body)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_look_sees_memory_threads_and_files(tmp_path: pathlib.Path) -> None:
    body = f"""
before = long_run.look_at(os.getpid(), 1)
held = bytearray(64 << 20)
held[::4096] = b"x" * len(held[::4096])
wait = threading.Event()
threading.Thread(target=wait.wait).start()
file = open({str(tmp_path / "file")!r}, "w")
after = long_run.look_at(os.getpid(), 2)
wait.set()
print(after.steps, after.threads - before.threads, after.files - before.files, (after.memory - before.memory) >> 20)
"""
    steps, threads, files, memory = map(int, said(body).split())
    assert (steps, threads, files) == (2, 1, 1)
    assert 60 <= memory <= 70


def test_a_process_that_has_ended_gives_no_look() -> None:
    assert said("print(long_run.look_at(2**22 + 1, 1))") == "None"  # above the largest pid there is


def test_what_is_warm_up() -> None:
    assert said("print(*(long_run.warmed_up(steps) for steps in (1000, 5000, 20_000, 100_000)))") == "0.5 0.4 0.1 0.1"


def test_growth_is_between_the_second_tenth_and_the_last() -> None:
    body = """
looks = [long_run.Look(step, 100 if step < 500 else 103, 7, 9 if step < 950 else 10) for step in range(1, 1001)]
print(long_run.part(looks, (0.1, 0.2)), long_run.part(looks, (0.9, 1.0)))
"""
    early, late = "Look(steps=150, memory=100, threads=7, files=9)", "Look(steps=950, memory=103, threads=7, files=10)"
    assert said(body) == f"{early} {late}"


def test_a_tenth_without_a_look_has_the_nearest() -> None:
    body = """
looks = [long_run.Look(step, step, 7, 9) for step in (100, 300, 400, 900)]
print(*(long_run.part(looks, (at / 10, (at + 1) / 10)).memory for at in range(10)))
"""
    assert said(body) == "100 100 300 300 400 400 400 900 900 900"


@pytest.mark.slow
def test_a_short_run_is_watched_to_its_end(tmp_path: pathlib.Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.endurance.long_run",
        "--steps=1000",
        f"--output={tmp_path / 'result.json'}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 4), done.stderr  # 1,000 steps are all warm-up
    assert done.stdout.startswith("1000 steps: memory ")
    assert '"memory_growth"' in (tmp_path / "result.json").read_text()


def test_a_run_that_is_too_short_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks.endurance.long_run", "--steps=10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: --steps (10) must be 1000 or more: what is shorter is all warm-up.\n"
