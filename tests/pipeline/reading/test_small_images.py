"""Held frames against numpy's pad, mirror and crop."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.pipeline.reading import small_images
from evenkeel.pipeline.reading.small_images import Frames

COUNT, SIZE = 23, 9


def pictures(channels: int) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 256, (COUNT, SIZE, SIZE, channels), np.uint8)


def held(channels: int, border: int, mirror: bool = True) -> Frames:
    images = pictures(channels)
    return small_images.hold([images[:10], images[10:20], images[20:]], COUNT, border, mirror)


def batch(of: Frames, rows, mirrored, down, starts, right) -> np.ndarray:
    kinds = (tf.int64, tf.bool, tf.int64, tf.int32, tf.int32)
    arguments = (
        tf.constant(value, kind) for value, kind in zip((rows, mirrored, down, starts, right), kinds, strict=True)
    )
    return of.batch(*arguments).numpy()


@given(st.data(), st.sampled_from([1, 3]), st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_a_batch_is_each_rows_image_mirrored_bordered_and_cropped(data, channels: int, border: int) -> None:
    size, cells = data.draw(st.integers(1, 12)), 2 * border + 1
    numbers = lambda most, count: data.draw(st.lists(st.integers(0, most), min_size=count, max_size=count))  # noqa: E731
    rows, down = numbers(COUNT - 1, size), numbers(2 * border, size)
    mirrored = [bool(number) for number in numbers(1, size)]
    starts, right = [0, *sorted(numbers(size, cells - 1)), size], numbers(2 * border, cells)
    found = batch(held(channels, border), rows, mirrored, down, starts, right)
    for i, row in enumerate(rows):
        image = pictures(channels)[row][:, :: -1 if mirrored[i] else 1]
        wide = np.pad(image, ((border, border), (border, border), (0, 0)), "reflect")
        x = right[np.searchsorted(starts, i, side="right") - 1]
        np.testing.assert_array_equal(found[i], wide[down[i] : down[i] + SIZE, x : x + SIZE])


@pytest.mark.parametrize("mirror", [True, False])
def test_they_take_the_memory_they_say(mirror: bool) -> None:
    assert tf.size(held(3, 2, mirror).lines) == small_images.size_in_bytes(COUNT, SIZE, 3, 2, mirror)


def test_a_missing_image_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="10 images came, 23 were announced"):
        small_images.hold([pictures(3)[:10]], COUNT, 0, False)
