"""The history of results: one file per machine, one line per result file."""

from __future__ import annotations

import pathlib

import pytest

from evenkeel.benchmarks.report import history_store
from evenkeel.pipeline.errors import UsageError
from tests.command_line import result_file


def test_each_machine_has_its_own_file_and_old_lines_are_kept(tmp_path: pathlib.Path) -> None:
    first = history_store.append_results(result_file(1.0, "aaa"), str(tmp_path))
    before = pathlib.Path(first).read_text()
    assert history_store.append_results(result_file(1.2, "bbb"), str(tmp_path)) == first
    assert history_store.append_results(result_file(9.0, "bbb", "another"), str(tmp_path)) != first
    assert pathlib.Path(first).read_text().startswith(before)
    history = history_store.read_history(str(tmp_path))
    assert sorted(len(lines) for lines in history.values()) == [1, 2]
    lines = history[pathlib.Path(first).stem]
    assert [line["commit"] for line in lines] == ["aaa", "bbb"]
    assert lines[1]["results"][0]["median"] == 1.2
    assert lines[1]["results"][1]["ci95"] == [0.9, 0.98]


def test_a_new_driver_or_kernel_is_the_same_machine_but_a_gpu_is_another(tmp_path: pathlib.Path) -> None:
    without_gpu = result_file(1.0, "ccc").environment
    old = {**without_gpu, "gpu": ["H100", "H100"], "os": "Linux 5"}
    new = {**without_gpu, "gpu": ["H100, 570.1", "H100, 570.1"], "os": "Linux 6"}
    assert history_store.machine_fingerprint(old) == history_store.machine_fingerprint(new)
    assert history_store.machine_fingerprint(old) != history_store.machine_fingerprint(without_gpu)


def test_an_incomplete_last_line_is_ignored(tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(history_store.append_results(result_file(1.0, "aaa"), str(tmp_path)))
    path.write_text(path.read_text() + '{"time": "20')
    assert [line["commit"] for line in history_store.read_history(str(tmp_path))[path.stem]] == ["aaa"]
    history_store.append_results(result_file(2.0, "bbb"), str(tmp_path))
    assert [line["commit"] for line in history_store.read_history(str(tmp_path))[path.stem]] == ["aaa", "bbb"]


def test_a_missing_or_broken_history_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match=r"has no results yet"):
        history_store.read_history(str(tmp_path / "none"))
    (tmp_path / "x.jsonl").write_text("no json\n")
    with pytest.raises(UsageError, match=r"x.jsonl is not a history file"):
        history_store.read_history(str(tmp_path))
