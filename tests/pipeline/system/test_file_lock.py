"""One process at a time for a directory."""

from __future__ import annotations

import fcntl
import pathlib

import pytest

from evenkeel.pipeline.system.file_lock import exclusive_lock


def is_free(path: pathlib.Path) -> bool:
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_the_lock_is_held_inside_the_block_and_free_after_it(tmp_path: pathlib.Path) -> None:
    lock = tmp_path / "sets" / ".pets.lock"
    with exclusive_lock(str(tmp_path / "sets" / "pets")):
        assert not is_free(lock)
    assert is_free(lock)


def test_storage_without_locks_is_a_warning(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with exclusive_lock(str(tmp_path / "pets")):
        pass
    assert "cannot be locked ([Errno 37] No locks available): do not prepare it in another process" in caplog.text
