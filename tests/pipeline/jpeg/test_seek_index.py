"""The seek index of whole data sets, built by real processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evenkeel.pipeline.build import evaluation_batches, training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig, ShapesConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.jpeg import worker
from evenkeel.pipeline.jpeg.seek_index import HEADER_FILE, SEEK_INDEX_DIR
from evenkeel.pipeline.jpeg.worker import FILLER_FILE, POINTS_FILE
from evenkeel.pipeline.reading import memory_map
from tests.pipeline.jpeg.jpegs import (
    draw_picture,
    encode_jpeg,
    run_forked_workers,
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of JPEGs that are large enough for seek points, one progressive JPEG, and one PNG."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(10):
        label = folder / "train" / "ab"[number % 2]
        label.mkdir(parents=True, exist_ok=True)
        image = encode_jpeg(300, 400 + number, seed=number, subsampling=number % 3, quality=95, progressive=number == 4)
        (label / f"{number}.jpg").write_bytes(image)
    Image.fromarray(draw_picture(200, 200, seed=99)).save(folder / "train" / "a" / "other.png")
    for number, name in enumerate("ab"):
        (folder / "validation" / name).mkdir(parents=True)
        image = encode_jpeg(310, 390, seed=20 + number, quality=95)
        (folder / "validation" / name / "1.jpg").write_bytes(image)
    return folder


def make_config(folder: Path, **changes: Any) -> DataConfig:
    augment = AugmentConfig(random_resized_crop=0.92, flip=0.5)
    return DataConfig(str(folder), image_size=48, batch_size=4, cache="none", augment=augment, **changes)


def seek_index_dir(index: Index) -> Path:
    return Path(index.shards[0]).parent / SEEK_INDEX_DIR


def read_batches(config: DataConfig, count: int) -> list[tuple[np.ndarray, ...]]:
    data, replica_shard = load_dataset(config), ReplicaShard(config.batch_size)
    train = list(training_batches(data, config, 0, replica_shard).take(count).as_numpy_iterator())
    return train + list(evaluation_batches(data.validation, config, replica_shard).as_numpy_iterator())


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_batches_are_equal_with_and_without_a_seek_index(photographs: Path, channels: int) -> None:
    without = read_batches(make_config(photographs, channels=channels), 12)
    changed = make_config(photographs, channels=channels, entries=True)
    index = load_dataset(changed).train
    assert index.seek_arrays is not None
    names = [Path(name).stem for name in index.names]
    has_points = {name: bool(record[0] >= 0) for name, record in zip(names, index.columns["seek_record"], strict=True)}
    assert has_points == {**{str(number): number != 4 for number in range(10)}, "other": False}
    for batch, expected_batch in zip(read_batches(changed, 12), without, strict=True):
        for actual, expected in zip(batch, expected_batch, strict=True):
            np.testing.assert_array_equal(actual, expected)


@pytest.mark.slow
def test_a_seek_index_is_stored_and_built_anew_when_it_is_out_of_date(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(photographs, entries=True)
    index = load_dataset(config).train
    store = seek_index_dir(index)
    written = (store / POINTS_FILE).stat().st_mtime_ns
    monkeypatch.setattr(worker, "run_workers", lambda *_: pytest.fail("built again"))
    again = load_dataset(config).train
    np.testing.assert_array_equal(again.columns["seek_record"], index.columns["seek_record"])
    monkeypatch.setattr(worker, "run_workers", run_forked_workers)
    header = json.loads((store / HEADER_FILE).read_text())
    (store / HEADER_FILE).write_text(json.dumps({**header, "state": {**header["state"], "version": 0}}))
    load_dataset(config)
    assert json.loads((store / HEADER_FILE).read_text()) == header
    assert (store / POINTS_FILE).stat().st_mtime_ns > written
    os.truncate(store / FILLER_FILE, 1000)
    assert load_dataset(config).train.seek_arrays is not None
    assert (store / FILLER_FILE).stat().st_size == header["bytes"][1]


def test_a_process_that_dies_is_a_one_line_error_and_leaves_no_files(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(photographs, entries=True)
    store = seek_index_dir(load_dataset(config).train)
    (store / HEADER_FILE).unlink()  # as if it had never been built
    before = sorted(path.name for path in store.parent.iterdir())
    monkeypatch.setattr(worker, "COMMAND", "import os; print(1, flush=True); os.kill(os.getpid(), 9)")
    line = (
        r"^the seek index of JPEGs cannot be built \(SIGKILL\): fix this cause,"
        r" or turn the index off with --data\.entries=false\.$"
    )
    with pytest.raises(UsageError, match=line):
        load_dataset(config)
    monkeypatch.setattr(worker, "COMMAND", "print(1, flush=True); raise ValueError('the reason')")
    with pytest.raises(
        UsageError, match=r"^the seek index of JPEGs cannot be built \(ValueError: the reason\): fix this cause"
    ):
        load_dataset(config)
    assert sorted(path.name for path in store.parent.iterdir()) == before
    leftover = store.with_name(f".{SEEK_INDEX_DIR}.left")  # of a killed process
    leftover.mkdir()
    monkeypatch.setattr(worker, "run_workers", run_forked_workers)
    assert load_dataset(config).train.seek_arrays is not None
    assert not leftover.exists()


def test_no_seek_index_is_built_for_small_images(caplog: pytest.LogCaptureFixture) -> None:
    from absl import logging

    logging.set_verbosity(logging.INFO)
    with caplog.at_level("INFO", logger="absl"):
        data = load_dataset(DataConfig("shapes", shapes=ShapesConfig(count=100), entries=True))
    assert data.train.seek_arrays is None
    assert "no seek index is built, because JPEGs of less than 32 KB on average gain nothing from it" in caplog.text


def test_a_warning_says_that_streamed_jpegs_are_read_whole(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(memory_map, "available", False)
    assert load_dataset(make_config(photographs, entries=True)).train.seek_arrays is None
    assert "is streamed, so its JPEGs are read whole; copy it to a local disk" in caplog.text


@pytest.mark.parametrize("changes", [{"reader": "streaming"}, {"service": "grpc://a:1"}])
def test_a_seek_index_needs_mapped_shards(changes: dict[str, str]) -> None:
    with pytest.raises(
        UsageError, match=r"^data\.entries needs memory-mapped shards, .*: use --data\.entries=false\.$"
    ):
        DataConfig(entries=True, **changes)  # type: ignore[arg-type]
