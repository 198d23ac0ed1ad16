"""Pixel sums equal those of numpy, whatever the size of the image and of the strips."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from evenkeel.pipeline.images.decode import luma
from evenkeel.pipeline.index import pixel_sums as pixel_sums_module
from evenkeel.pipeline.index.pixel_sums import pixel_sums

SHAPES = [(1, 1), (1, 9), (2, 2), (3, 3), (2, 40), (40, 2), (17, 23), (64, 64), (5, 3000)]


def random_image(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def expected_sums(pixels: np.ndarray) -> tuple[list[int], list[int], list[int]]:
    gray = luma(tf.constant(pixels)).numpy().astype(np.int64)
    planes = np.concatenate([pixels.astype(np.int64), gray], axis=2).reshape(-1, 4)
    y = gray[..., 0]
    edges = 4 * y[1:-1, 1:-1] - y[:-2, 1:-1] - y[2:, 1:-1] - y[1:-1, :-2] - y[1:-1, 2:]
    laplacian = [int(edges.sum()), int((edges**2).sum())] if min(y.shape) > 2 else [0, 0]
    return planes.sum(axis=0).tolist(), (planes**2).sum(axis=0).tolist(), laplacian


def actual_sums(pixels: np.ndarray) -> tuple[list[int], list[int], list[int]]:
    size, sums, squares, laplacian, _ = pixel_sums(tf.constant(pixels))
    assert size.numpy().tolist() == list(pixels.shape[:2])
    assert sums.dtype == squares.dtype == laplacian.dtype == tf.int64
    return sums.numpy().tolist(), squares.numpy().tolist(), laplacian.numpy().tolist()


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strip", [1, 50, 1 << 18])
def test_sums_equal_those_of_numpy(shape: tuple[int, int], strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_sums_module, "STRIP_PIXELS", strip)
    assert actual_sums(random_image(shape)) == expected_sums(random_image(shape))


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(3000, 3000), (9000, 6)])
def test_the_roughest_large_image_does_not_overflow(height: int, width: int) -> None:
    """A chessboard: squared Laplacians of 3000 x 3000 sum to 9.4e12; in the narrow one a strip has the most rows."""
    board = np.indices((height, width)).sum(axis=0) % 2 * 255
    pixels = np.repeat(board.astype(np.uint8)[..., None], 3, axis=2)
    sums, squares, laplacian = actual_sums(pixels)
    assert sums == [255 * height * width // 2] * 4
    assert squares == [255**2 * height * width // 2] * 4
    assert laplacian == [0, 1020**2 * (height - 2) * (width - 2)]


def test_sums_inside_tf_data_equal_those_outside() -> None:
    pixels = random_image((33, 21))
    _, sums, squares, laplacian, _ = next(iter(tf.data.Dataset.from_tensors(pixels).map(pixel_sums)))
    assert (sums.numpy().tolist(), squares.numpy().tolist(), laplacian.numpy().tolist()) == expected_sums(pixels)


def test_only_equal_pixels_have_equal_fingerprints() -> None:
    fingerprint = lambda pixels: int(pixel_sums(tf.constant(pixels))[-1])  # noqa: E731
    seen = {fingerprint(random_image((12, 10), seed)) for seed in range(50)}
    assert len(seen) == 50
    assert fingerprint(random_image((12, 10), 7)) in seen
    one_off = random_image((12, 10), 7)
    one_off[11, 9, 2] ^= 1
    assert fingerprint(one_off) not in seen


@pytest.mark.slow
def test_sums_of_a_large_image_do_not_overflow() -> None:
    """3000 x 3000 white pixels: the squares sum to 5.9e11."""
    file = io.BytesIO()
    Image.new("RGB", (3000, 3000), (255, 255, 255)).save(file, "PNG")
    size, sums, squares, _, _ = pixel_sums(tf.io.decode_image(file.getvalue()))
    assert size.numpy().tolist() == [3000, 3000]
    assert sums.numpy().tolist() == [255 * 3000 * 3000] * 4
    assert squares.numpy().tolist() == [255 * 255 * 3000 * 3000] * 4
