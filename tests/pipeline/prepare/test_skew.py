"""What sets training images apart from validation's: a shift of all, or some that do not belong."""

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


def darker(index: Index, rows: np.ndarray, times: int = 16) -> Index:
    """As if the pixels of `rows` had been divided by `times`."""
    columns = dict(index.columns)
    for name, power in (("sums", 1), ("squares", 2)):
        columns[name] = columns[name].astype(np.float64).copy()
        columns[name][rows] /= times**power
    columns["laplacian"] = columns["laplacian"].astype(np.float64) / np.array([1, 1])
    columns["laplacian"][rows] /= np.array([times, times**2])
    return dataclasses.replace(index, columns=columns)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.85])
def test_strangers_are_found_however_many_they_are(share: float, data: Dataset) -> None:
    rows = np.flatnonzero(np.random.default_rng(0).random(len(data.train)) < share)
    found = {outlier.row for outlier in skew.strangers(darker(data.train, rows), data.validation)}
    assert set(rows.tolist()) <= found
    assert len(found) - len(rows) < 0.02 * len(data.train)


def test_where_all_images_differ_none_is_a_stranger(data: Dataset) -> None:
    everything = np.arange(len(data.train))
    dark = darker(data.train, everything, times=4)
    assert skew.worst(dark, data.validation)[1] > 0.8 > skew.limit(dark, data.validation)
    assert len({outlier.row for outlier in skew.strangers(dark, data.validation)}) < 0.02 * len(everything)


def test_brightness_and_contrast_do_not_count_where_every_image_is_standardized(data: Dataset) -> None:
    dark = darker(data.train, np.arange(len(data.train)), times=4)
    least = skew.limit(dark, data.validation)
    assert skew.worst(dark, data.validation)[1] > least > skew.worst(dark, data.validation, standardize=True)[1]
    sums = data.train.columns["sums"].astype(np.float64)
    sums[:, 0] *= 3
    red = dataclasses.replace(data.train, columns={**data.train.columns, "sums": sums})
    assert skew.worst(red, data.validation, standardize=True)[1] > least


def test_splits_of_one_source_are_alike(data: Dataset) -> None:
    name, distance = skew.worst(data.train, data.validation)
    assert name in skew.figures(data.train)
    assert distance < skew.limit(data.train, data.validation)


def test_without_validation_images_the_training_images_decide(data: Dataset) -> None:
    none = data.validation.take(np.zeros(0, np.int64))
    rows = np.arange(0, len(data.train), 20)
    assert {outlier.row for outlier in skew.strangers(darker(data.train, rows), none)} >= set(rows.tolist())
