"""Whether a directory is what was sealed."""

from __future__ import annotations

import errno
import os
import pathlib

import pytest

from evenkeel.models.training import checksums


def held(directory: pathlib.Path) -> str:
    for name, content in (("variables", os.urandom(3 * checksums.BLOCK + 7)), ("state.json", b"{}"), ("empty", b"")):
        (directory / name).write_bytes(content)
    checksums.seal(str(directory))
    return str(directory)


def test_a_sealed_directory_is_whole(tmp_path: pathlib.Path) -> None:
    assert checksums.fault(held(tmp_path)) == ""


def test_what_is_not_as_it_was_is_named(tmp_path: pathlib.Path) -> None:
    directory = held(tmp_path)
    variables = tmp_path / "variables"
    whole = variables.read_bytes()
    for damaged in (whole[:-1], whole + b"\0", whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        variables.write_bytes(damaged)
        assert checksums.fault(directory) == "variables is not what was written"
    variables.unlink()
    assert checksums.fault(directory) == "variables cannot be read"
    sums = tmp_path / checksums.SUMS
    for content, told in ((b"[]", "is not a list of files"), (b"{", "is not JSON"), (b"\xff", "is not JSON")):
        sums.write_bytes(content)
        assert checksums.fault(directory) == f"{checksums.SUMS} {told}"
    sums.unlink()
    assert checksums.fault(directory) == f"{checksums.SUMS} cannot be read"
    assert checksums.fault(str(tmp_path / "absent")) == f"{checksums.SUMS} cannot be read"


def test_flushing_fails_where_it_matters(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held(tmp_path)

    def failing(number: int):
        def fsync(_: int) -> None:
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    checksums.flush(str(tmp_path))  # a file system that flushes no directories
    with pytest.raises(OSError, match="Invalid argument"):
        checksums.flush(str(tmp_path / "variables"))
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        checksums.flush(str(tmp_path))
    checksums.flush("gs://bucket/checkpoints")
