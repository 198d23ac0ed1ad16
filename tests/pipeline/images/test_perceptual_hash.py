"""Perceptual hashes: against numpy and scipy in float64, and what they say about copies of a picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
import scipy.fft
import tensorflow as tf
from PIL import Image

from evenkeel.pipeline.images import perceptual_hash
from evenkeel.pipeline.images.decode import decode_whole
from evenkeel.pipeline.images.exif import turn_upright
from evenkeel.pipeline.images.perceptual_hash import (
    batch_shrink_to_gray,
    hamming_distances,
    hash_pictures,
    mirror_hashes,
    shrink_to_gray,
    turn_hashes,
)
from tests.indexes import enlarge, hash_image, images, render_images

SIZES = [(32, 32), (64, 96), (50, 37), (9, 40), (1, 1)]


def area_weights(size: int) -> np.ndarray:
    """The share of each of `size` pixels in each of 32 averages, float64 [32, size]."""
    edges = np.arange(33)[:, None] * size / 32
    covered = np.clip(edges - np.arange(size), 0, 1)
    return np.diff(covered, axis=0) * 32 / size


def expected_gray(image: np.ndarray) -> np.ndarray:
    gray = image.astype(np.float64) @ [0.299, 0.587, 0.114]
    return area_weights(image.shape[0]) @ gray @ area_weights(image.shape[1]).T


def random_image(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(size[0]).integers(0, 256, (*size, 3), np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_gray_levels_are_averages_of_areas(size: tuple[int, int]) -> None:
    image = random_image(size)
    expected = expected_gray(image)
    assert shrink_to_gray(tf.constant(image)).numpy() == pytest.approx(expected, abs=1e-3)
    in_graph = tf.data.Dataset.from_tensors(image).map(shrink_to_gray)
    assert next(iter(in_graph)).numpy() == pytest.approx(expected, abs=1e-3)


def test_a_batch_is_shrunk_as_its_images_are() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (3, 20, 45, 3), np.uint8)
    expected = np.stack([expected_gray(image) for image in batch])
    assert batch_shrink_to_gray(tf.constant(batch)).numpy() == pytest.approx(expected, abs=1e-3)


def test_bits_are_the_signs_of_the_lowest_frequencies() -> None:
    pictures = np.random.default_rng(0).normal(128, 40, (5, 32, 32))
    coefficients = scipy.fft.dctn(pictures, axes=(1, 2), norm="ortho")[:, :16, :16]
    grid = perceptual_hash._unpack(hash_pictures(pictures)).reshape(-1, 16, 16)
    assert grid[:, 0, 0].all(), "this bit only says that there is a hash"
    differing = np.argwhere(grid != (coefficients > 0))
    assert (differing[:, 1:] == 0).all()


def test_the_first_word_holds_the_lowest_frequencies() -> None:
    low = np.zeros((16, 16), np.bool_)
    low[:8, :8] = True
    words = perceptual_hash._pack(low.reshape(1, -1))
    assert words.tolist() == [[-1, 0, 0, 0]]


def test_packing_is_inverted_by_unpacking() -> None:
    bits = np.random.default_rng(0).random((20, 256)) < 0.5
    assert (perceptual_hash._unpack(perceptual_hash._pack(bits)) == bits).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(64, 96), (50, 37)])
def test_turning_a_hash_is_hashing_the_turned_picture(orientation: int, size: tuple[int, int]) -> None:
    image = random_image(size)
    expected = hash_image(turn_upright(tf.constant(image), orientation).numpy())
    turned = turn_hashes(hash_image(image)[None], np.array([orientation]))[0]
    assert hamming_distances(turned, expected) <= 1, "a coefficient next to 0 may change its sign"


def test_each_hash_is_turned_by_its_own_orientation() -> None:
    words = np.stack([hash_image(image) for image in render_images(4)])
    turned = turn_hashes(words, np.array([0, 2, 6, 2]))
    assert (turned[0] == words[0]).all()
    assert (turned[[1, 3]] == mirror_hashes(words)[[1, 3]]).all()
    assert hamming_distances(turned[2], words[2]) > 50


def test_distances_count_all_bits() -> None:
    words = np.array([[0, 0, 0, 0], [-1, 0, 0, 0], [-(1 << 63), 1, 0, 3]])
    assert hamming_distances(words, words[:1]).tolist() == [0, 64, 4]
    assert hamming_distances(words, words[1:2]).tolist() == [64, 0, 63 + 3]


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((40, 40, 3), 200),
        np.random.default_rng(0).integers(127, 130, (200, 200, 3)),
        np.linspace(0, 255, 40)[:, None, None].repeat(40, 1).repeat(3, 2),
    ],
    ids=["a single colour", "noise of one level", "a gradient"],
)
def test_pictures_of_next_to_nothing_have_no_hash(pixels: np.ndarray) -> None:
    assert hash_image(pixels.astype(np.uint8)).tolist() == [0, 0, 0, 0]
    none = np.zeros((1, 4), np.int64)
    assert (mirror_hashes(none) == 0).all()
    assert (turn_hashes(none, np.array([5])) == 0).all()


def re_encode(image: np.ndarray, **options: object) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, **options)  # type: ignore[arg-type]
    return decode_whole(tf.constant(file.getvalue()), 3).numpy()


def test_copies_have_almost_equal_hashes_and_other_pictures_do_not() -> None:
    pictures = render_images(20, size=96)
    words = np.stack([hash_image(picture) for picture in pictures])
    copies = {
        "larger": [enlarge(picture) for picture in pictures],
        "smaller": [picture[::2, ::2] // 2 + picture[1::2, 1::2] // 2 for picture in pictures],
        "JPEG": [re_encode(picture, format="JPEG", quality=50) for picture in pictures],
        "WebP": [re_encode(picture, format="WEBP", quality=50) for picture in pictures],
    }
    for name, copied in copies.items():
        distances = hamming_distances(words, np.stack([hash_image(picture) for picture in copied]))
        assert distances.max() <= 40, name
    mirrored = np.stack([hash_image(picture[:, ::-1]) for picture in pictures])
    assert hamming_distances(mirror_hashes(mirrored), words).max() <= 1
    noise = np.stack([hash_image(picture) for picture in images(20)])
    every = np.concatenate([words, noise])
    distances = hamming_distances(every[:, None], every[None])
    assert distances[~np.eye(40, dtype=np.bool_)].min() > 40
