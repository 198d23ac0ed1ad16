"""A run that is really killed: what benchmarks.endurance.chaos says of it, and that it sees what it must."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from evenkeel.benchmarks.endurance import kill_resume
from evenkeel.benchmarks.results import read
from tests import forked


def chaos(*flags: str) -> None:
    """In a process of its own: the last signal comes 50 steps before the end."""
    kill_resume.AFTER = 50
    forked.main("evenkeel.benchmarks.endurance.chaos", *flags)


def benchmark(*flags: str) -> subprocess.CompletedProcess[str]:
    return forked.run(chaos, *flags)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_one_left_alone(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "result.json"
    done = benchmark("--kills=1", "--terms=1", "--replicas=1", f"--output={path}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {(r.case, r.metric): r.median for r in read(path).results}
    assert {metric for _, metric in found} == {"bit_equal", "kills", "resumes", "kills_in_saves", "steps_lost_max"}
    assert found["replicas1", "bit_equal"] == 1
    assert (found["replicas1", "kills"], found["replicas1", "resumes"]) == (1, 2)
    assert 0 <= found["replicas1", "steps_lost_max"] <= kill_resume.MOST_LOST
    assert "are those of the straight run" in done.stdout


def test_bad_input_is_one_line_and_exit_code_2() -> None:
    for flag, words in (("--kills=-1", "must not be negative"), ("--replicas=3", "must be 1, 2 or 1,2")):
        done = benchmark(flag)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {flag.split('=')[0]} (")
        assert words in done.stderr


def test_a_life_that_ends_in_another_way_is_told(tmp_path: pathlib.Path) -> None:
    """A run directory that cannot be made: the child refuses, and its words are in the error."""
    (tmp_path / "file").write_text("")
    life = kill_resume.Life(str(tmp_path / "file/run"), str(tmp_path / "told"), 1, 1)
    with life:
        with pytest.raises(kill_resume.Unendured, match="before step 5"):
            life.comes_to(5)
        with pytest.raises(kill_resume.Unendured, match="ended with 1 and not with 0"):
            life.ends(0)


def test_only_checkpoints_with_a_name_count(tmp_path: pathlib.Path) -> None:
    for name in ("step-00000010", "writing-00000030", "damaged-step-00000020"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert kill_resume.newest_step(str(tmp_path)) == 10
    assert kill_resume.told_step(str(tmp_path / "absent")) == 0
