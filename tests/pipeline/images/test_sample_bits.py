"""16-bit files whose samples hold fewer bits: their bits, their pixels, and sums that fit them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from evenkeel.pipeline.images import sample_bits
from evenkeel.pipeline.images.decode import decode_whole
from evenkeel.pipeline.index.pixel_sums import pixel_sums


def encode(samples: np.ndarray) -> bytes:
    """A 16-bit PNG; Pillow writes those of gray images only."""
    if samples.ndim == 3:
        return tf.io.encode_png(samples.astype(np.uint16)).numpy()
    file = io.BytesIO()
    Image.fromarray(samples.astype(np.uint16)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("largest", "bits"), [(65_535, 16), (32_767, 15), (4095, 12), (4096, 13), (1000, 10), (255, 8), (3, 8), (0, 8)]
)
def test_the_bits_are_those_of_the_largest_sample(largest: int, bits: int) -> None:
    samples = np.zeros((4, 5))
    samples[2, 3] = largest
    assert sample_bits.find_sample_bits(encode(samples)) == bits


def test_other_files_have_no_bits() -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    assert sample_bits.find_sample_bits(file.getvalue()) == 0
    assert sample_bits.find_sample_bits(b"") == 0
    assert sample_bits.find_sample_bits(b"\xff\xd8\xff") == 0
    assert sample_bits.find_sample_bits(encode(np.zeros((4, 4)))[:-30]) == 16  # damaged


@pytest.mark.parametrize("channels", [0, 3, 4])
def test_the_lowest_bits_are_shown(channels: int) -> None:
    shape = (6, 7, channels) if channels else (6, 7)
    samples = np.random.default_rng(0).integers(0, 5000, shape)
    if channels == 4:
        samples[..., 3] = 4095
    contents = tf.constant(encode(samples))
    assert bool(sample_bits.is_deep_png(contents))
    expected = np.minimum(samples >> 4, 255)
    colour = expected[..., :3] if channels else np.repeat(expected[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode_whole(contents, 3, sample_bits=12), colour)
    np.testing.assert_array_equal(decode_whole(contents, 3, sample_bits=tf.constant(12)), colour)
    plain = decode_whole(contents, 3).numpy()
    if channels != 4:  # whose pixels are nearly transparent if all 16 bits count
        assert plain.max() <= 5000 >> 8


def test_files_of_8_bits_are_decoded_as_ever() -> None:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    np.testing.assert_array_equal(decode_whole(tf.constant(file.getvalue()), 3, sample_bits=12), pixels)


def test_sums_fit_the_bits_of_the_data_set() -> None:
    samples = np.random.default_rng(0).integers(0, 1024, (30, 40))
    contents = tf.constant(encode(samples))
    rows = {}
    for bits in (10, 12):
        _, sums, squares, laplacian, _ = pixel_sums(decode_whole(contents, 3, sample_bits=bits))
        rows[bits] = {"sums": sums, "squares": squares, "laplacian": laplacian}
    columns = {name: values.numpy()[None] for name, values in rows[10].items()}
    scaled = sample_bits.scale_sums({**columns, "sample_bits": np.array([10], np.int8)}, 12)
    for name in ("sums", "squares"):  # within half a level
        expected = rows[12][name].numpy() / samples.size
        tolerance = 0.5 if name == "sums" else 0.5 * 2 * 64
        np.testing.assert_allclose(scaled[name][0] / samples.size, expected, atol=tolerance)
    unchanged = sample_bits.scale_sums({**columns, "sample_bits": np.array([0], np.int8)}, 16)
    np.testing.assert_array_equal(unchanged["sums"], columns["sums"])
