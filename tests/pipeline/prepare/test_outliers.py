"""Outliers by median and MAD: the formula by hand; planted outliers are all found, and few other images."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.prepare.outliers import (
    MAX_MODIFIED_Z,
    find_outliers,
    modified_z_scores,
    outlier_reasons,
)
from tests.indexes import index_of, render_images


def test_the_score_follows_the_formula() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    # Median 3, absolute deviations 2 1 0 1 97, their median 1.
    np.testing.assert_allclose(modified_z_scores(values, values), 0.6745 * (values - 3))


def test_if_most_values_are_equal_the_mean_deviation_is_the_scale() -> None:
    values = np.array([5.0, 5.0, 5.0, 5.0, 15.0])
    np.testing.assert_allclose(modified_z_scores(values, values), (values - 5) / (1.2533 * 2))


def test_if_all_values_are_equal_any_other_is_infinitely_far() -> None:
    assert modified_z_scores(np.array([5.0, 6.0, 4.0]), np.full(9, 5.0)).tolist() == [0, np.inf, -np.inf]


def test_nan_is_no_outlier() -> None:
    assert modified_z_scores(np.array([np.nan, 1.0]), np.array([np.nan, 1.0, 2.0, 3.0]))[0] == 0
    assert modified_z_scores(np.array([1.0]), np.array([np.nan])).tolist() == [0]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(-1e3, 1e3), st.floats(0.01, 1e3))
def test_scores_do_not_depend_on_unit_or_origin(values: list[float], origin: float, unit: float) -> None:
    rounded = np.round(values, 3)
    a, b = modified_z_scores(rounded, rounded), modified_z_scores(rounded * unit + origin, rounded * unit + origin)
    if np.median(np.abs(rounded - np.median(rounded))) > 0.01:
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


PLANTED = {
    "black": (np.zeros((24, 24, 3), np.uint8), "empty or blurred"),
    "white": (np.full((24, 24, 3), 255, np.uint8), "empty or blurred"),
    "gray": (np.full((24, 24, 3), 128, np.uint8), "empty or blurred"),
    "scale of 0 to 1": ((render_images(1)[0] / 255).round().astype(np.uint8), "empty or blurred"),
    "a 16th": (render_images(1)[0] // 16, "empty or blurred"),
}


@functools.cache
def rendered_index() -> Index:
    """The index of 150 rendered images; then those of PLANTED, in their order."""
    return index_of([*render_images(150), *(image for image, _ in PLANTED.values())])


@pytest.mark.parametrize("name", PLANTED)
def test_planted_outliers_are_found_with_their_reason(name: str) -> None:
    reason, planted = PLANTED[name][1], 150 + list(PLANTED).index(name)
    outliers = find_outliers(rendered_index().take(np.array([*range(150), planted])))
    assert any(outlier.reason.startswith(reason) for outlier in outliers if outlier.row == 150)
    assert outlier_reasons(outliers)[150].startswith("outlier: ")
    assert all(abs(outlier.score) > MAX_MODIFIED_Z for outlier in outliers)
    assert len({outlier.row for outlier in outliers if outlier.row < 150}) <= 3


def smooth_images(count: int) -> list[np.ndarray]:
    """Images like photographs: a few waves of all directions, hardly any noise."""
    y, x = np.mgrid[:32, :32] / 32
    images = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        waves = [
            rng.normal(0, 40 / f) * np.sin(2 * np.pi * f * (x * rng.normal() + y * rng.normal()) + rng.uniform(0, 6))
            for f in (1, 2, 4)
        ]
        image = rng.normal(120, 25) + sum(waves) + rng.normal(0, 4, (32, 32))
        images.append(np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2))
    return images


def test_noise_among_photographs_is_found() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    outliers = find_outliers(index_of([*smooth_images(200), noise]))
    assert "noise or too sharp" in outlier_reasons(outliers)[200]


def test_images_are_compared_with_the_reference() -> None:
    dark = [image // 16 for image in render_images(20)]
    assert len({outlier.row for outlier in find_outliers(index_of(dark))}) <= 3
    assert {outlier.row for outlier in find_outliers(index_of(dark), rendered_index().take(np.arange(100)))} == set(
        range(20)
    )


def test_images_without_an_inner_pixel_and_no_images_are_no_outliers() -> None:
    tiny = [np.full((2, 2, 3), value, np.uint8) for value in (10, 20, 30)]
    assert [outlier for outlier in find_outliers(index_of(tiny)) if outlier.statistic == "sharpness"] == []
    assert find_outliers(index_of(tiny).take(np.array([], np.int64))) == []
