"""What the cache holds, and what is removed from it."""

from __future__ import annotations

import os
import pathlib
import shutil

import pytest

from evenkeel.pipeline.config import DataConfig, ShapesConfig
from evenkeel.pipeline.dataset import prepare_storage_tier
from evenkeel.pipeline.sources import cache_entries
from evenkeel.pipeline.sources.cache_entries import CacheEntry, is_used, list_entries, remove_entry
from evenkeel.pipeline.sources.folder_store import store_directory
from evenkeel.pipeline.sources.resolve import resolve
from evenkeel.pipeline.system.file_lock import exclusive_lock
from tests import forked
from tests.pipeline.sources.folders import make_folder, open_pictures


@pytest.fixture
def unused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has used nothing."""
    monkeypatch.setattr(cache_entries, "is_used", lambda path: False)


def test_an_empty_cache_has_no_entries() -> None:
    assert list_entries() == []


def test_entries_have_their_source_size_and_last_use(pets: str, cache: pathlib.Path) -> None:
    opened = open_pictures(pets)
    resolve(DataConfig(shapes=ShapesConfig(size=8, count=20)))
    by_kind = {entry.kind: entry for entry in list_entries()}
    folder = by_kind["folder"]
    assert (folder.path, folder.source) == (opened.directory, pets)
    assert folder.size == sum(path.stat().st_size for path in pathlib.Path(opened.directory).iterdir())
    assert (folder.in_use, folder.stale) == (True, False)
    assert by_kind["shapes"].source == "shapes"
    assert by_kind["shapes"].used >= folder.used
    (cache / "notes.txt").write_text("not ours")
    (cache / "photos").mkdir()
    assert len(list_entries()) == 2, "what others put there is neither listed nor removed"


def find(path: str | pathlib.Path) -> CacheEntry:
    return next(entry for entry in list_entries() if entry.path == str(path))


def test_an_entry_is_removed_with_all_that_belongs_to_it(pets: str, cache: pathlib.Path, unused: None) -> None:
    entry = find(open_pictures(pets).directory)
    assert not entry.in_use
    assert remove_entry(entry)
    assert list((cache / "folders").iterdir()) == []
    assert len(open_pictures(pets).index.kept_rows) == 6


def test_an_entry_that_is_a_file_is_removed(cache: pathlib.Path) -> None:
    (cache / "decoded").mkdir(parents=True)
    (cache / "decoded" / "0123").write_bytes(b"pixels")
    assert remove_entry(find(cache / "decoded" / "0123"))
    assert list((cache / "decoded").iterdir()) == []


def test_what_a_process_uses_or_writes_is_not_removed(pets: str) -> None:
    directory = open_pictures(pets).directory
    assert is_used(directory)
    assert forked.run(remove_and_print, directory).stdout == "False\n", "this process uses it"
    assert not remove_entry(find(directory))
    assert os.path.isdir(directory)


def remove_and_print(directory: str) -> None:
    print(remove_entry(find(directory)))


def test_what_no_living_process_uses_is_removed(pets: str) -> None:
    assert forked.run(open_and_end, pets).returncode == 0
    directory = store_directory(pets)
    with exclusive_lock(directory):
        assert not remove_entry(find(directory)), "a process is writing it"
    assert remove_entry(find(directory))
    assert list_entries() == []


def open_and_end(root: str) -> None:
    open_pictures(root)


def test_entries_without_a_source_unfinished_ones_and_those_of_earlier_versions_are_stale(
    pets: str, cache: pathlib.Path, unused: None
) -> None:
    directory = open_pictures(pets).directory
    unfinished = cache / "tiers" / "0123-raw-8.unfinished"
    earlier = cache / "folders" / "fingerprint" / "folder" / "1.0.0"
    interrupted = cache / "folders" / "0123.removed"
    for path in (unfinished, earlier, interrupted):
        path.mkdir(parents=True)
    stale = {entry.path for entry in list_entries() if entry.stale}
    assert stale == {str(unfinished), str(cache / "folders" / "fingerprint"), str(interrupted)}
    shutil.rmtree(pets)
    assert find(directory).stale
    for entry in list_entries():
        assert remove_entry(entry)
    assert list_entries() == []


@pytest.mark.slow
def test_a_tier_replaces_that_of_the_folder_before_it_changed(pets: str, cache: pathlib.Path, unused: None) -> None:
    def prepare(tier: str) -> str:
        return prepare_storage_tier(DataConfig(source=pets, cache=tier)).source

    other, before = prepare("raw:6"), prepare("raw:8")
    make_folder(pathlib.Path(pets), "train/cat/99.png")
    after = prepare("raw:8")
    assert {entry.path for entry in list_entries()} == {other, after}
    assert before != after
    assert find(after).source == pets
    assert [path for path in (cache / "tiers").iterdir() if path.name.endswith((".unfinished", ".removed"))] == []
