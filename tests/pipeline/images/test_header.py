"""Image headers: format and size as in Pillow, no exception for any bytes, and files that must not be decoded."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from evenkeel.pipeline.images import header as image_header
from evenkeel.pipeline.images.header import (
    FORMATS,
    MAX_SCANS,
    READERS,
    read_header,
)
from tests import mutations


def encode(file_format: str, size: tuple[int, int] = (9, 7), mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(file, file_format, **options)
    return file.getvalue()


@pytest.mark.parametrize("seed", range(60))
def test_format_and_size_equal_those_of_pillow(seed: int) -> None:
    _, contents = mutations.sound(np.random.default_rng(seed))
    image, header = Image.open(io.BytesIO(contents)), read_header(contents)
    assert header is not None
    assert FORMATS[header.format].upper() == image.format
    assert (header.width, header.height) == image.size


@pytest.mark.parametrize("seed", range(60))
def test_an_image_that_is_not_refused_decodes_to_the_size_of_its_header(seed: int) -> None:
    _, contents = mutations.sound(np.random.default_rng(seed))
    header = read_header(contents)
    assert header is not None
    if not header.refusal:
        decoded = tf.io.decode_image(contents, expand_animations=False)
        assert decoded.shape[:2] == (header.height, header.width)


@pytest.mark.parametrize(
    ("marker", "bits", "kind"),
    [(0xC1, 12, "of 12 bits per sample"), (0xC3, 8, "without loss"), (0xF7, 8, "without loss")],
)
def test_jpegs_that_tensorflow_does_not_decode_are_refused_with_their_kind(marker: int, bits: int, kind: str) -> None:
    contents = bytearray(encode("JPEG"))
    frame = contents.find(b"\xff\xc0")
    contents[frame + 1], contents[frame + 4] = marker, bits
    header = read_header(bytes(contents))
    assert header is not None
    assert header.refusal == f"a JPEG {kind} cannot be decoded (convert it to PNG)"


@given(magic=st.sampled_from([b"", *READERS]), rest=st.binary(max_size=200))
def test_any_bytes_give_a_header_or_none(magic: bytes, rest: bytes) -> None:
    header = read_header(magic + rest)
    assert header is None or (header.width >= 1 and header.height >= 1)


@pytest.mark.parametrize("seed", range(0, 450, 3))
def test_mutated_files_give_a_header_or_none(seed: int) -> None:
    header = read_header(mutations.mutated(seed)[1])
    assert header is None or header.refusal or max(header.width, header.height) <= image_header.MAX_SIDE


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "GIF", "WEBP"])
def test_a_file_that_ends_inside_its_header_gives_none(file_format: str) -> None:
    contents = encode(file_format)
    for end in range(10):
        assert read_header(contents[:end]) is None


def test_a_size_after_a_long_exif_block_is_found() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    header = read_header(encode("JPEG", (31, 17), exif=exif.tobytes(), progressive=True))
    assert header is not None
    assert (header.width, header.height) == (31, 17)


def test_a_thumbnail_inside_a_jpeg_is_ignored() -> None:
    thumbnail = encode("JPEG", (5, 4))
    block = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    contents = encode("JPEG", (31, 17))
    header = read_header(contents[:2] + block + contents[2:])
    assert header is not None
    assert (header.width, header.height) == (31, 17)


def read_refusal(contents: bytes) -> str:
    header = read_header(contents)
    assert header is not None
    return header.refusal


def patch(contents: bytes, offset: int, form: str, *values: int) -> bytes:
    changed = bytearray(contents)
    struct.pack_into(form, changed, offset, *values)
    return bytes(changed)


def test_an_animated_webp_is_refused_and_a_still_one_is_not() -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    assert read_refusal(file.getvalue()) == "an animated WebP cannot be decoded"
    for options in ({"lossless": True}, {"quality": 50}):
        assert read_refusal(encode("WEBP", mode="RGBA", **options)) == ""


def test_a_png_larger_than_its_bytes_can_hold_is_refused() -> None:
    contents = bytearray(encode("PNG"))
    struct.pack_into(">II", contents, 16, 9000, 9000)
    struct.pack_into(">I", contents, 29, zlib.crc32(contents[12:29]))
    assert read_refusal(bytes(contents)) == f"a PNG of 9000 x 9000 pixels cannot be {len(contents)} bytes long"


def test_the_most_compressed_png_is_not_refused() -> None:
    file = io.BytesIO()
    Image.new("L", (4000, 4000)).save(file, "PNG", compress_level=9)
    assert read_refusal(file.getvalue()) == ""
    file = io.BytesIO()
    Image.new("1", (8000, 8000)).save(file, "PNG", compress_level=9)
    assert read_refusal(file.getvalue()) == ""


def test_bmps_that_tensorflow_would_decode_wrongly_are_refused() -> None:
    bmp = encode("BMP")
    assert read_refusal(bmp) == read_refusal(encode("BMP", mode="L")) == read_refusal(encode("BMP", mode="RGBA")) == ""
    assert read_refusal(encode("BMP", mode="P")) == "a BMP with a palette cannot be decoded"
    assert read_refusal(encode("BMP", mode="1")) == "a BMP of 1 bits per pixel cannot be decoded"
    assert read_refusal(patch(bmp, 30, "<I", 1)) == "a compressed BMP cannot be decoded"
    assert read_refusal(patch(bmp, 14, "<IHH", 12, 9, 7)) == "a BMP with an OS/2 header cannot be decoded"
    for offset, form, value in ((10, "<i", -1000), (22, "<i", 5000), (22, "<i", -5000), (18, "<i", 60_000)):
        assert "cannot be" in read_refusal(patch(bmp, offset, form, value))
    assert read_header(patch(bmp, 22, "<i", -7)) == read_header(bmp)  # the top row comes first


def test_a_side_that_no_decoder_handles_is_refused() -> None:
    contents = bytearray(encode("PNG", (70_000, 1)))
    assert read_refusal(bytes(contents)) == "a side is longer than 65535 pixels"


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    contents = encode("JPEG", progressive=True)
    assert read_refusal(contents) == ""
    scans = contents.count(b"\xff\xda") + MAX_SCANS
    assert read_refusal(contents + b"\xff\xda" * MAX_SCANS) == f"a JPEG of {scans} scans, more than {MAX_SCANS}"


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
    large = read_header(patch(contents, frame + 5, "<HH", 60_000, 60_000))
    assert large is not None
    assert large.pixels > 60_000 * 60_000


@pytest.mark.parametrize(("side", "ok"), [(13_300, True), (13_400, False)])
def test_a_jpeg_that_tensorflow_cannot_decode_is_refused_with_its_limit(side: int, ok: bool) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG")
    contents = bytearray(file.getvalue())
    struct.pack_into(">HH", contents, contents.find(b"\xff\xc0") + 5, side, side)
    header = read_header(bytes(contents))
    assert header is not None
    assert header.refusal == (
        "" if ok else f"a JPEG of {side} x {side} pixels, more than TensorFlow decodes (178956970): scale it down"
    )
    crop = lambda: tf.image.decode_and_crop_jpeg(bytes(contents), [0, 0, 8, 8], channels=3)  # noqa: E731
    if ok:
        assert crop().shape == (8, 8, 3)
    else:
        with pytest.raises(tf.errors.InvalidArgumentError):
            crop()
