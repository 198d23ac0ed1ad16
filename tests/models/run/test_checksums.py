"""Checksums: intact and damaged directories, and flushing to disk."""

from __future__ import annotations

import errno
import os
import pathlib

import pytest

from evenkeel.models.run import checksums


def write_directory(directory: pathlib.Path) -> str:
    for name, content in (
        ("variables", os.urandom(3 * checksums.BLOCK_BYTES + 7)),
        ("state.json", b"{}"),
        ("empty", b""),
    ):
        (directory / name).write_bytes(content)
    checksums.write_checksums(str(directory))
    return str(directory)


def test_a_directory_with_its_checksums_is_intact(tmp_path: pathlib.Path) -> None:
    assert checksums.find_damage(write_directory(tmp_path)) == ""


def test_the_damaged_file_is_named(tmp_path: pathlib.Path) -> None:
    directory = write_directory(tmp_path)
    variables = tmp_path / "variables"
    whole = variables.read_bytes()
    for damaged in (whole[:-1], whole + b"\0", whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        variables.write_bytes(damaged)
        assert checksums.find_damage(directory) == "variables is not what was written"
    variables.unlink()
    assert checksums.find_damage(directory) == "variables cannot be read"
    sums = tmp_path / checksums.CHECKSUM_FILE
    for content, damage in ((b"[]", "is not a list of files"), (b"{", "is not JSON"), (b"\xff", "is not JSON")):
        sums.write_bytes(content)
        assert checksums.find_damage(directory) == f"{checksums.CHECKSUM_FILE} {damage}"
    sums.unlink()
    assert checksums.find_damage(directory) == f"{checksums.CHECKSUM_FILE} cannot be read"
    assert checksums.find_damage(str(tmp_path / "absent")) == f"{checksums.CHECKSUM_FILE} cannot be read"


def test_an_error_of_flushing_is_raised_except_for_directories_that_cannot_be_flushed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_directory(tmp_path)

    def failing(number: int):
        def fsync(_: int) -> None:
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    checksums.sync_to_disk(str(tmp_path))  # the file system cannot flush directories
    with pytest.raises(OSError, match="Invalid argument"):
        checksums.sync_to_disk(str(tmp_path / "variables"))
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        checksums.sync_to_disk(str(tmp_path))
    checksums.sync_to_disk("gs://bucket/checkpoints")
