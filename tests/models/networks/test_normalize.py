"""The model's first layer against numpy in float64, and after saving and loading."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.networks.normalize import Normalize, Standardize

MEAN, STD = [120.5, 98.25, 3.0], [60.0, 1.0, 127.3]


def batch(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 5, 6, channels), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalize_subtracts_the_mean_and_divides_by_the_deviation(channels: int) -> None:
    images, mean, std = batch(channels), MEAN[:channels], STD[:channels]
    output = Normalize(mean, std)(tf.constant(images))
    assert output.dtype == tf.float32
    np.testing.assert_allclose(output, (images.astype(np.float64) - mean) / std, rtol=1e-6, atol=1e-6)


def test_normalized_pixels_have_zero_mean_and_unit_deviation() -> None:
    images = batch()
    mean, std = images.mean(axis=(0, 1, 2), dtype=np.float64), images.std(axis=(0, 1, 2), dtype=np.float64)
    output = Normalize(mean, std)(tf.constant(images)).numpy().astype(np.float64)
    np.testing.assert_allclose(output.mean(axis=(0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(output.std(axis=(0, 1, 2)), 1, atol=1e-6)


def test_mean_0_and_deviation_1_leave_pixels_unchanged() -> None:
    np.testing.assert_array_equal(Normalize([0, 0, 0], [1, 1, 1])(tf.constant(batch())), batch())


@pytest.mark.parametrize(("policy", "dtype"), [("mixed_bfloat16", tf.bfloat16), ("mixed_float16", tf.float16)])
def test_normalize_computes_in_float32_and_returns_the_compute_dtype(policy: str, dtype: tf.DType) -> None:
    keras.mixed_precision.set_global_policy(policy)
    output = Normalize(MEAN, STD)(tf.constant(batch()))
    assert output.dtype == dtype
    keras.mixed_precision.set_global_policy("float32")
    exact = Normalize(MEAN, STD)(tf.constant(batch()))
    np.testing.assert_array_equal(tf.cast(output, tf.float32), tf.cast(tf.cast(exact, dtype), tf.float32))


@pytest.mark.parametrize("channels", [1, 3])
def test_standardize_uses_each_images_own_statistics(channels: int) -> None:
    images = batch(channels)
    images[1] //= 16
    output = Standardize()(tf.constant(images)).numpy()
    exact = images.astype(np.float64)
    mean, std = (reduce(axis=(1, 2, 3), keepdims=True) for reduce in (exact.mean, exact.std))
    np.testing.assert_allclose(output, (exact - mean) / std, rtol=1e-5, atol=1e-5)
    tensorflows = tf.image.per_image_standardization(tf.cast(images, tf.float32))
    np.testing.assert_allclose(output, tensorflows, rtol=1e-5, atol=1e-5)


def test_an_image_of_one_colour_becomes_zeros() -> None:
    np.testing.assert_array_equal(Standardize()(tf.fill([2, 5, 6, 3], tf.constant(77, tf.uint8))), 0)


def test_standardize_in_half_precision_computes_in_float32(tmp_path: pathlib.Path) -> None:
    exact = Standardize()(tf.constant(batch()))
    keras.mixed_precision.set_global_policy("mixed_float16")
    model = keras.Sequential([keras.Input((5, 6, 3), dtype=tf.uint8), Standardize()])
    keras.mixed_precision.set_global_policy("float32")
    output = model(batch())
    assert output.dtype == tf.float16
    np.testing.assert_array_equal(output, tf.cast(exact, tf.float16))
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(batch()), output)


def test_normalize_works_inside_tf_data() -> None:
    layer = Normalize(MEAN, STD)
    ds = tf.data.Dataset.from_tensors(batch()).map(layer)
    np.testing.assert_allclose(next(iter(ds)), layer(tf.constant(batch())), rtol=1e-6, atol=1e-6)


def test_a_saved_model_contains_mean_and_std(tmp_path: pathlib.Path) -> None:
    model = keras.Sequential([keras.Input((5, 6, 3), dtype=tf.uint8), Normalize(MEAN, STD)])
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    assert (restored.layers[0].mean, restored.layers[0].std) == (MEAN, STD)
    np.testing.assert_array_equal(restored(batch()), model(batch()))
