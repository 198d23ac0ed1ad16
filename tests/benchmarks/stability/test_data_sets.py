"""Data sets made from photographs: their classes, sizes and counts."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from evenkeel.benchmarks.stability import corruptions, data_sets
from evenkeel.pipeline.dataset import load_dataset


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    splits = {
        split: (rng.integers(0, 256, (count, 32, 32, 3), np.uint8), np.arange(count) % 4)
        for split, count in (("train", 400), ("test", 200))
    }
    corruptions.write_folder(str(folder / "data"), splits, list("abcd"))
    return str(folder / "data")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "classes", "train", "test", "shape"),
    [
        ("photos", 4, 400, 200, (32, 32, 3)),
        ("gray", 4, 400, 200, (64, 64, 1)),
        ("few", 4, 200, 100, (32, 32, 3)),
        ("two", 2, 400, 200, (32, 32, 3)),
        ("fifty", 20, 400, 200, (32, 32, 3)),
        ("imbalanced", 4, 177, 200, (32, 32, 3)),
    ],
)
def test_each_data_set_has_its_classes_and_images(
    name: str, classes: int, train: int, test: int, shape: tuple[int, int, int], photos: str
) -> None:
    config = data_sets.write_data_set(name, photos)
    data = load_dataset(config)
    assert (len(data.classes), len(data.train), len(data.validation)) == (classes, train, test)
    assert (*config.image_shape, config.channels) == shape
    assert config == data_sets.write_data_set(name, photos)
    assert corruptions.count_training_images(config) >= train


def test_classes_are_split_by_brightness(photos: str) -> None:
    images = np.repeat(np.arange(40, dtype=np.uint8), 12).reshape(40, 2, 2, 3)
    labels, count = data_sets.split_classes(images, np.arange(40) % 2, 2)
    assert count == 10
    assert labels.tolist() == [5 * (row % 2) + row // 8 for row in range(40)]


def test_a_corruption_of_gray_images_stays_gray(photos: str) -> None:
    config = corruptions.write_copy(data_sets.write_data_set("gray", photos), "inverted", train=20, test=10)
    files = sorted(pathlib.Path(config.source).rglob("*.png"))
    assert len(files) == 30
    assert load_dataset(config).train
