"""Headers: format and size as Pillow sees them, no exception for any bytes, and what no decoder must see."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evenkeel.pipeline.images import header as image_header
from evenkeel.pipeline.images.header import (
    FORMATS,
    MOST_SCANS,
    READERS,
    read_header,
)
from tests import mutations


def encoded(file_format: str, size: tuple[int, int] = (9, 7), mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, file_format, **options)
    return file.getvalue()


@pytest.mark.parametrize("seed", range(60))
def test_format_and_size_are_pillows(seed: int) -> None:
    _, contents = mutations.sound(np.random.default_rng(seed))
    image, header = Image.open(io.BytesIO(contents)), read_header(contents)
    assert header is not None
    assert FORMATS[header.format].upper() == image.format
    assert (header.width, header.height) == image.size


@pytest.mark.parametrize("seed", range(60))
def test_what_is_not_refused_is_decoded_to_that_size(seed: int) -> None:
    _, contents = mutations.sound(np.random.default_rng(seed))
    header = read_header(contents)
    assert header is not None
    if not header.refusal:
        decoded = tf.io.decode_image(contents, expand_animations=False)
        assert decoded.shape[:2] == (header.height, header.width)


@settings(deadline=None)
@given(magic=st.sampled_from([b"", *READERS]), rest=st.binary(max_size=200))
def test_any_bytes_have_a_header_or_none(magic: bytes, rest: bytes) -> None:
    header = read_header(magic + rest)
    assert header is None or (header.width >= 1 and header.height >= 1)


@pytest.mark.parametrize("seed", range(0, 450, 3))
def test_mutated_files_have_a_header_or_none(seed: int) -> None:
    header = read_header(mutations.mutated(seed)[1])
    assert header is None or header.refusal or max(header.width, header.height) <= image_header.LONGEST_SIDE


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "GIF", "WEBP"])
def test_a_file_that_ends_in_its_header_has_none(file_format: str) -> None:
    contents = encoded(file_format)
    for end in range(10):
        assert read_header(contents[:end]) is None


def test_a_size_behind_a_long_exif_block_is_found() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    header = read_header(encoded("JPEG", (31, 17), exif=exif.tobytes(), progressive=True))
    assert header is not None
    assert (header.width, header.height) == (31, 17)


def test_a_thumbnail_inside_a_jpeg_is_not_taken_for_it() -> None:
    thumbnail = encoded("JPEG", (5, 4))
    block = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    contents = encoded("JPEG", (31, 17))
    header = read_header(contents[:2] + block + contents[2:])
    assert header is not None
    assert (header.width, header.height) == (31, 17)


def refusal(contents: bytes) -> str:
    header = read_header(contents)
    assert header is not None
    return header.refusal


def patched(contents: bytes, at: int, form: str, *values: int) -> bytes:
    changed = bytearray(contents)
    struct.pack_into(form, changed, at, *values)
    return bytes(changed)


def test_an_animated_webp_is_refused_and_a_still_one_is_not() -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    assert refusal(file.getvalue()) == "an animated WebP cannot be decoded"
    for options in ({"lossless": True}, {"quality": 50}):
        assert refusal(encoded("WEBP", mode="RGBA", **options)) == ""


def test_a_png_larger_than_its_bytes_can_hold_is_refused() -> None:
    contents = bytearray(encoded("PNG"))
    struct.pack_into(">II", contents, 16, 9000, 9000)
    struct.pack_into(">I", contents, 29, zlib.crc32(contents[12:29]))
    assert refusal(bytes(contents)) == f"a PNG of 9000 x 9000 pixels cannot be {len(contents)} bytes long"


def test_the_most_compressed_png_is_not_refused() -> None:
    file = io.BytesIO()
    Image.new("L", (4000, 4000)).save(file, "PNG", compress_level=9)
    assert refusal(file.getvalue()) == ""
    file = io.BytesIO()
    Image.new("1", (8000, 8000)).save(file, "PNG", compress_level=9)
    assert refusal(file.getvalue()) == ""


def test_what_tensorflow_would_read_wrong_from_a_bmp_is_refused() -> None:
    bmp = encoded("BMP")
    assert refusal(bmp) == refusal(encoded("BMP", mode="L")) == refusal(encoded("BMP", mode="RGBA")) == ""
    assert refusal(encoded("BMP", mode="P")) == "a BMP with a palette cannot be decoded"
    assert refusal(encoded("BMP", mode="1")) == "a BMP of 1 bits a pixel cannot be decoded"
    assert refusal(patched(bmp, 30, "<I", 1)) == "a compressed BMP cannot be decoded"
    assert refusal(patched(bmp, 14, "<IHH", 12, 9, 7)) == "a BMP with a header of OS/2 cannot be decoded"
    for at, form, value in ((10, "<i", -1000), (22, "<i", 5000), (22, "<i", -5000), (18, "<i", 60_000)):
        assert "cannot be" in refusal(patched(bmp, at, form, value))
    assert read_header(patched(bmp, 22, "<i", -7)) == read_header(bmp)  # the top row comes first


def test_a_side_no_decoder_handles_is_refused() -> None:
    contents = bytearray(encoded("PNG", (70_000, 1)))
    assert refusal(bytes(contents)) == "a side is longer than 65535 pixels"


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    contents = encoded("JPEG", progressive=True)
    assert refusal(contents) == ""
    scans = contents.count(b"\xff\xda") + MOST_SCANS
    assert refusal(contents + b"\xff\xda" * MOST_SCANS) == f"a JPEG of {scans} scans, more than {MOST_SCANS}"


def test_a_gif_counts_the_pixels_of_all_its_frames() -> None:
    frames = [Image.new("P", (40, 30), colour) for colour in range(5)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], optimize=False, disposal=2)
    contents = file.getvalue()
    header = read_header(contents)
    assert header is not None
    assert (header.width, header.height) == (40, 30)
    assert header.pixels > 40 * 30
    frame = contents.index(b"\x2c", 13)
    large = read_header(patched(contents, frame + 5, "<HH", 60_000, 60_000))
    assert large is not None
    assert large.pixels > 60_000 * 60_000
