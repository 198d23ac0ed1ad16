"""The stored index: found again, and built anew when the data changes."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import re
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index import storage
from evenkeel.pipeline.index.storage import open_index
from tests.pipeline.index.tfds_pictures import (
    equal_indexes,
    fail_if_built,
    flip_bit,
    prepare_tfds,
    record_layout,
    spoil_examples,
)


def test_the_index_is_stored_beside_the_shards_and_read_back(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = prepare_tfds(tmp_path / "data", {"train": spoil_examples({2: {"image": b"no image"}})})
    built = open_index(builder, str(tmp_path / "cache"))
    assert (pathlib.Path(builder.data_dir) / "evenkeel-index.npz").is_file()
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(storage, "build_index", fail_if_built)
    read = open_index(builder, str(tmp_path / "cache"))
    assert equal_indexes(built, read)
    assert read.skip_reasons == ["picture_2.png: cannot be decoded as an image: it is a text file"]


@pytest.mark.parametrize("change", ["time", "length"])
def test_the_index_is_built_anew_when_a_shard_changes(
    fresh: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    open_index(fresh, str(tmp_path))
    shard = str(fresh.info.splits["train"].filepaths[0])
    start, length = list(record_layout(shard))[2]
    if change == "length":
        os.truncate(shard, start)
    else:
        flip_bit(shard, start + 12 + length // 2)
        os.utime(shard, ns=(0, 0))
    rows = open_index(fresh, str(tmp_path))
    assert rows.sizes[0] == os.path.getsize(shard)
    assert len(rows.kept_rows) == (8 if change == "length" else 11)
    monkeypatch.setattr(storage, "build_index", fail_if_built)
    assert equal_indexes(open_index(fresh, str(tmp_path)), rows)


def test_the_index_is_built_anew_when_the_format_version_changes(
    fresh: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_index(fresh, str(tmp_path))
    monkeypatch.setattr(storage, "FORMAT_VERSION", storage.FORMAT_VERSION + 1)
    monkeypatch.setattr(storage, "build_index", fail_if_built)
    with pytest.raises(AssertionError, match="built again"):
        open_index(fresh, str(tmp_path))


def make_read_only(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the index impossible to write below `directory`, for root too."""
    write_arrays = storage._write_arrays

    def write(path: str, header: str, columns: dict[str, np.ndarray]) -> None:
        if path.startswith(directory):
            raise OSError(30, "Read-only file system", path)
        write_arrays(path, header, columns)

    monkeypatch.setattr(storage, "_write_arrays", write)


def test_the_index_is_stored_in_the_cache_if_the_shards_are_read_only(
    fresh: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_read_only(str(fresh.data_dir), monkeypatch)
    built = open_index(fresh, str(tmp_path / "cache"))
    assert not (pathlib.Path(fresh.data_dir) / "evenkeel-index.npz").exists()
    assert len(list((tmp_path / "cache" / "indexes").glob("*.npz"))) == 1
    monkeypatch.setattr(storage, "build_index", fail_if_built)
    assert equal_indexes(open_index(fresh, str(tmp_path / "cache")), built)


def test_a_warning_says_that_the_index_cannot_be_stored(
    fresh: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_read_only("/", monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert len(open_index(fresh, str(tmp_path / "cache")).kept_rows) == 12
    assert (
        f"the index of {fresh.data_dir} cannot be stored, so every start rebuilds it: make its directory writable"
        in caplog.messages
    )


def test_only_the_index_is_added_to_the_directory_of_the_shards(fresh: Any, tmp_path: pathlib.Path) -> None:
    before = set(os.listdir(fresh.data_dir))
    open_index(fresh, str(tmp_path))
    assert set(os.listdir(fresh.data_dir)) - before == {"evenkeel-index.npz"}


def edit_info(builder: Any, **changes: str) -> Any:
    path = pathlib.Path(builder.data_dir) / "dataset_info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return tfds.builder_from_directory(str(builder.data_dir))


def test_another_file_format_is_an_error(fresh: Any) -> None:
    with pytest.raises(UsageError) as raised:
        open_index(edit_info(fresh, fileFormat="array_record"), "unused")
    assert str(raised.value) == (
        "pictures/1.0.0 is stored as array_record; evenkeel reads tfrecord: prepare the data set with"
        " builder.download_and_prepare(file_format='tfrecord')."
    )


def test_a_missing_shard_is_named_in_a_one_line_error(fresh: Any) -> None:
    shard = str(fresh.info.splits["train"].filepaths[1])
    os.remove(shard)
    with pytest.raises(UsageError, match=f"a shard of pictures/1.0.0 cannot be read: .*{re.escape(shard)}") as raised:
        open_index(fresh, "unused")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("contents", [b"", b"no archive", None])
def test_a_damaged_index_is_built_again(
    fresh: Any, tmp_path: pathlib.Path, contents: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    built = open_index(fresh, str(tmp_path))
    path = pathlib.Path(fresh.data_dir) / "evenkeel-index.npz"
    path.write_bytes(path.read_bytes()[:-500] if contents is None else contents)
    assert equal_indexes(open_index(fresh, str(tmp_path)), built)
    (message,) = caplog.messages
    assert message.startswith(f"the index {path} is damaged (")
    assert message.endswith("): it is built again")
    caplog.clear()
    assert equal_indexes(open_index(fresh, str(tmp_path)), built)
    assert caplog.messages == []
