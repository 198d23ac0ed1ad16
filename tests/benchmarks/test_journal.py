"""A journal that was interrupted continues."""

from __future__ import annotations

import os

import pytest

from evenkeel.benchmarks.journal import Journal
from evenkeel.pipeline.errors import UsageError


def test_a_journal_continues(tmp_path) -> None:
    path = str(tmp_path / "cases.jsonl")
    journal = Journal(path, {"suite": "quick"})
    journal.add("clean/0", {"accuracy": 0.5})
    journal.add("clean/1", {"accuracy": 0.6})
    again = Journal(path, {"suite": "quick"})
    assert again.records == {"clean/0": {"accuracy": 0.5}, "clean/1": {"accuracy": 0.6}}
    again.add("clean/2", {"accuracy": 0.7})
    assert list(Journal(path, {"suite": "quick"}).records) == ["clean/0", "clean/1", "clean/2"]


@pytest.mark.parametrize("kept_bytes", [1, 10, 25])
def test_an_incomplete_last_line_is_removed(tmp_path, kept_bytes: int) -> None:
    path = str(tmp_path / "cases.jsonl")
    Journal(path, {}).add("clean/0", {"accuracy": 0.5})
    complete = os.path.getsize(path)
    Journal(path, {}).add("clean/1", {"accuracy": 0.6})
    os.truncate(path, complete + kept_bytes)
    journal = Journal(path, {})
    assert list(journal.records) == ["clean/0"]
    journal.add("clean/2", {"accuracy": 0.7})
    assert list(Journal(path, {}).records) == ["clean/0", "clean/2"]


def test_a_journal_with_other_settings_is_an_error(tmp_path) -> None:
    path = str(tmp_path / "cases.jsonl")
    Journal(path, {"suite": "quick"})
    with pytest.raises(UsageError, match=r"cases\.jsonl is the journal of a run with other settings .* give another"):
        Journal(path, {"suite": "full"})
    assert Journal(path, None).records == {}
    with pytest.raises(UsageError, match=r"none\.jsonl holds no cases: give the --output"):
        Journal(str(tmp_path / "none.jsonl"), None)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_file_that_is_no_journal_is_an_error(tmp_path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text("hello\n")
    with pytest.raises(UsageError, match=r"cases\.jsonl is not a journal"):
        Journal(str(path), {})


def test_a_journal_that_cannot_be_written_is_an_error(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"the journal .* cannot be written: No such file or directory; give another"):
        Journal(str(tmp_path / "missing" / "cases.jsonl"), {})
