"""Measurements in batches equal those of single images, whatever the format."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evenkeel.pipeline.images.perceptual_hash import hash_pictures, shrink_to_gray, turn_hashes
from evenkeel.pipeline.index.build_index import check_image
from evenkeel.pipeline.index.measure_images import measure_images
from evenkeel.pipeline.index.pixel_sums import pixel_sums

KINDS = st.sampled_from(["JPEG", "PNG", "BMP", "GIF", "WEBP", "pixels", "broken"])
SIDES = st.integers(1, 5)


@pytest.mark.slow
@settings(max_examples=20)
@given(st.lists(st.tuples(KINDS, SIDES, SIDES), max_size=12))
def test_measurements_in_batches_equal_those_of_single_images(images: list[tuple[str, int, int]]) -> None:
    contents, headers, expected = [], [], []
    for seed, (kind, height, width) in enumerate(images):
        pixels = np.random.default_rng(seed).integers(0, 256, (4 * height, 4 * width, 3), np.uint8)
        encoded = pixels.tobytes() if kind == "pixels" else encode(pixels, "JPEG" if kind == "broken" else kind)
        whole = encoded[: encoded.index(b"\xff\xda") + 2] if kind == "broken" else encoded
        contents.append(whole)
        headers.append(check_image(whole, 1 << 20, pixels.shape if kind == "pixels" else ())[1])
        expected.append(None if kind == "broken" else measure_alone(pixels if kind == "pixels" else decode(encoded)))
    turns = [1 + seed % 8 for seed in range(len(images))]
    measured = measure_images(contents, headers, turns, (255, 255, 255))
    assert measured.decoded.tolist() == [each is not None for each in expected]
    for row, each in enumerate(expected):
        if each is not None:
            each["perceptual_hash"] = turn_hashes(each["perceptual_hash"][None], np.array(turns[row : row + 1]))[0]
            for name, value in each.items():
                assert np.array_equal(measured.columns[name][row], value), (images[row], name)


def encode(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def decode(contents: bytes) -> np.ndarray:
    options = {"dct_method": "INTEGER_ACCURATE", "fancy_upscaling": False}
    is_jpeg = contents[:2] == b"\xff\xd8"
    image = tf.io.decode_jpeg(contents, **options) if is_jpeg else tf.io.decode_image(contents, expand_animations=False)
    return image.numpy()[..., :3]


def measure_alone(image: np.ndarray) -> dict[str, np.ndarray]:
    size, *sums = (value.numpy() for value in pixel_sums(tf.constant(image)))
    words = hash_pictures(shrink_to_gray(tf.constant(image)).numpy()[None])[0]
    names = ("height", "width", "sums", "squares", "laplacian", "fingerprint", "perceptual_hash")
    return dict(zip(names, (*size, *sums, words), strict=True))
