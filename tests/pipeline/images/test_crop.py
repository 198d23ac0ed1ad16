"""Crop windows: inside the image, and distributed as documented."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evenkeel.pipeline.images import crop, scaling

SIDES = st.integers(1, 30_000)


def draw_windows(heights: list[int], widths: list[int], strength: float, draws: np.ndarray) -> np.ndarray:
    drawn = crop.random_windows(tf.constant(heights), tf.constant(widths), strength, tf.constant(draws, tf.float32))
    assert drawn.dtype == tf.int32
    assert drawn.shape == (len(heights), 4)
    return drawn.numpy()


def uniform(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, crop.DRAWS_PER_IMAGE), np.float32)


def is_inside(window: np.ndarray, height: int, width: int) -> bool:
    y, x, window_height, window_width = window.tolist()
    return (
        y >= 0
        and x >= 0
        and window_height >= 1
        and window_width >= 1
        and y + window_height <= height
        and x + window_width <= width
    )


def reference_size(height: int, width: int, strength: float, draws: np.ndarray) -> tuple[float, float]:
    """Height and width before rounding, in float64: of the first attempt that fits, or of the nearest aspect ratio."""
    tries, low, high = crop.MAX_ATTEMPTS, np.log(3 / 4), np.log(4 / 3)
    for area_draw, aspect_draw in zip(draws[:tries].astype(float), draws[tries : 2 * tries].astype(float), strict=True):
        area, aspect = height * width * (1 - strength * area_draw), np.exp(low + (high - low) * aspect_draw)
        tall, wide = np.sqrt(area / aspect), np.sqrt(area * aspect)
        if np.round(tall) <= height and np.round(wide) <= width:
            return tall, wide
    return min(height, width * 4 / 3), min(width, height * 4 / 3)


def view_window(height: int, width: int, view: str, shape: tuple[int, int], share: float = 1.0) -> list[int]:
    return crop.view_windows(tf.constant([height]), tf.constant([width]), view, shape, share)[0].numpy().tolist()


@settings(max_examples=50)
@given(height=SIDES, width=SIDES, share=st.floats(0.01, 1))
def test_the_central_window_is_a_square_inside_the_image(height: int, width: int, share: float) -> None:
    window = view_window(height, width, "center", (24, 24), share)
    y, x, tall, wide = window
    assert is_inside(np.array(window), height, width)
    assert tall == wide
    assert abs(tall - max(1, share * min(height, width))) <= 0.5 + 0.01
    assert abs((height - tall) - 2 * y) <= 1
    assert abs((width - wide) - 2 * x) <= 1


def test_central_windows_of_known_images() -> None:
    sides = tf.constant([10, 20, 7, 1]), tf.constant([10, 10, 12, 5])
    windows = crop.view_windows(*sides, "center", (8, 8))
    np.testing.assert_array_equal(windows, [[0, 0, 10, 10], [5, 0, 10, 10], [0, 2, 7, 7], [0, 2, 1, 1]])
    half = crop.view_windows(*sides, "center", (8, 8), 0.5)
    np.testing.assert_array_equal(half[:, 2:], [[5, 5], [5, 5], [4, 4], [1, 1]])


@settings(max_examples=50)
@given(height=SIDES, width=SIDES, tall=st.integers(1, 500), wide=st.integers(1, 500))
def test_views_have_the_proportions_of_the_model_or_of_the_image(height: int, width: int, tall: int, wide: int) -> None:
    assert view_window(height, width, "stretch", (tall, wide)) == [0, 0, height, width]
    for view, pick in (("center", min), ("pad", max)):
        y, x, window_height, window_width = view_window(height, width, view, (tall, wide))
        factor = pick(height / tall, width / wide)
        np.testing.assert_allclose(
            [window_height, window_width], np.maximum([factor * tall, factor * wide], 1), rtol=1e-6, atol=0.51
        )
        assert abs(height - window_height - 2 * y) <= 1
        assert abs(width - window_width - 2 * x) <= 1


@settings(max_examples=50)
@given(height=SIDES, width=SIDES, tall=st.integers(1, 500), wide=st.integers(1, 500), share=st.floats(0.1, 1))
def test_the_visible_part_of_a_padded_window_keeps_its_place(
    height: int, width: int, tall: int, wide: int, share: float
) -> None:
    window = view_window(height, width, "pad", (tall, wide), share)
    (visible,), (place,) = crop.visible_parts(
        tf.constant([window]), tf.constant([height]), tf.constant([width]), tf.constant([[tall, wide]])
    )
    assert is_inside(visible.numpy(), height, width)
    assert is_inside(place.numpy(), tall, wide)
    for axis, size in ((0, tall), (1, wide)):
        for edge in (0, 1):  # within half a pixel of the exact place; at least one pixel is visible
            exact = (visible[axis] + edge * visible[axis + 2] - window[axis]) / window[axis + 2] * size
            assert abs(float(place[axis] + edge * place[axis + 2]) - float(exact)) <= (
                0.5 if place[axis + 2] > 1 else 1.5
            )


def test_a_window_inside_its_image_is_visible_as_a_whole() -> None:
    window = tf.constant([[3, 4, 10, 20]])
    visible, places = crop.visible_parts(window, tf.constant([50]), tf.constant([60]), tf.constant([[8, 9]]))
    np.testing.assert_array_equal(visible, window)
    np.testing.assert_array_equal(places, [[0, 0, 8, 9]])


@example(height=1, width=1, strength=0.999, seed=0, edge=1.0)
@settings(max_examples=80)
@given(
    height=SIDES, width=SIDES, strength=st.floats(0, 0.999), seed=st.integers(0, 999), edge=st.sampled_from([0, 0.5, 1])
)
def test_random_windows_lie_inside_images_of_any_shape(
    height: int, width: int, strength: float, seed: int, edge: float
) -> None:
    draws = np.concatenate(
        [uniform(7, seed), np.full((1, crop.DRAWS_PER_IMAGE), np.nextafter(np.float32(edge), np.float32(0)))]
    )
    draws = np.maximum(draws, 0)
    for window in draw_windows([height] * 8, [width] * 8, strength, draws):
        assert is_inside(window, height, width), window


@settings(max_examples=40, derandomize=True)  # float32 may round the other way at a fit's very edge
@given(height=st.integers(1, 500), width=st.integers(1, 500), strength=st.floats(0, 0.99), seed=st.integers(0, 999))
def test_a_window_has_the_size_of_the_first_attempt_that_fits(
    height: int, width: int, strength: float, seed: int
) -> None:
    draws = uniform(6, seed)
    for window, row in zip(draw_windows([height] * 6, [width] * 6, strength, draws), draws, strict=True):
        np.testing.assert_allclose(window[2:], np.maximum(reference_size(height, width, strength, row), 1), atol=0.51)


def test_area_is_uniform_and_aspect_log_uniform_where_every_attempt_fits() -> None:
    """In a square every attempt of at most 3/4 of the area fits, so the window must have exactly the drawn size."""
    draws, side, strength = uniform(20_000), 4000, 0.92
    share = 1 - strength * draws[:, 0].astype(float)
    fits = share < 0.749
    windows = draw_windows([side] * len(draws), [side] * len(draws), strength, draws)[fits].astype(float)
    area, aspect = windows[:, 2] * windows[:, 3] / side**2, np.log(windows[:, 3] / windows[:, 2])
    np.testing.assert_allclose(area, share[fits], atol=1e-3)
    assert_uniform(area, 1 - strength, 0.749)
    assert_uniform(aspect, np.log(3 / 4), np.log(4 / 3))


def test_windows_are_uniform_over_the_positions_where_they_fit() -> None:
    windows = draw_windows([300] * 20_000, [500] * 20_000, 0.9, uniform(20_000)).astype(float)
    for start, side, length in ((windows[:, 0], windows[:, 2], 300), (windows[:, 1], windows[:, 3], 500)):
        room = length - side + 1
        assert_uniform(((start + 0.5) / room)[room > 50], 0, 1)


def test_a_window_with_one_spare_pixel_lies_on_either_side_equally_often() -> None:
    windows = draw_windows([8] * 5000, [8] * 5000, 0.5, uniform(5000))
    for start, side in ((windows[:, 0], windows[:, 2]), (windows[:, 1], windows[:, 3])):
        either = start[side == 7]
        assert len(either) > 500
        assert abs(np.mean(either) - 0.5) < 5 * 0.5 / np.sqrt(len(either))


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    """A Kolmogorov-Smirnov test at p = 1e-5."""
    sorted_values = (np.sort(values) - low) / (high - low)
    ranks = (np.arange(len(values)) + 0.5) / len(values)
    assert np.abs(sorted_values - ranks).max() < 2.47 / np.sqrt(len(values)) + 0.01


def test_strength_0_takes_the_whole_image_if_its_aspect_ratio_is_allowed() -> None:
    windows = draw_windows([30, 40, 35, 1000], [40, 30, 35, 1001], 0.0, uniform(4))
    np.testing.assert_array_equal(windows, [[0, 0, 30, 40], [0, 0, 40, 30], [0, 0, 35, 35], [0, 0, 1000, 1001]])


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(1000, 10, [13, 10]), (10, 1000, [10, 13]), (30_000, 1, [1, 1]), (1, 30_000, [1, 1])],
)
def test_a_very_long_image_gets_the_central_window_of_the_nearest_aspect_ratio(
    height: int, width: int, size: list[int]
) -> None:
    for y, x, *window_size in draw_windows([height] * 50, [width] * 50, 0.5, uniform(50)).tolist():
        assert window_size == size
        assert abs(height - size[0] - 2 * y) <= 1
        assert abs(width - size[1] - 2 * x) <= 1


def test_windows_inside_tf_data_equal_those_outside() -> None:
    heights, widths, draws = [30, 500, 7, 64], [40, 20, 7, 65], uniform(4)
    ds = tf.data.Dataset.from_tensors((heights, widths, draws)).map(lambda h, w, d: crop.random_windows(h, w, 0.5, d))
    np.testing.assert_array_equal(next(iter(ds)), draw_windows(heights, widths, 0.5, draws))
    assert next(iter(ds)).shape == (4, 4)


def test_random_windows_have_the_aspect_ratio_of_the_model_or_of_the_image() -> None:
    sides, aspects = (tf.fill([5000], 400), tf.fill([5000], 800)), np.repeat([0.5, 2.0], 2500).astype(np.float32)
    windows = crop.random_windows(*sides, 0.9, tf.constant(uniform(5000)), aspects).numpy().astype(float)
    ratios = np.log(windows[:, 3] / windows[:, 2] / aspects)
    assert np.abs(ratios).max() < np.log(4 / 3) + 0.05
    assert np.abs(ratios[2500:].mean()) < 0.02
    assert is_inside(windows.max(axis=0).astype(int) * 0 + windows[0].astype(int), 400, 800)


@given(st.integers(1, 900), st.integers(1, 900), st.data())
@settings(max_examples=60)
def test_a_region_holds_its_window_in_pixels_of_the_downscaled_image(height: int, width: int, data) -> None:
    shape = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))
    tall, wide = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    y, x = data.draw(st.integers(0, height - tall)), data.draw(st.integers(0, width - wide))
    regions, methods = crop.decode_regions(tf.constant([[y, x, tall, wide]]), [height], [width], tf.constant([shape]))
    *region, exponent = regions.numpy()[0].tolist()
    ratio = 2**exponent
    assert (methods[0] == scaling.HALVED) == (exponent > 0)
    if exponent == 0:
        assert region == [y, x, tall, wide]
    for axis, (first, extent, whole, size) in enumerate(((y, tall, height, shape[0]), (x, wide, width, shape[1]))):
        begin, end = region[axis], region[axis] + region[axis + 2]
        assert 0 <= begin < end <= -(-whole // ratio)
        assert end * ratio - whole <= ratio / 2  # a made-up half of a block at most
        assert begin == first // ratio
        # The last pixel of the result is centered inside the region.
        assert (first + extent - 0.5 * extent / size) / ratio <= end
