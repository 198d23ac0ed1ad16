"""Training images that differ from validation images: all of them, or only some."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from evenkeel.pipeline.config import DataConfig, ShapesConfig
from evenkeel.pipeline.dataset import Dataset, load_dataset
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.prepare import skew


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset(DataConfig(shapes=ShapesConfig(count=1200)))


def darken(index: Index, rows: np.ndarray, times: int = 16) -> Index:
    """The index as it would be if the pixels of `rows` were divided by `times`."""
    columns = dict(index.columns)
    for name, power in (("sums", 1), ("squares", 2)):
        columns[name] = columns[name].astype(np.float64).copy()
        columns[name][rows] /= times**power
    columns["laplacian"] = columns["laplacian"].astype(np.float64) / np.array([1, 1])
    columns["laplacian"][rows] /= np.array([times, times**2])
    return dataclasses.replace(index, columns=columns)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.85])
def test_training_outliers_are_found_even_if_most_images_are_outliers(share: float, data: Dataset) -> None:
    rows = np.flatnonzero(np.random.default_rng(0).random(len(data.train)) < share)
    outliers = {outlier.row for outlier in skew.find_train_outliers(darken(data.train, rows), data.validation)}
    assert set(rows.tolist()) <= outliers
    assert len(outliers) - len(rows) < 0.02 * len(data.train)


def test_images_that_all_differ_from_validation_are_no_outliers(data: Dataset) -> None:
    everything = np.arange(len(data.train))
    dark = darken(data.train, everything, times=4)
    assert skew.largest_skew(dark, data.validation)[1] > 0.8 > skew.skew_limit(dark, data.validation)
    assert len({outlier.row for outlier in skew.find_train_outliers(dark, data.validation)}) < 0.02 * len(everything)


def test_brightness_and_contrast_do_not_count_with_standardize(data: Dataset) -> None:
    dark = darken(data.train, np.arange(len(data.train)), times=4)
    limit = skew.skew_limit(dark, data.validation)
    assert (
        skew.largest_skew(dark, data.validation)[1]
        > limit
        > skew.largest_skew(dark, data.validation, standardize=True)[1]
    )
    sums = data.train.columns["sums"].astype(np.float64)
    sums[:, 0] *= 3
    red = dataclasses.replace(data.train, columns={**data.train.columns, "sums": sums})
    assert skew.largest_skew(red, data.validation, standardize=True)[1] > limit


def test_splits_of_one_source_are_alike(data: Dataset) -> None:
    name, distance = skew.largest_skew(data.train, data.validation)
    assert name in skew.skew_statistics(data.train)
    assert distance < skew.skew_limit(data.train, data.validation)


def test_without_validation_images_training_is_compared_with_itself(data: Dataset) -> None:
    none = data.validation.take(np.zeros(0, np.int64))
    rows = np.arange(0, len(data.train), 20)
    assert {outlier.row for outlier in skew.find_train_outliers(darken(data.train, rows), none)} >= set(rows.tolist())
