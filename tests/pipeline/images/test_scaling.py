"""Scaling: each step against numpy in float64, all of them together against Pillow, alone and inside tf.data."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evenkeel.pipeline.images import crop, scaling
from evenkeel.pipeline.images.decode import scale_region

SIDES = st.integers(1, 40)


def make_pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


@functools.cache
def make_photograph(height: int, width: int) -> np.ndarray:
    """Noise at every scale, like a photograph, so that aliasing shows."""
    rng = np.random.default_rng(0)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (height // s, width // s, 3), np.uint8)).resize((width, height))
        )
        for s in (1, 3, 9, 27)
    ]
    return np.mean(layers, axis=0).astype(np.uint8)


def bilinear_weights(length: int, size: int) -> np.ndarray:
    """Half-pixel centres, edges repeated, no antialiasing: float64 [size, length]."""
    source = (np.arange(size) + 0.5) * length / size - 0.5
    low = np.floor(source).astype(int)
    table = np.zeros((size, length))
    for row, (position, first) in enumerate(zip(source, low, strict=True)):
        table[row, np.clip(first, 0, length - 1)] += 1 - (position - first)
        table[row, np.clip(first + 1, 0, length - 1)] += position - first
    return table


def area_weights(length: int, size: int) -> np.ndarray:
    """The share of each source pixel in each target pixel: float64 [size, length]."""
    edges = np.arange(size + 1) * length / size
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.maximum(overlap, 0) * size / length


def triangle_weights(length: int, first: float, extent: float, size: int) -> np.ndarray:
    """Antialiased bilinear weights of the part [first, first + extent) of `length` pixels: float64 [size, length]."""
    ratio = extent / size
    centers = first + (np.arange(size) + 0.5) * ratio
    table = np.maximum(1 - np.abs(np.arange(length) + 0.5 - centers[:, None]) / ratio, 0)
    return table / table.sum(axis=1, keepdims=True)


def apply_weights(pixels: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.einsum("yh,hwc,xw->yxc", rows, pixels.astype(np.float64), columns)


@settings(max_examples=25)
@given(height=SIDES, width=SIDES, tall=SIDES, wide=SIDES, channels=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_an_image_is_interpolated_or_averaged(
    height: int, width: int, tall: int, wide: int, channels: int, seed: int
) -> None:
    pixels = make_pixels(height, width, channels, seed)
    method = int(
        scaling.choose_methods(tf.constant([[height, width]]), tf.constant([[tall, wide]]), tf.constant([0]))[0]
    )
    image = scaling.scale(tf.constant(pixels), (tall, wide), method)
    assert method == (min(height / tall, width / wide) >= scaling.AVERAGE_FROM)
    assert image.dtype == tf.uint8
    assert image.shape == (tall, wide, channels)
    if (height, width) == (tall, wide):
        np.testing.assert_array_equal(image, pixels)
        return
    weights = area_weights if method == scaling.AVERAGED else bilinear_weights
    expected = apply_weights(pixels, weights(height, tall), weights(width, wide))
    assert np.abs(image.numpy() - expected).max() <= 0.5 + 1e-3


@settings(max_examples=25)
@given(height=SIDES, width=SIDES, exponent=st.integers(1, 3), seed=st.integers(0, 99))
def test_blocks_are_averaged_and_the_last_ones_filled_up(height: int, width: int, exponent: int, seed: int) -> None:
    ratio = 2**exponent
    height, width = height + ratio, width + ratio
    pixels = make_pixels(height, width, seed=seed)
    padded = np.pad(pixels, ((0, -height % ratio), (0, -width % ratio), (0, 0)), "symmetric").astype(np.float64)
    rows, columns = padded.shape[0] // ratio, padded.shape[1] // ratio
    expected = padded.reshape(rows, ratio, columns, ratio, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(scaling.average_blocks(tf.constant(pixels), tf.constant(exponent)), expected, atol=1e-3)


@settings(max_examples=25)
@given(data=st.data())
def test_a_halved_window_is_scaled_by_a_triangle_as_wide_as_the_ratio(data: st.DataObject) -> None:
    tall, wide, exponent = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3))
    pixels, ratio = make_pixels(40, 50), 2**exponent
    first = np.array([data.draw(st.integers(0, 99)) for _ in range(2)])
    extent = np.array([data.draw(st.integers(side * ratio, 32 * ratio)) for side in (tall, wide)])
    window = tf.constant([*first, *extent], tf.int32)
    image = scaling.scale_halved(tf.constant(pixels), window, tf.constant(exponent), (tall, wide))
    start = first % ratio / ratio
    expected = apply_weights(
        pixels,
        triangle_weights(40, start[0], extent[0] / ratio, tall),
        triangle_weights(50, start[1], extent[1] / ratio, wide),
    )
    assert image.dtype == tf.uint8
    assert np.abs(image.numpy() - expected).max() <= 0.5 + 0.02


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 100), st.integers(1, 100))
@settings(max_examples=50)
def test_a_window_is_halved_while_enough_is_left_to_scale(height: int, width: int, tall: int, wide: int) -> None:
    exponent = int(scaling.count_halvings(tf.constant([[height, width]]), tf.constant([[tall, wide]]))[0])
    ratio = min(height / tall, width / wide)
    assert exponent == (ratio >= 2.5) + (ratio >= 6) + (ratio >= 16)


@pytest.mark.parametrize("size", [16, 32, 50, 96, 150])
@pytest.mark.parametrize("sides", [(300, 420), (331, 307)])
def test_the_result_is_closer_to_that_of_pillow_than_plain_interpolation(size: int, sides: tuple[int, int]) -> None:
    """Of a window somewhere, and of the whole image, whose last blocks are incomplete."""
    pixels = make_photograph(*sides)
    for window in ([0, 0, *sides], [7, 13, 251, 255]):
        y, x, height, width = window
        part = pixels[y : y + height, x : x + width]
        (region,), (method,) = crop.decode_regions(
            tf.constant([window]), *(tf.constant([side]) for side in sides), tf.constant([[size, size]])
        )
        image = scale_region(tf.constant(pixels), region, tf.constant(window), method, (size, size)).numpy().astype(int)
        plain = tf.image.resize(part, [size, size]).numpy()
        expected = np.asarray(Image.fromarray(part).resize((size, size), Image.Resampling.BILINEAR))
        assert np.abs(image - expected).mean() < (0.25 if region[4] else 0.5) * np.abs(plain - expected).mean()


@pytest.mark.parametrize(("channels", "color"), [(3, [200, 10, 30]), (1, [69])])
def test_an_image_lies_at_its_place_on_the_background(channels: int, color: list[int]) -> None:
    pixels = make_pixels(3, 4, channels)
    image = scaling.place_image(tf.constant(pixels), tf.constant([2, 1, 3, 4]), (8, 6), (200, 10, 30)).numpy()
    np.testing.assert_array_equal(image[2:5, 1:5], pixels)
    outside = np.ones((8, 6), bool)
    outside[2:5, 1:5] = False
    assert (image[outside] == color).all()


def test_images_are_scaled_inside_tf_data_as_outside() -> None:
    images = [make_pixels(*sides) for sides in ((8, 12), (20, 9), (5, 5), (40, 40))]
    ds = tf.data.Dataset.from_generator(
        lambda: iter(images), output_signature=tf.TensorSpec([None, None, 3], tf.uint8)
    ).map(lambda image: scaling.scale(image, (8, 12), scaling.AVERAGED))
    for image, scaled in zip(images, ds, strict=True):
        np.testing.assert_array_equal(scaled, scaling.scale(tf.constant(image), (8, 12), scaling.AVERAGED))
    np.testing.assert_array_equal(next(iter(ds)), images[0])
