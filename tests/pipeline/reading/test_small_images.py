"""Batches copied from cached small images, compared with numpy's pad, mirror and crop."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.pipeline.reading import small_images
from evenkeel.pipeline.reading.small_images import SmallImages

COUNT, HEIGHT, WIDTH = 23, 9, 7


def pictures(channels: int) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 256, (COUNT, HEIGHT, WIDTH, channels), np.uint8)


def cache_pictures(channels: int, border: int, mirror: bool = True) -> SmallImages:
    images = pictures(channels)
    return small_images.store_small_images([images[:10], images[10:20], images[20:]], COUNT, border, mirror)


def copy_batch(cached: SmallImages, rows, mirrored, top, cell_starts, cell_lefts) -> np.ndarray:
    values = (rows, mirrored, top, cell_starts, cell_lefts)
    dtypes = (tf.int64, tf.bool, tf.int64, tf.int32, tf.int32)
    tensors = (tf.constant(value, dtype) for value, dtype in zip(values, dtypes, strict=True))
    return cached.copy_batch(*tensors).numpy()


@given(st.data(), st.sampled_from([1, 3]), st.integers(0, 4))
@settings(max_examples=25)
def test_a_batch_has_the_image_of_each_row_mirrored_bordered_and_cropped(data, channels: int, border: int) -> None:
    size, cells = data.draw(st.integers(1, 12)), 2 * border + 1
    integers = lambda largest, count: data.draw(st.lists(st.integers(0, largest), min_size=count, max_size=count))  # noqa: E731
    rows, top = integers(COUNT - 1, size), integers(2 * border, size)
    mirrored = [bool(integer) for integer in integers(1, size)]
    starts, lefts = [0, *sorted(integers(size, cells - 1)), size], integers(2 * border, cells)
    images = copy_batch(cache_pictures(channels, border), rows, mirrored, top, starts, lefts)
    for i, row in enumerate(rows):
        image = pictures(channels)[row][:, :: -1 if mirrored[i] else 1]
        bordered = np.pad(image, ((border, border), (border, border), (0, 0)), "reflect")
        x = lefts[np.searchsorted(starts, i, side="right") - 1]
        np.testing.assert_array_equal(images[i], bordered[top[i] : top[i] + HEIGHT, x : x + WIDTH])


@pytest.mark.parametrize("mirror", [True, False])
def test_the_memory_is_as_large_as_size_in_bytes_says(mirror: bool) -> None:
    assert tf.size(cache_pictures(3, 2, mirror).lines) == small_images.size_in_bytes(
        COUNT, (HEIGHT, WIDTH), 3, 2, mirror
    )


def test_a_missing_image_is_an_error() -> None:
    with pytest.raises(ValueError, match="10 images were decoded, but the index has 23"):
        small_images.store_small_images([pictures(3)[:10]], COUNT, 0, False)
