"""The changes that are suggested for an input, and what their savings are compared with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import Dataset, load_dataset
from evenkeel.pipeline.images.decode import decode_crop
from evenkeel.pipeline.index.index import Index, SeekArrays
from evenkeel.pipeline.jpeg import worker
from evenkeel.pipeline.profile import suggestions
from evenkeel.pipeline.profile.decode_timing import contents_as_read
from evenkeel.pipeline.reading import reader
from tests.pipeline.jpeg.jpegs import encode_jpeg, run_forked_workers

SEEK_INDEX = {"entries": True}
STAGE_MS = {"read": 0.1, "plan": 0.1, "decode": 1.0, "augment": 0.2}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(12):
        label = folder / ("validation" if number > 7 else "train") / "ab"[number % 2]
        label.mkdir(parents=True, exist_ok=True)
        (label / f"{number}.jpg").write_bytes(encode_jpeg(300, 400 + number, seed=number, quality=95))
    return folder


def config_of(folder: Path, **changes: Any) -> DataConfig:
    augment = AugmentConfig(random_resized_crop=0.92)
    return dataclasses.replace(DataConfig(str(folder), image_size=48, batch_size=4, augment=augment), **changes)


def candidates(config: DataConfig, data: Dataset) -> list[suggestions.Candidate]:
    return suggestions.candidate_changes("decode", STAGE_MS, 0.0, {}, data, config, seed=0)


def options_of(config: DataConfig, data: Dataset) -> list[dict[str, Any]]:
    return [candidate.options for candidate in candidates(config, data)]


def test_a_seek_index_is_built_and_tried_for_a_sample(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage tiers are compared with the bytes that are read of a file now."""
    tried: list[Index] = []

    def time_chain(data: Dataset, config: DataConfig, seed: int) -> tuple[float, float]:
        tried.append(data.train)
        assert config.cache in ("none", "memory"), "a sample would fit into memory even if the data set does not"
        return (2.0 if data.train.seek_arrays is None else 1.5), 0.0

    monkeypatch.setattr(suggestions, "time_chain", time_chain)
    monkeypatch.setattr(worker, "run_workers", run_forked_workers)
    config = config_of(photographs)
    data = load_dataset(config)
    before = sorted(path.name for path in Path(data.train.shards[0]).parent.iterdir())
    (candidate,) = [each for each in candidates(config, data) if each.options == SEEK_INDEX]
    assert candidate.saved_cpu_ms == pytest.approx(sum(STAGE_MS.values()) / 4)
    assert sorted(path.name for path in Path(data.train.shards[0]).parent.iterdir()) == before

    (indexed,) = [index for index in tried if index.seek_arrays is not None]
    stored = list(reader.make_record_reader(indexed)(tf.range(len(indexed), dtype=tf.int64)).as_numpy_iterator())
    regions = tf.constant([[100, 120, 90, 110, 0]] * 8)
    assert contents_as_read(dataclasses.replace(indexed, seek_arrays=None), stored, regions)[0] == stored
    for contents, part, region in zip(stored, *contents_as_read(indexed, stored, regions), strict=True):
        assert len(part) < len(contents) / 2
        expected = decode_crop(contents, regions[0, :4], True, 3)
        np.testing.assert_array_equal(decode_crop(part, region[:4], True, 3), expected)


def test_no_seek_index_is_built_where_it_cannot_be_used(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggestions, "time_chain", lambda *arguments: (1.0, 0.0))
    tried: list[Index] = []
    monkeypatch.setattr(suggestions.seek_index, "open_seek_index", lambda index, *_: tried.append(index) or index)
    config = config_of(photographs)
    data = load_dataset(config)
    assert SEEK_INDEX not in options_of(config, data)
    assert len(tried.pop()) == 8
    for changes in ({"service": "grpc://a:1"}, {"reader": "streaming"}, {"cache": "memory"}):
        assert SEEK_INDEX not in options_of(config_of(photographs, **changes), data), changes
    indexed = dataclasses.replace(
        data, train=dataclasses.replace(data.train, seek_arrays=SeekArrays(np.zeros(0), np.zeros(0)))
    )
    assert SEEK_INDEX not in options_of(config, indexed)
    assert tried == []
