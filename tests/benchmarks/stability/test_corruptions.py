"""Dirty copies of a data set: exactly the dirt asked for, nothing else, and the same every time."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from evenkeel.benchmarks.stability import corruptions
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.errors import UsageError

TRAIN, TEST = 200, 40


@functools.cache
def shown(source: str, split: str) -> dict[str, tuple[str, np.ndarray]]:
    """{name: (class, image)} of the files of a split."""
    files = sorted(pathlib.Path(source, split).glob("*/*.png"))
    return {file.name: (file.parent.name, np.asarray(Image.open(file))) for file in files}


@pytest.fixture(scope="module")
def clean(small: DataConfig) -> DataConfig:
    return corruptions.copied(small, "clean", train=TRAIN, test=TEST)


def spoilt(clean: DataConfig, kind: str) -> dict[str, tuple[str, np.ndarray]]:
    copy = corruptions.copied(clean, kind, train=TRAIN, test=TEST)
    assert_same(shown(copy.source, "test"), shown(clean.source, "test"))
    return shown(copy.source, "train")


def assert_same(some: dict, others: dict) -> None:
    assert some.keys() == others.keys()
    for name in some:
        assert some[name][0] == others[name][0]
        np.testing.assert_array_equal(some[name][1], others[name][1])


def differing(some: dict, others: dict) -> list[str]:
    return [name for name in some if not np.array_equal(some[name][1], others[name][1])]


def test_a_clean_copy_holds_the_first_images_as_they_are(small: DataConfig, clean: DataConfig) -> None:
    opened, copy = load_dataset(small), load_dataset(clean)
    assert set(opened.classes) == set(copy.classes)  # a folder's come by the alphabet
    images, labels = corruptions.pixels(opened.train, small, TRAIN)
    files = shown(clean.source, "train")
    assert len(files) == TRAIN
    assert len(shown(clean.source, "test")) == TEST
    for number in (0, 1, TRAIN - 1):
        name, image = files[f"{number:05d}.png"]
        assert name == opened.classes[labels[number]]
        np.testing.assert_array_equal(image, images[number])
    assert len(copy.train) == TRAIN
    assert len(copy.validation) == TEST


def test_a_source_with_fewer_images_gives_all_it_has(small: DataConfig) -> None:
    copy = corruptions.copied(small, "clean", train=10_000, test=10_000)
    assert corruptions.images(copy) == 300
    assert len(shown(copy.source, "test")) == 60


def test_it_is_written_once(clean: DataConfig, small: DataConfig) -> None:
    file = next(pathlib.Path(clean.source, "train").glob("*/*.png"))
    written = file.stat().st_mtime_ns
    assert corruptions.copied(small, "clean", train=TRAIN, test=TEST) == clean
    assert file.stat().st_mtime_ns == written
    assert not [name for name in os.listdir(os.path.dirname(clean.source)) if name.startswith(".")]


def test_the_same_dirt_every_time(clean: DataConfig) -> None:
    images, labels = np.zeros((50, 4, 4, 3), np.uint8), np.arange(50) % 10
    for kind in corruptions.DIRT.values():
        first, second, other = (kind(images, labels, 10, np.random.default_rng(seed)) for seed in (0, 0, 1))
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)
        assert len(other[0]) == len(first[0])
    assert clean.source != corruptions.copied(clean, "label_noise_40", seed=1, train=TRAIN, test=TEST).source


@pytest.mark.parametrize("share", [30, 60])
def test_dark_share(clean: DataConfig, share: int) -> None:
    before, after = shown(clean.source, "train"), spoilt(clean, f"dark_share_{share}")
    dark = differing(after, before)
    assert len(dark) == TRAIN * share // 100
    for name in dark:
        np.testing.assert_array_equal(after[name][1], before[name][1] // 16)
        assert after[name][0] == before[name][0]


def test_outliers(clean: DataConfig) -> None:
    before, after = shown(clean.source, "train"), spoilt(clean, "outliers_60")
    odd = differing(after, before)
    assert len(odd) == 120
    kinds = collections.Counter(
        {0: "black", 255: "white"}.get(after[name][1].min()) if np.ptp(after[name][1]) == 0 else "noise" for name in odd
    )
    assert kinds == {"black": 40, "white": 40, "noise": 40}
    assert all(after[name][0] == before[name][0] for name in odd)


@pytest.mark.parametrize("share", [40, 60])
def test_label_noise(clean: DataConfig, share: int) -> None:
    before, after = shown(clean.source, "train"), spoilt(clean, f"label_noise_{share}")
    assert differing(after, before) == []
    wrong = [name for name in after if after[name][0] != before[name][0]]
    assert len(wrong) == TRAIN * share // 100
    assert len({after[name][0] for name in wrong}) == 10


def test_imbalance() -> None:
    labels = np.random.default_rng(0).permutation(np.arange(1000) % 10)
    images = np.arange(1000, dtype=np.int64)[:, None, None, None]
    kept, left = corruptions.DIRT["imbalance_50"](images, labels, 10, np.random.default_rng(0))
    counts = np.bincount(left, minlength=10)
    assert counts[0] == 100
    assert counts[9] == 2
    ratios = counts[:5] / counts[1:6]
    assert (np.abs(ratios - 50 ** (1 / 9)) < 0.15).all()
    numbers = kept[:, 0, 0, 0]
    assert len(set(numbers.tolist())) == len(numbers)
    np.testing.assert_array_equal(labels[numbers], left)


def test_inverted(clean: DataConfig) -> None:
    before, after = shown(clean.source, "train"), spoilt(clean, "inverted")
    assert len(after) == TRAIN
    assert all((after[name][1] == 255 - before[name][1]).all() for name in after)


def test_darkened(clean: DataConfig) -> None:
    before, after = shown(clean.source, "train"), spoilt(clean, "darkened_8")
    assert len(after) == TRAIN
    assert all((after[name][1] == before[name][1] // 8).all() for name in after)


def test_a_changed_source_is_copied_anew(clean: DataConfig, tmp_path: pathlib.Path) -> None:
    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / split / label / "1.png")
    own = dataclasses.replace(clean, source=str(tmp_path))
    first = corruptions.copied(own, "clean")
    Image.new("RGB", (16, 16), (99, 9, 9)).save(tmp_path / "train" / "a" / "2.png")
    second = corruptions.copied(own, "clean")
    assert first.source != second.source
    assert (corruptions.images(first), corruptions.images(second)) == (2, 3)


def test_unknown_dirt(clean: DataConfig) -> None:
    with pytest.raises(UsageError, match="mud"):
        corruptions.copied(clean, "mud")
