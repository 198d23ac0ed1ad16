"""Corrupted copies of a data set hold exactly the corruption in their name, and are the same every time."""

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
Split = dict[str, tuple[str, np.ndarray]]  # {file name: (class, image)}


@functools.cache
def read_split(source: str, split: str) -> Split:
    files = sorted(pathlib.Path(source, split).glob("*/*.png"))
    return {file.name: (file.parent.name, np.asarray(Image.open(file))) for file in files}


@pytest.fixture(scope="module")
def clean(small: DataConfig) -> DataConfig:
    return corruptions.write_copy(small, "clean", train=TRAIN, test=TEST)


def read_corrupted(clean: DataConfig, corruption: str) -> Split:
    """The training split of a corrupted copy, whose test split must be unchanged."""
    copy = corruptions.write_copy(clean, corruption, train=TRAIN, test=TEST)
    assert_equal_splits(read_split(copy.source, "test"), read_split(clean.source, "test"))
    return read_split(copy.source, "train")


def assert_equal_splits(a: Split, b: Split) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name][0] == b[name][0]
        np.testing.assert_array_equal(a[name][1], b[name][1])


def changed_images(after: Split, before: Split) -> list[str]:
    return [name for name in after if not np.array_equal(after[name][1], before[name][1])]


@pytest.mark.slow
def test_a_clean_copy_holds_the_first_images_unchanged(small: DataConfig, clean: DataConfig) -> None:
    source, copy = load_dataset(small), load_dataset(clean)
    assert set(source.classes) == set(copy.classes)  # the classes of a folder are in alphabetical order
    images, labels = corruptions.read_first_images(source.train, small, TRAIN)
    files = read_split(clean.source, "train")
    assert len(files) == TRAIN
    assert len(read_split(clean.source, "test")) == TEST
    for number in (0, 1, TRAIN - 1):
        name, image = files[f"{number:05d}.png"]
        assert name == source.classes[labels[number]]
        np.testing.assert_array_equal(image, images[number])
    assert len(copy.train) == TRAIN
    assert len(copy.validation) == TEST


def test_a_small_source_gives_all_its_images(small: DataConfig) -> None:
    copy = corruptions.write_copy(small, "clean", train=10_000, test=10_000)
    assert corruptions.count_training_images(copy) == 300
    assert len(read_split(copy.source, "test")) == 60


def test_a_copy_is_written_once(clean: DataConfig, small: DataConfig) -> None:
    file = next(pathlib.Path(clean.source, "train").glob("*/*.png"))
    written_at = file.stat().st_mtime_ns
    assert corruptions.write_copy(small, "clean", train=TRAIN, test=TEST) == clean
    assert file.stat().st_mtime_ns == written_at
    assert not [name for name in os.listdir(os.path.dirname(clean.source)) if name.startswith(".")]


def test_a_corruption_is_the_same_every_time(clean: DataConfig) -> None:
    images, labels = np.zeros((50, 4, 4, 3), np.uint8), np.arange(50) % 10
    for corrupt in corruptions.CORRUPTIONS.values():
        first, second, other = (corrupt(images, labels, 10, np.random.default_rng(seed)) for seed in (0, 0, 1))
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)
        assert len(other[0]) == len(first[0])
    other_copy = corruptions.write_copy(clean, "label_noise_40", seed=1, train=TRAIN, test=TEST)
    assert clean.source != other_copy.source


@pytest.mark.slow
@pytest.mark.parametrize("percent", [30, 60])
def test_dark_share_divides_a_share_of_the_images_by_16(clean: DataConfig, percent: int) -> None:
    before, after = read_split(clean.source, "train"), read_corrupted(clean, f"dark_share_{percent}")
    dark = changed_images(after, before)
    assert len(dark) == TRAIN * percent // 100
    for name in dark:
        np.testing.assert_array_equal(after[name][1], before[name][1] // 16)
        assert after[name][0] == before[name][0]


def test_outliers_are_black_white_and_noise_with_unchanged_labels(clean: DataConfig) -> None:
    before, after = read_split(clean.source, "train"), read_corrupted(clean, "outliers_60")
    outliers = changed_images(after, before)
    assert len(outliers) == 120
    kinds = collections.Counter(
        {0: "black", 255: "white"}.get(after[name][1].min()) if np.ptp(after[name][1]) == 0 else "noise"
        for name in outliers
    )
    assert kinds == {"black": 40, "white": 40, "noise": 40}
    assert all(after[name][0] == before[name][0] for name in outliers)


@pytest.mark.slow
@pytest.mark.parametrize("percent", [40, 60])
def test_label_noise_changes_a_share_of_the_labels_and_no_image(clean: DataConfig, percent: int) -> None:
    before, after = read_split(clean.source, "train"), read_corrupted(clean, f"label_noise_{percent}")
    assert changed_images(after, before) == []
    wrong = [name for name in after if after[name][0] != before[name][0]]
    assert len(wrong) == TRAIN * percent // 100
    assert len({after[name][0] for name in wrong}) == 10


def test_imbalance_is_a_geometric_series_without_repeated_images() -> None:
    labels = np.random.default_rng(0).permutation(np.arange(1000) % 10)
    images = np.arange(1000, dtype=np.int64)[:, None, None, None]
    kept_images, kept_labels = corruptions.CORRUPTIONS["imbalance_50"](images, labels, 10, np.random.default_rng(0))
    counts = np.bincount(kept_labels, minlength=10)
    assert counts[0] == 100
    assert counts[9] == 2
    ratios = counts[:5] / counts[1:6]
    assert (np.abs(ratios - 50 ** (1 / 9)) < 0.15).all()
    rows = kept_images[:, 0, 0, 0]
    assert len(set(rows.tolist())) == len(rows)
    np.testing.assert_array_equal(labels[rows], kept_labels)


def test_inverted_images_are_negatives(clean: DataConfig) -> None:
    before, after = read_split(clean.source, "train"), read_corrupted(clean, "inverted")
    assert len(after) == TRAIN
    assert all((after[name][1] == 255 - before[name][1]).all() for name in after)


def test_darkened_images_are_divided(clean: DataConfig) -> None:
    before, after = read_split(clean.source, "train"), read_corrupted(clean, "darkened_8")
    assert len(after) == TRAIN
    assert all((after[name][1] == before[name][1] // 8).all() for name in after)


@pytest.mark.slow
def test_a_changed_source_is_copied_again(clean: DataConfig, tmp_path: pathlib.Path) -> None:
    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / split / label / "1.png")
    data = dataclasses.replace(clean, source=str(tmp_path))
    first = corruptions.write_copy(data, "clean")
    Image.new("RGB", (16, 16), (99, 9, 9)).save(tmp_path / "train" / "a" / "2.png")
    second = corruptions.write_copy(data, "clean")
    assert first.source != second.source
    assert (corruptions.count_training_images(first), corruptions.count_training_images(second)) == (2, 3)


def test_an_unknown_corruption_is_an_error(clean: DataConfig) -> None:
    with pytest.raises(UsageError, match=r"corruption \(mud\) must be one of clean, "):
        corruptions.write_copy(clean, "mud")
