"""Files that are written completely or not at all."""

from __future__ import annotations

import pathlib

import pytest

from evenkeel.pipeline.system.atomic_write import atomic_write, write_text


def test_a_file_appears_when_the_block_ends(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as file:
        file.write(b"contents")
        assert not path.exists()
    assert path.read_bytes() == b"contents"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path: pathlib.Path, prefix: str) -> None:
    path = tmp_path / "file"
    write_text(f"{prefix}{path}", "old")

    def write_half() -> None:
        with atomic_write(f"{prefix}{path}") as file:
            file.write(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_utf_8_cannot_encode_is_escaped(tmp_path: pathlib.Path) -> None:
    write_text(tmp_path / "file", "ä \udcff")
    assert (tmp_path / "file").read_text() == "ä \\udcff"
