"""Where prepared data are cached, and what is said if they cannot be."""

from __future__ import annotations

import errno
import os
import pathlib
import tempfile
from collections.abc import Callable

import pytest
import tensorflow as tf

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.sources import cache_dir as module
from evenkeel.pipeline.sources.cache_dir import cache_dir, cache_errors


@pytest.fixture
def temporary(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The user's directory below the system's temporary one; $EVENKEEL_CACHE is not set."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("EVENKEEL_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(module, "_writable", module._writable.__wrapped__)
    return tmp_path / f"evenkeel-{os.getuid()}"


def test_the_cache_directory_comes_from_the_environment(
    temporary: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert cache_dir() == str(tmp_path / "me/.cache/evenkeel")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "somewhere"))
    assert cache_dir() == str(tmp_path / "somewhere/evenkeel")
    monkeypatch.setenv("EVENKEEL_CACHE", "/anywhere")
    assert cache_dir() == "/anywhere"
    assert not temporary.exists()


@pytest.mark.parametrize("home", ["/dev/null/me", "/proc/me"])
def test_without_a_writable_home_the_cache_is_temporary_and_private(
    home: str, temporary: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", home)
    assert cache_dir() == str(temporary)
    assert temporary.stat().st_mode & 0o777 == 0o700
    (message,) = caplog.messages
    assert message.startswith(f"the cache {home}/.cache/evenkeel cannot be written to (")
    assert f"): {temporary} is used, which may not outlive a restart of the machine" in message


@pytest.mark.parametrize(
    "prepare",
    [
        lambda path: path.symlink_to(path.parent),
        lambda path: path.write_text(""),
        lambda path: path.mkdir(0o777) or path.chmod(0o777),
    ],
)
def test_a_temporary_directory_that_others_can_change_is_refused(
    prepare: Callable[[pathlib.Path], None], temporary: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/dev/null/me")
    prepare(temporary)
    with pytest.raises(UsageError, match=f"{temporary} is not a directory of yours alone: set EVENKEEL_CACHE to a"):
        cache_dir()


def test_a_url_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENKEEL_CACHE", "gs://bucket/cache")
    with pytest.raises(UsageError, match=r"^EVENKEEL_CACHE \(gs://bucket/cache\) must be a directory of this machine"):
        cache_dir()


def raised_by_tfds() -> None:
    try:
        raise tf.errors.ResourceExhaustedError(None, None, "/x/shapes/1.tfrecord; No space left on device")
    except tf.errors.OpError as error:
        raise RuntimeError("Failed to construct dataset shapes") from error


def fail(error: Exception) -> Callable[[], None]:
    def raise_error() -> None:
        raise error

    return raise_error


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (fail(OSError(errno.ENOSPC, "No space left on device")), "is full (No space left on device)"),
        (fail(OSError(errno.EDQUOT, "Disk quota exceeded")), "is full (Disk quota exceeded)"),
        (raised_by_tfds, "is full (No space left on device)"),
        (lambda: os.makedirs(f"{cache_dir()}/folders/x"), "cannot be written to (Not a directory)"),
        (fail(PermissionError(errno.EACCES, "Permission denied", "/dev/null/a/x")), "cannot be written to (Permission"),
    ],
)
def test_what_keeps_the_cache_from_being_written_is_one_line(
    cause: Callable[[], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENKEEL_CACHE", "/dev/null/a")
    with pytest.raises(UsageError, match="EVENKEEL_CACHE") as raised, cache_errors():
        cause()
    assert str(raised.value).startswith(f"the cache (/dev/null/a) {words}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "/data/pets/1.jpg"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/pets/1.jpg"),
        tf.errors.NotFoundError(None, None, "gs://pets/1.jpg; No such file or directory"),
        UsageError("source is empty"),
        ZeroDivisionError(),
    ],
)
def test_other_errors_are_not_blamed_on_the_cache(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, cache_errors():
        raise error
    assert raised.value is error
