"""benchmarks.endurance.chaos on a run that is really killed."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from evenkeel.benchmarks.endurance import kill_resume
from evenkeel.benchmarks.results import read
from tests import forked


def run_chaos(*flags: str) -> None:
    """Runs in its own process; forks the runs from it; the signals come at steps 15 and 26 of 90."""
    kill_resume.STEPS_PER_SIGNAL, kill_resume.STEPS_AFTER_LAST_SIGNAL = 10, 50
    forked.fork_processes_of(kill_resume)
    forked.main("evenkeel.benchmarks.endurance.chaos", *flags)


def run_benchmark(*flags: str) -> subprocess.CompletedProcess[str]:
    return forked.run(run_chaos, *flags)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_run(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "result.json"
    done = run_benchmark("--kills=1", "--terms=1", "--replicas=1", f"--output={path}")
    assert done.returncode == 0, done.stdout + done.stderr
    medians = {(result.case, result.metric): result.median for result in read(path).results}
    assert {metric for _, metric in medians} == {"bit_equal", "kills", "resumes", "kills_in_saves", "steps_lost_max"}
    assert medians["replicas1", "bit_equal"] == 1
    assert (medians["replicas1", "kills"], medians["replicas1", "resumes"]) == (1, 2)
    assert 0 <= medians["replicas1", "steps_lost_max"] <= kill_resume.MAX_STEPS_LOST
    assert "averages equal those of the uninterrupted run" in done.stdout


def test_a_bad_flag_is_one_line_and_exit_code_2() -> None:
    for flag, words in (("--kills=-1", "must not be negative"), ("--replicas=3", "must be 1, 2 or 1,2")):
        done = run_benchmark(flag)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {flag.split('=')[0]} (")
        assert words in done.stderr


@pytest.mark.slow
def test_a_process_that_ends_unexpectedly_is_an_error(tmp_path: pathlib.Path) -> None:
    """The run directory cannot be made, so the process fails."""
    (tmp_path / "file").write_text("")
    process = kill_resume.TrainingProcess(str(tmp_path / "file/run"), str(tmp_path / "step"), 1, 1)
    with process:
        with pytest.raises(kill_resume.EnduranceError, match="before step 5"):
            process.wait_for_step(5)
        with pytest.raises(kill_resume.EnduranceError, match="ended with exit code 1 instead of 0"):
            process.wait_for_exit(0)


def test_only_complete_checkpoints_count(tmp_path: pathlib.Path) -> None:
    for name in ("step-00000010", "writing-00000030", "damaged-step-00000020"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert kill_resume.newest_checkpoint_step(str(tmp_path)) == 10
    assert kill_resume.read_step_file(str(tmp_path / "absent")) == 0
