"""Pictures: the grid of images and the confusion matrix."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.models.telemetry import pictures


def test_a_grid_shows_images_side_by_side_on_white() -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 4, 6, 3)).astype(np.uint8)
    grid = pictures.draw_grid(images, gap=1)
    assert grid.shape == (2 * 5 + 1, 3 * 7 + 1, 3)
    for number, image in enumerate(images):
        y, x = 1 + 5 * (number // 3), 1 + 7 * (number % 3)
        np.testing.assert_array_equal(grid[y : y + 4, x : x + 6], image)
    assert (grid != 255).all(axis=2).sum() == 5 * 4 * 6
    assert pictures.draw_grid(images[..., :1]).shape[-1] == 3


@pytest.mark.parametrize("classes", [2, 30, 100])
def test_a_confusion_matrix_is_darker_at_larger_shares(classes: int) -> None:
    matrix = np.eye(classes) * 50
    picture = pictures.draw_confusion_matrix(matrix, [f"class {number}" for number in range(classes)])
    assert picture.dtype == np.uint8
    other = pictures.draw_confusion_matrix(matrix[::-1], [f"class {number}" for number in range(classes)])
    assert picture.shape == other.shape
    assert (picture != other).any()
    blue = (picture[..., 2].astype(int) - picture[..., 0]) > 40
    assert blue.any(), "the diagonal stands out"
