"""Resizing of stored pixels against a float64 blend in numpy, alone and inside tf.data."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.pipeline.images.raw_resize import make_raw_resizer

SHAPE, BATCH = (16, 13), 4
LARGEST = 40  # the longest side
resizer = functools.cache(make_raw_resizer)  # XLA compiles each one for every size of the memory


def make_images(sides: list[tuple[int, int]], channels: int = 3, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
    """Images of random pixels, concatenated in memory, and the images themselves."""
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (*each, channels), np.uint8) for each in sides]
    return np.concatenate([image.ravel() for image in images]), images


def offsets(images: list[np.ndarray], before: int = 0) -> np.ndarray:
    sizes = [image.size for image in images]
    return before + np.cumsum([0, *sizes[:-1]])


def resize_exactly(image: np.ndarray, window: tuple[int, ...]) -> np.ndarray:
    """Bilinear with half-pixel centres, in float64."""
    y, x, height, width = window
    part = image[y : y + height, x : x + width].astype(np.float64)

    def resize_axis(part: np.ndarray, extent: int, size: int) -> np.ndarray:
        source = np.clip((np.arange(size) + 0.5) * extent / size - 0.5, 0, extent - 1)
        near = np.floor(source).astype(int)
        far = np.minimum(near + 1, extent - 1)
        weight = (source - near)[:, None, None]
        return part[near] * (1 - weight) + part[far] * weight

    return resize_axis(resize_axis(part, height, SHAPE[0]).swapaxes(0, 1), width, SHAPE[1]).swapaxes(0, 1)


def resize(memory: np.ndarray, images: list[np.ndarray], windows: np.ndarray, mirror=None, before: int = 0, **options):
    options = {
        "max_bytes": max(image.size for image in images),
        "shape": SHAPE,
        "channels": images[0].shape[-1],
        **options,
    }
    widths = tf.constant([image.shape[1] for image in images])
    return resizer(**options)(
        tf.constant(memory), tf.constant(offsets(images, before)), widths, tf.constant(windows, tf.int32), mirror
    ).numpy()


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=25)
def test_any_window_of_any_image_is_resized_as_in_numpy(data: st.DataObject) -> None:
    side = st.integers(1, LARGEST)
    sides = [(data.draw(side), data.draw(side)) for _ in range(BATCH)]
    windows = []
    for tall, wide in sides:
        height, width = data.draw(st.integers(1, tall)), data.draw(st.integers(1, wide))
        y, x = data.draw(st.integers(0, tall - height)), data.draw(st.integers(0, wide - width))
        windows.append((y, x, height, width))
    memory, images = make_images(sides)
    max_bytes = 3 * LARGEST**2
    before = (
        BATCH * max_bytes - memory.size
    )  # the last image is at the end of the memory, whose size is always the same
    memory = np.concatenate([np.zeros(before, np.uint8), memory])
    resized = resize(memory, images, np.array(windows), before=before, max_bytes=max_bytes)
    for image, window, result in zip(images, windows, resized, strict=True):
        assert np.abs(result - resize_exactly(image, window)).max() <= 1.5


def test_rounding_has_no_bias() -> None:
    memory, images = make_images([(37, 29)] * BATCH)
    windows = np.array([(1, 2, 30, 25)] * BATCH)
    difference = resize(memory, images, windows) - np.stack([resize_exactly(image, windows[0]) for image in images])
    assert np.abs(difference.mean()) < 0.02


def test_a_window_of_the_target_size_is_copied() -> None:
    memory, images = make_images([(20, 30), (16, 13), (40, 17), (33, 33)])
    windows = np.array([(4, 5, *SHAPE), (0, 0, *SHAPE), (24, 1, *SHAPE), (3, 3, *SHAPE)])
    expected = [image[y : y + h, x : x + w] for image, (y, x, h, w) in zip(images, windows, strict=True)]
    np.testing.assert_array_equal(resize(memory, images, windows), expected)


def test_a_mirrored_image_is_the_plain_one_reversed() -> None:
    memory, images = make_images([(21, 33)] * BATCH)
    windows = np.array([(0, 0, 21, 33), (3, 1, 17, 19), (0, 5, 9, 20), (1, 1, 2, 3)])
    plain, turned = (resize(memory, images, windows, tf.constant([mirror] * BATCH)) for mirror in (False, True))
    np.testing.assert_array_equal(turned, plain[:, :, ::-1])
    some = resize(memory, images, windows, tf.constant([True, False, True, False]))
    np.testing.assert_array_equal(some[::2], turned[::2])
    np.testing.assert_array_equal(some[1::2], plain[1::2])


@pytest.mark.slow
@pytest.mark.parametrize("before", [0, 1, 2, 7])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_small_image_at_the_end_of_memory_is_read_correctly(before: int, channels: int) -> None:
    """`max_bytes` from its offset on would reach beyond the end of the memory."""
    memory, images = make_images([(40, 40), (3, 5)], channels)
    memory = np.concatenate([np.zeros(before, np.uint8), memory])
    windows = np.array([(0, 0, 40, 40), (1, 1, 2, 4)])
    resized = resize(memory, images, windows, before=before)
    for image, window, result in zip(images, windows, resized, strict=True):
        assert np.abs(result - resize_exactly(image, window)).max() <= 1.5


def test_offsets_may_change_with_every_batch_inside_tf_data() -> None:
    memory, images = make_images([(30, 20), (25, 35), (18, 18), (40, 22)])
    read = make_raw_resizer(max(image.size for image in images), SHAPE, 3)
    starts, widths = tf.constant(offsets(images)), tf.constant([image.shape[1] for image in images])
    order = np.array([[0, 1], [3, 2], [1, 1]])
    windows = np.array([(1, 3, 16, 11)] * 2)

    def batch(rows: tf.Tensor) -> tf.Tensor:
        return read(
            tf.constant(memory), tf.gather(starts, rows), tf.gather(widths, rows), tf.constant(windows, tf.int32)
        )

    ds = tf.data.Dataset.from_tensor_slices(order).map(batch, num_parallel_calls=2)
    assert ds.element_spec.shape.as_list() == [2, *SHAPE, 3]
    for rows, resized in zip(order, ds.as_numpy_iterator(), strict=True):
        for row, result in zip(rows, resized, strict=True):
            assert np.abs(result - resize_exactly(images[row], windows[0])).max() <= 1.5
