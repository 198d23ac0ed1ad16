"""The orientation of a picture, against Pillow."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from evenkeel.pipeline.images.exif import UPRIGHT, find_orientation, read_orientation, stored_windows, turn_upright

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 11, 3), np.uint8)


def encode(file_format: str, orientation: int | None, **options: Any) -> bytes:
    file = io.BytesIO()
    if orientation is not None:
        exif = Image.Exif()
        exif[0x010F], exif[0x0112] = "a maker", orientation
        options["exif"] = exif
    Image.fromarray(PIXELS).save(file, file_format, **options)
    return file.getvalue()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [None, *range(1, 9), 0, 9])
def test_the_tag_is_read(file_format: str, orientation: int | None) -> None:
    expected = orientation if orientation in range(1, 9) else UPRIGHT
    contents = encode(file_format, orientation)
    assert read_orientation(contents) == expected
    assert find_orientation(tf.constant(contents)) == expected


def test_both_byte_orders_are_read() -> None:
    for order, mark in (("<", b"II"), (">", b"MM")):
        block = mark + struct.pack(f"{order}HIHHHIHH", 42, 8, 1, 0x0112, 3, 1, 8, 0)
        segment = b"Exif\0\0" + block
        contents = b"\xff\xd8\xff\xe1" + struct.pack(">H", 2 + len(segment)) + segment + b"\xff\xda"
        assert read_orientation(contents) == 8
        assert find_orientation(tf.constant(contents)) == 8


@given(st.integers(0, 400), st.binary(max_size=30))
def test_damaged_files_are_upright_or_turned_but_no_error(cut: int, noise: bytes) -> None:
    for file_format in ("JPEG", "PNG", "WEBP"):
        contents = encode(file_format, 6)
        assert 1 <= read_orientation(contents[:cut] + noise) <= 8
        assert 1 <= read_orientation(contents[:cut] + noise + contents[cut + len(noise) :]) <= 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_and_windows_agree_with_pillow(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(PIXELS)
    image.info["exif"] = exif.tobytes()
    upright = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(turn_upright(tf.constant(PIXELS), tf.constant(orientation)), upright)
    for window in ((1, 2, 4, 3), (0, 0, *upright.shape[:2])):
        y, x, height, width = stored_windows(tf.constant([window]), [orientation], [7], [11])[0].numpy()
        part = turn_upright(tf.constant(PIXELS[y : y + height, x : x + width]), tf.constant(orientation))
        np.testing.assert_array_equal(
            part, upright[window[0] : window[0] + window[2], window[1] : window[1] + window[3]]
        )
