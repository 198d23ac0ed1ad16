"""Statistics equal numpy in float64 over the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_metadata.proto.v0 import statistics_pb2

from evenkeel.pipeline.images.decode import luma
from evenkeel.pipeline.prepare.statistics import (
    CHANNELS,
    compute_statistics,
    features_by_name,
    image_statistics,
    value_shares,
)
from tests.indexes import index_of


def images(count: int = 40) -> list[np.ndarray]:
    rngs = [np.random.default_rng(seed) for seed in range(count)]
    return [rng.integers(rng.integers(0, 200), 256, (*rng.integers(3, 20, 2), 3), np.uint8) for rng in rngs]


def luma_of(image: np.ndarray) -> np.ndarray:
    return luma(tf.constant(image)).numpy()[..., 0].astype(np.float64)


def sharpness(image: np.ndarray) -> float:
    y = luma_of(image)
    return float((4 * y[1:-1, 1:-1] - y[:-2, 1:-1] - y[2:, 1:-1] - y[1:-1, :-2] - y[1:-1, 2:]).var())


def test_brightness_contrast_and_sharpness_equal_numpy() -> None:
    result = image_statistics(index_of(images()))
    np.testing.assert_allclose(result["brightness"], [luma_of(image).mean() for image in images()], rtol=1e-9)
    np.testing.assert_allclose(result["contrast"], [luma_of(image).std() for image in images()], rtol=1e-9)
    np.testing.assert_allclose(result["sharpness"], [sharpness(image) for image in images()], rtol=1e-9)


def test_an_image_without_an_inner_pixel_has_no_sharpness() -> None:
    assert np.isnan(image_statistics(index_of([np.zeros((2, 9, 3), np.uint8)]))["sharpness"]).all()


def test_mean_and_deviation_of_a_channel_equal_numpy() -> None:
    pixels = np.concatenate([image.reshape(-1, 3) for image in images()]).astype(np.float64)
    result = features_by_name(compute_statistics({"train": index_of(images())}).datasets[0])
    for channel, name in enumerate(CHANNELS):
        assert result[name].num_stats.mean == pytest.approx(pixels[:, channel].mean(), rel=1e-9)
        assert result[name].num_stats.std_dev == pytest.approx(pixels[:, channel].std(), rel=1e-9)


def test_a_deviation_far_below_the_mean_is_exact() -> None:
    """One of 90,000 pixels is one level darker: the variance is 1.1e-5, the mean square 65,000."""
    image = np.full((300, 300, 3), 255, np.uint8)
    image[7, 7] = 254
    result = features_by_name(compute_statistics({"train": index_of([image])}).datasets[0])
    assert result["red"].num_stats.std_dev == pytest.approx(image[..., 0].astype(np.float64).std(), rel=1e-9)


def test_moments_and_quantiles_equal_numpy() -> None:
    index = index_of(images())
    result = features_by_name(compute_statistics({"train": index}).datasets[0])
    for name, values in {**image_statistics(index), "height": index.columns["height"].astype(np.float64)}.items():
        stats = result[name].num_stats
        expected = [values.mean(), values.std(), values.min(), np.median(values), values.max()]
        np.testing.assert_allclose([stats.mean, stats.std_dev, stats.min, stats.median, stats.max], expected, rtol=1e-9)
        even, quantiles = stats.histograms
        assert even.type == statistics_pb2.Histogram.STANDARD
        counts, edges = np.histogram(values, bins=10)
        assert [bucket.sample_count for bucket in even.buckets] == counts.tolist()
        np.testing.assert_allclose([bucket.low_value for bucket in even.buckets], edges[:-1])
        tenths = np.quantile(values, np.arange(1, 11) / 10)
        np.testing.assert_allclose([bucket.high_value for bucket in quantiles.buckets], tenths)


def test_classes_and_formats_are_counted_including_empty_classes() -> None:
    index = index_of(images(5)).take(np.array([0, 2, 4]))
    index.columns["format"][:] = [1, 1, 2]
    result = features_by_name(compute_statistics({"train": index}).datasets[0])
    assert value_shares(result["label"]) == {"a": 1.0, "b": 0.0}
    assert result["label"].string_stats.unique == 1
    assert value_shares(result["format"]) == {"JPEG": 2 / 3, "PNG": 1 / 3}


def test_each_split_has_its_own_statistics() -> None:
    index = index_of(images(10))
    result = compute_statistics({"train": index.take(np.arange(7)), "test": index.take(np.arange(7, 10))})
    assert [(data.name, data.num_examples) for data in result.datasets] == [("train", 7), ("test", 3)]
    assert statistics_pb2.DatasetFeatureStatisticsList.FromString(result.SerializeToString()) == result
