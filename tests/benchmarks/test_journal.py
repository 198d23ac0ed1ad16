"""A journal goes on where it was, whatever cut it short; processes hand back every case once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from evenkeel.benchmarks import workers
from evenkeel.benchmarks.journal import Journal
from evenkeel.pipeline.errors import UsageError


def test_a_journal_goes_on(tmp_path) -> None:
    path = str(tmp_path / "cases.jsonl")
    journal = Journal(path, {"suite": "quick"})
    journal.add("clean/0", {"accuracy": 0.5})
    journal.add("clean/1", {"accuracy": 0.6})
    again = Journal(path, {"suite": "quick"})
    assert again.records == {"clean/0": {"accuracy": 0.5}, "clean/1": {"accuracy": 0.6}}
    again.add("clean/2", {"accuracy": 0.7})
    assert list(Journal(path, {"suite": "quick"}).records) == ["clean/0", "clean/1", "clean/2"]


@pytest.mark.parametrize("kept", [1, 10, 25])
def test_a_line_that_was_cut_short_is_left_out_and_written_over(tmp_path, kept: int) -> None:
    path = str(tmp_path / "cases.jsonl")
    Journal(path, {}).add("clean/0", {"accuracy": 0.5})
    whole = os.path.getsize(path)
    Journal(path, {}).add("clean/1", {"accuracy": 0.6})
    os.truncate(path, whole + kept)
    journal = Journal(path, {})
    assert list(journal.records) == ["clean/0"]
    journal.add("clean/2", {"accuracy": 0.7})
    assert list(Journal(path, {}).records) == ["clean/0", "clean/2"]


def test_a_journal_of_other_settings_is_refused(tmp_path) -> None:
    path = str(tmp_path / "cases.jsonl")
    Journal(path, {"suite": "quick"})
    with pytest.raises(UsageError, match=r"cases\.jsonl is the journal of a run with other settings .* give another"):
        Journal(path, {"suite": "full"})
    assert Journal(path, None).records == {}
    with pytest.raises(UsageError, match=r"none\.jsonl holds no cases: give the --output"):
        Journal(str(tmp_path / "none.jsonl"), None)
    assert not (tmp_path / "none.jsonl").exists()


def test_what_is_no_journal_is_refused(tmp_path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text("hello\n")
    with pytest.raises(UsageError, match=r"cases\.jsonl is not a journal"):
        Journal(str(path), {})


def test_a_journal_that_cannot_be_written_is_a_line(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"the journal .* cannot be written: No such file or directory; give another"):
        Journal(str(tmp_path / "missing" / "cases.jsonl"), {})


# In processes of their own: what they run must be importable there.


def make_squares():
    return lambda case: {"square": case * case, "process": os.getpid()}


def make_failing():
    def work(case):
        if case == 3:
            raise ValueError("three is too many")
        return {}

    return work


def make_refusing():
    def work(case):
        raise UsageError("data.source (nowhere) is not there: give another.")

    return work


def make_dying():
    return lambda case: os._exit(7)


def test_every_case_comes_back_once_and_a_group_stays_together() -> None:
    groups = [[1, 2, 3], [4, 5], [6]]
    found = dict(workers.run(groups, make_squares, processes=2))
    assert {case: values["square"] for case, values in found.items()} == {n: n * n for n in range(1, 7)}
    for group in groups:
        assert len({found[case]["process"] for case in group}) == 1
    assert os.getpid() not in {values["process"] for values in found.values()}


def test_what_a_case_raises_is_told_with_its_traceback() -> None:
    with pytest.raises(workers.Failed, match=r"(?s)Traceback.*three is too many"):
        list(workers.run([[1, 2], [3]], make_failing, processes=1))


def test_bad_input_comes_back_as_a_line() -> None:
    with pytest.raises(UsageError, match=r"^data\.source \(nowhere\) is not there"):
        list(workers.run([[1]], make_refusing, processes=1))


def test_a_process_that_dies_is_noticed() -> None:
    with pytest.raises(workers.Failed, match="the processes ended with 2 cases to go"):
        list(workers.run([[1], [2]], make_dying, processes=1))


def test_nothing_to_do_is_done() -> None:
    assert list(workers.run([], make_squares, processes=2)) == []


def test_processes_end_when_their_parent_is_killed(tmp_path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "{}\n"
        parent.kill()
        # Its end of the pipe closes when the child, which holds it too and waits for ever, is gone.
        parent.communicate(timeout=60)


PARENT = """
from benchmarks import workers
from tests.benchmarks.test_journal import make_waiting

if __name__ == "__main__":
    for _, values in workers.run([[1], [2]], make_waiting, processes=1):
        print(values, flush=True)
"""


def make_waiting():
    def work(case):
        if case == 2:
            signal.pause()
        return {}

    return work
