"""Worker processes return every case once, pass on errors, and end with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from evenkeel.benchmarks import workers
from evenkeel.pipeline.errors import UsageError

# The worker processes import these functions by name.


def make_squares():
    return lambda case: {"square": case * case, "process": os.getpid()}


def make_failing():
    def work(case):
        if case == 3:
            raise ValueError("three is too many")
        return {}

    return work


def make_usage_error():
    def work(case):
        raise UsageError("data.source (nowhere) is not there: give another.")

    return work


def make_dying():
    return lambda case: os._exit(7)


def test_every_case_is_returned_once_and_a_group_runs_in_one_process() -> None:
    groups = [[1, 2, 3], [4, 5], [6]]
    values_of = dict(workers.run_groups(groups, make_squares, processes=2))
    assert {case: values["square"] for case, values in values_of.items()} == {n: n * n for n in range(1, 7)}
    for group in groups:
        assert len({values_of[case]["process"] for case in group}) == 1
    assert os.getpid() not in {values["process"] for values in values_of.values()}


def test_an_exception_of_a_case_is_raised_with_its_traceback() -> None:
    with pytest.raises(workers.WorkerError, match=r"(?s)Traceback.*three is too many"):
        list(workers.run_groups([[1, 2], [3]], make_failing, processes=1))


def test_a_usage_error_of_a_case_is_raised_as_it_is() -> None:
    with pytest.raises(UsageError, match=r"^data\.source \(nowhere\) is not there"):
        list(workers.run_groups([[1]], make_usage_error, processes=1))


def test_a_process_that_dies_is_an_error() -> None:
    with pytest.raises(workers.WorkerError, match="all worker processes ended before 2 of the cases had run"):
        list(workers.run_groups([[1], [2]], make_dying, processes=1))


def test_no_groups_yield_no_cases() -> None:
    assert list(workers.run_groups([], make_squares, processes=2)) == []


def test_processes_end_when_their_parent_is_killed(tmp_path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "{}\n"
        parent.kill()
        # The pipe closes only when the worker process, which also holds it and waits for ever, has ended.
        parent.communicate(timeout=60)


PARENT = """
from evenkeel.benchmarks import workers
from tests.benchmarks.test_workers import make_waiting

if __name__ == "__main__":
    for _, values in workers.run_groups([[1], [2]], make_waiting, processes=1):
        print(values, flush=True)
"""


def make_waiting():
    def work(case):
        if case == 2:
            signal.pause()
        return {}

    return work
