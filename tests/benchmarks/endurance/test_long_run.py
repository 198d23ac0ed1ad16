"""The resources of a process, and their growth over a run."""

from __future__ import annotations

import importlib
import pathlib
import subprocess
import sys

import pytest

from evenkeel.benchmarks import command
from tests import factories, forked

ROOT = pathlib.Path(__file__).parents[3]
SCRIPT = """
import os, sys, threading
from evenkeel.benchmarks.endurance import long_run
{body}
"""


def run_code(body: str) -> str:
    """The output of `body`, in a process where no other benchmark has defined flags."""
    line = [sys.executable, "-c", SCRIPT.format(body=body)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_usage_counts_memory_threads_and_files(tmp_path: pathlib.Path) -> None:
    body = f"""
before = long_run.read_usage(os.getpid(), 1)
held = bytearray(64 << 20)
held[::4096] = b"x" * len(held[::4096])
wait = threading.Event()
threading.Thread(target=wait.wait).start()
file = open({str(tmp_path / "file")!r}, "w")
after = long_run.read_usage(os.getpid(), 2)
wait.set()
print(after.steps, after.threads - before.threads, after.files - before.files, (after.memory - before.memory) >> 20)
"""
    steps, threads, files, memory = map(int, run_code(body).split())
    assert (steps, threads, files) == (2, 1, 1)
    assert 60 <= memory <= 70


def test_a_process_that_has_ended_has_no_usage() -> None:
    assert run_code("print(long_run.read_usage(2**22 + 1, 1))") == "None"  # above the largest possible pid


def test_the_share_of_the_warmup() -> None:
    assert (
        run_code("print(*(long_run.warmup_share(steps) for steps in (1000, 5000, 20_000, 100_000)))")
        == "0.5 0.4 0.1 0.1"
    )


def test_an_interval_has_the_medians_of_its_samples() -> None:
    body = """
memory, files = [100] * 499 + [103] * 501, [9] * 949 + [10] * 51
samples = [long_run.ProcessUsage(step, memory[step - 1], 7, files[step - 1]) for step in range(1, 1001)]
print(long_run.median_usage(samples, (0.1, 0.2)), long_run.median_usage(samples, (0.9, 1.0)))
"""
    early, late = (
        "ProcessUsage(steps=150, memory=100, threads=7, files=9)",
        "ProcessUsage(steps=950, memory=103, threads=7, files=10)",
    )
    assert run_code(body) == f"{early} {late}"


def test_an_interval_without_samples_has_the_nearest_one() -> None:
    body = """
samples = [long_run.ProcessUsage(step, step, 7, 9) for step in (100, 300, 400, 900)]
print(*(long_run.median_usage(samples, (tenth / 10, (tenth + 1) / 10)).memory for tenth in range(10)))
"""
    assert run_code(body) == "100 100 300 300 400 400 400 900 900 900"


def run_long_run(*flags: str) -> None:
    """Runs in its own process, from which it forks the run, of a network that is traced in little time."""
    long_run = importlib.import_module("evenkeel.benchmarks.endurance.long_run")
    long_run.TRAIN_OPTIONS |= {"model.name": f"{factories.FILE}:plain", "preflight": "off"}
    del long_run.TRAIN_OPTIONS["model.width"]
    long_run.SAMPLE_INTERVAL_SECONDS = 0.1
    forked.fork_processes_of(long_run)
    sys.argv = [long_run.__file__, *flags]
    command.run(long_run.main)


@pytest.mark.slow
def test_a_short_run_is_sampled_to_its_end(tmp_path: pathlib.Path) -> None:
    done = forked.run(run_long_run, "--steps=1000", f"--output={tmp_path / 'result.json'}")
    assert done.returncode in (0, 4), done.stderr  # 1,000 steps are only warm-up
    assert done.stdout.startswith("1000 steps: memory ")
    assert '"memory_growth"' in (tmp_path / "result.json").read_text()


def test_too_few_steps_are_an_error() -> None:
    line = [sys.executable, "-m", "benchmarks.endurance.long_run", "--steps=10"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: --steps (10) must be 1000 or more: a shorter run is only warm-up.\n"
