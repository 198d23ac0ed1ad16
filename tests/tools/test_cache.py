"""evenkeel cache: the list, and what --clear removes."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.sources import cache_entries
from evenkeel.pipeline.sources.cache_entries import list_entries, use_entry
from evenkeel.tools import cache as tool
from tests import command_line


@pytest.fixture
def entries(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, pathlib.Path]:
    """{source: its entry} of two folders, one of which is gone; no process uses them."""
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path / "cache"))
    made = {}
    for name in ("pets", "gone"):
        entry = tmp_path / "cache" / "folders" / name
        entry.mkdir(parents=True)
        (entry / "shard").write_bytes(bytes(1500))
        use_entry(str(entry), str(tmp_path / name))
        made[str(tmp_path / name)] = entry
    (tmp_path / "pets").mkdir()
    monkeypatch.setattr(cache_entries, "is_used", lambda path: False)
    return made


def test_the_list_gives_size_source_and_state(entries: dict[str, pathlib.Path]) -> None:
    lines = [tool.format_entry(entry) for entry in list_entries()]
    assert len(lines) == 2
    for source, entry in entries.items():
        (line,) = (line for line in lines if source in line)
        assert line.startswith("  1.5 KB  20")
        assert f"  folder          {'stale ' if source.endswith('gone') else '      '}  {source}  ({entry})" in line


def test_names_reach_the_terminal_printable(entries: dict[str, pathlib.Path]) -> None:
    entry = dataclasses.replace(list_entries()[0], source="/data/\x1b[31mred\n")
    assert "/data/\\x1b[31mred\\n" in tool.format_entry(entry)


@pytest.mark.parametrize("which", ["stale", "all", "source", "path", "link"])
def test_clear_removes_what_it_names(entries: dict[str, pathlib.Path], which: str, tmp_path: pathlib.Path) -> None:
    pets, gone = entries
    (tmp_path / "link").symlink_to(pets)
    argument = {"source": pets + "/", "path": str(entries[pets]), "link": str(tmp_path / "link")}.get(which, which)
    lines = tool.clear(list_entries(), argument)
    left = {entry.source for entry in list_entries()}
    assert left == {"stale": {pets}, "all": set()}.get(which, {gone})
    assert len(lines) == 2 + (which == "all")
    assert lines[-1] == f"{'3.0' if which == 'all' else '1.5'} KB removed from {tmp_path / 'cache'}"


def test_what_is_in_use_is_kept_and_said(entries: dict[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_entries, "is_used", lambda path: path.endswith("pets"))
    lines = tool.clear(list_entries(), "all")
    assert sum(line.startswith("kept, because a process uses it: ") for line in lines) == 1
    assert [entry.in_use for entry in list_entries()] == [True]


def test_an_unknown_source_is_an_error_that_says_where_to_look(entries: dict[str, pathlib.Path]) -> None:
    with pytest.raises(UsageError, match=r"--clear \(/nowhere\) is neither stale, nor all, nor a source in the cache"):
        tool.clear(list_entries(), "/nowhere")
    assert len(list_entries()) == 2


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (131e6, "131 MB"), (2.5e15, "2500 TB")]
)
def test_sizes_have_a_readable_unit(size: int, text: str) -> None:
    assert tool.format_size(size) == text


def test_the_command_prints_a_total_and_refuses_nonsense(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path))
    assert command_line.tool("cache").stdout == f"0 B in {tmp_path}\n"
    assert "--clear (pets) is neither" in command_line.refused(command_line.tool("cache", "--clear=pets"))
