"""Whether a directory is what was sealed."""

from __future__ import annotations

import errno
import os
import pathlib

import pytest

from evenkeel.models.training import checksums


def held(directory: pathlib.Path) -> str:
    for name, content in (
        ("variables", os.urandom(3 * checksums.BLOCK_BYTES + 7)),
        ("state.json", b"{}"),
        ("empty", b""),
    ):
        (directory / name).write_bytes(content)
    checksums.write_checksums(str(directory))
    return str(directory)


def test_a_sealed_directory_is_whole(tmp_path: pathlib.Path) -> None:
    assert checksums.find_damage(held(tmp_path)) == ""


def test_what_is_not_as_it_was_is_named(tmp_path: pathlib.Path) -> None:
    directory = held(tmp_path)
    variables = tmp_path / "variables"
    whole = variables.read_bytes()
    for damaged in (whole[:-1], whole + b"\0", whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        variables.write_bytes(damaged)
        assert checksums.find_damage(directory) == "variables is not what was written"
    variables.unlink()
    assert checksums.find_damage(directory) == "variables cannot be read"
    sums = tmp_path / checksums.CHECKSUM_FILE
    for content, told in ((b"[]", "is not a list of files"), (b"{", "is not JSON"), (b"\xff", "is not JSON")):
        sums.write_bytes(content)
        assert checksums.find_damage(directory) == f"{checksums.CHECKSUM_FILE} {told}"
    sums.unlink()
    assert checksums.find_damage(directory) == f"{checksums.CHECKSUM_FILE} cannot be read"
    assert checksums.find_damage(str(tmp_path / "absent")) == f"{checksums.CHECKSUM_FILE} cannot be read"


def test_flushing_fails_where_it_matters(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held(tmp_path)

    def failing(number: int):
        def fsync(_: int) -> None:
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    checksums.sync_to_disk(str(tmp_path))  # a file system that flushes no directories
    with pytest.raises(OSError, match="Invalid argument"):
        checksums.sync_to_disk(str(tmp_path / "variables"))
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        checksums.sync_to_disk(str(tmp_path))
    checksums.sync_to_disk("gs://bucket/checkpoints")
