"""One process at a time for a directory, and files that are in use."""

from __future__ import annotations

import fcntl
import pathlib
import signal
import threading

import pytest

from evenkeel.pipeline.system import file_lock
from evenkeel.pipeline.system.file_lock import exclusive_lock, hold_shared, is_held
from tests import forked


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


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_on_a_new_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, waiting, held = str(tmp_path / "pets"), threading.Event(), []
    monkeypatch.setattr(file_lock.logging, "warning", lambda *_: waiting.set())

    def wait() -> None:
        with exclusive_lock(directory):
            held.append(not is_free(tmp_path / ".pets.lock"))

    thread = threading.Thread(target=wait)
    with exclusive_lock(directory):
        thread.start()
        assert waiting.wait(60)
        (tmp_path / ".pets.lock").unlink()
    thread.join()
    assert held == [True]


def test_storage_without_locks_is_a_warning(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with exclusive_lock(str(tmp_path / "pets")):
        pass
    assert "cannot be locked ([Errno 37] No locks available): do not prepare it in another process" in caplog.text


def test_a_file_is_held_until_the_process_ends(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pets.used"
    assert not is_held(str(path))
    with (tmp_path / "out").open("w+") as out:
        process = forked.start(hold_and_wait, str(path), out=out)
        try:
            while not out.read() and process.is_alive():
                out.seek(0)
            assert is_held(str(path))
        finally:
            process.kill()
            process.join()
    assert path.exists()
    assert not is_held(str(path))
    hold_shared(str(path))
    assert is_held(str(path))
    path.unlink()
    assert not is_held(str(path))
    hold_shared(str(path))
    assert is_held(str(path)), "it was removed, and held again"


def hold_and_wait(path: str) -> None:
    hold_shared(path)
    print("held", flush=True)
    signal.pause()
