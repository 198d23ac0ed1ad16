"""Which changes an input is told of, and against what they are reckoned."""

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
from evenkeel.pipeline.index.index import Entries, Index
from evenkeel.pipeline.profile import suggestions
from evenkeel.pipeline.reading import reader
from tests.pipeline.jpeg.test_seek_index import jpeg

ENTERED = {"entries": True}
SPENT = {"read": 0.1, "plan": 0.1, "decode": 1.0, "augment": 0.2}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(12):
        label = folder / ("validation" if number > 7 else "train") / "ab"[number % 2]
        label.mkdir(parents=True, exist_ok=True)
        (label / f"{number}.jpg").write_bytes(jpeg(300, 400 + number, seed=number, quality=95))
    return folder


def config_of(folder: Path, **changes: Any) -> DataConfig:
    augment = AugmentConfig(random_resized_crop=0.92)
    return dataclasses.replace(DataConfig(str(folder), image_size=48, batch_size=4, augment=augment), **changes)


def changes_of(config: DataConfig, data: Dataset) -> list[suggestions.Candidate]:
    return suggestions.candidate_changes("decode", SPENT, 0.0, {}, data, config, seed=0)


def options_of(config: DataConfig, data: Dataset) -> list[dict[str, Any]]:
    return [each.options for each in changes_of(config, data)]


def test_entries_are_found_and_tried_for_a_sample(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what a tier gains is reckoned against what is read of a file now."""
    tried: list[Index] = []

    def taken(data: Dataset, config: DataConfig, seed: int) -> tuple[float, float]:
        tried.append(data.train)
        assert config.cache in ("none", "memory"), "what all images have no room for, a few would have"
        return (2.0 if data.train.entries is None else 1.5), 0.0

    monkeypatch.setattr(suggestions, "taken", taken)
    config = config_of(photographs)
    data = load_dataset(config)
    before = sorted(path.name for path in Path(data.train.shards[0]).parent.iterdir())
    (of,) = [each for each in changes_of(config, data) if each.options == ENTERED]
    assert of.cpu == pytest.approx(sum(SPENT.values()) / 4)
    assert sorted(path.name for path in Path(data.train.shards[0]).parent.iterdir()) == before

    (entered,) = [index for index in tried if index.entries is not None]
    stored = list(reader.stored_images(entered)(tf.range(len(entered), dtype=tf.int64)).as_numpy_iterator())
    windows = tf.constant([[100, 120, 90, 110]] * 8)
    assert suggestions._as_read(dataclasses.replace(entered, entries=None), stored, windows)[0] == stored
    for contents, less, its in zip(stored, *suggestions._as_read(entered, stored, windows), strict=True):
        assert len(less) < len(contents) / 2
        np.testing.assert_array_equal(decode_crop(less, its, True, 3), decode_crop(contents, windows[0], True, 3))


def test_entries_are_not_sought_where_they_cannot_be_had(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suggestions, "taken", lambda *of: (1.0, 0.0))
    tried: list[Index] = []
    monkeypatch.setattr(suggestions.entries, "with_entries", lambda index, *_: tried.append(index) or index)
    config = config_of(photographs)
    of = load_dataset(config)
    assert ENTERED not in options_of(config, of)
    assert len(tried.pop()) == 8
    for changes in ({"service": "grpc://a:1"}, {"reader": "streaming"}, {"cache": "memory"}):
        assert ENTERED not in options_of(config_of(photographs, **changes), of), changes
    entered = dataclasses.replace(of, train=dataclasses.replace(of.train, entries=Entries(np.zeros(0), np.zeros(0))))
    assert ENTERED not in options_of(config, entered)
    assert tried == []
