"""Decoding: every format against Pillow, windows against the whole image, JPEGs against their pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from evenkeel.pipeline.images import crop
from evenkeel.pipeline.images.decode import (
    LIBJPEG_OPTIONS,
    WHITE,
    decode_crop,
    decode_region,
    decode_whole,
    luma,
    to_uint8,
)

HEIGHT, WIDTH = 24, 36
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
Y, X = np.indices((HEIGHT, WIDTH))
SMOOTH = np.stack([10 * Y, 7 * X, 4 * (X + Y)], axis=2).astype(np.uint8)  # JPEG stores it nearly unchanged


def encode(pixels: np.ndarray, file_format: str, mode: str = "", **options) -> bytes:
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, file_format, **options)
    return file.getvalue()


def decode_by_pillow(contents: bytes, channels: int, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    image = Image.open(io.BytesIO(contents))
    if image.has_transparency_data and image.format != "BMP":
        pixels = np.asarray(image.convert("RGBA"), np.float64)
        share = pixels[..., 3:] / 255
        blended = np.floor(pixels[..., :3] * share + np.array(background) * (1 - share) + 0.5)
        image = Image.fromarray(blended.astype(np.uint8))
    image = image.convert("RGB" if channels == 3 else "L")
    return np.asarray(image).reshape(image.height, image.width, channels)


def difference(a: np.ndarray | tf.Tensor, b: np.ndarray | tf.Tensor) -> np.ndarray:
    return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))


WITH_ALPHA = np.concatenate([NOISE, NOISE[:, ::-1, :1]], axis=2)
LOSSLESS = {
    "png": encode(NOISE, "PNG"),
    "palette png": encode(NOISE, "PNG", "P"),
    "transparent palette png": encode(NOISE, "PNG", "P", transparency=3),
    "gray png": encode(NOISE, "PNG", "L"),
    "gray and alpha png": encode(NOISE, "PNG", "LA"),
    "bilevel png": encode(NOISE, "PNG", "1"),
    "rgba png": encode(WITH_ALPHA, "PNG"),
    "bmp": encode(NOISE, "BMP"),
    "gray bmp": encode(NOISE, "BMP", "L"),
    "rgba bmp": encode(WITH_ALPHA, "BMP"),
    "webp": encode(NOISE, "WEBP", lossless=True),
    "rgba webp": encode(WITH_ALPHA, "WEBP", lossless=True, exact=True),
    "gif": encode(NOISE, "GIF", "P"),
    "animated gif": encode(NOISE, "GIF", "P", save_all=True, append_images=[Image.fromarray(SMOOTH).convert("P")]),
}
JPEGS = {
    "jpeg": encode(SMOOTH, "JPEG", quality=95, subsampling=0),
    "gray jpeg": encode(SMOOTH, "JPEG", "L", quality=95),
    "cmyk jpeg": encode(SMOOTH, "JPEG", "CMYK", quality=95),
    "progressive jpeg": encode(SMOOTH, "JPEG", quality=95, subsampling=0, progressive=True),
}


def test_the_test_files_have_the_modes_that_their_names_say() -> None:
    modes = {name: Image.open(io.BytesIO(contents)).mode for name, contents in (LOSSLESS | JPEGS).items()}
    assert modes["palette png"] == modes["transparent palette png"] == modes["gif"] == "P"
    assert modes["gray png"] == modes["gray jpeg"] == modes["gray bmp"] == "L"
    assert modes["gray and alpha png"] == "LA"
    assert modes["bilevel png"] == "1"
    assert modes["rgba png"] == modes["rgba webp"] == "RGBA"
    assert modes["cmyk jpeg"] == "CMYK"


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_files_decode_to_the_same_pixels_as_in_pillow(name: str) -> None:
    colour = decode_whole(tf.constant(LOSSLESS[name]), channels=3)
    assert colour.dtype == tf.uint8
    assert difference(colour, decode_by_pillow(LOSSLESS[name], 3)).max() <= ("alpha" in name or "rgba" in name)
    # Pillow computes luma in integers, which may round the other way.
    gray = decode_whole(tf.constant(LOSSLESS[name]), channels=1)
    assert gray.dtype == tf.uint8
    assert gray.shape == (HEIGHT, WIDTH, 1)
    assert difference(gray, decode_by_pillow(LOSSLESS[name], 1)).max() <= 1


@pytest.mark.parametrize("name", ["rgba png", "gray and alpha png", "rgba webp", "transparent palette png"])
def test_transparent_pixels_show_the_background(name: str) -> None:
    """A black drawing on nothing is black on white."""
    image = decode_whole(tf.constant(LOSSLESS[name]), 3, (10, 200, 30))
    assert difference(image, decode_by_pillow(LOSSLESS[name], 3, (10, 200, 30))).max() <= 1
    logo = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    logo[4:9, 4:9, 3] = 255
    pixels = decode_whole(tf.constant(encode(logo, "PNG")), 3).numpy()
    assert (pixels[4:9, 4:9] == 0).all()
    assert (pixels == 255).mean() == pytest.approx(1 - 25 / (HEIGHT * WIDTH))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", JPEGS)
def test_jpegs_decode_to_nearly_the_same_pixels_as_in_pillow(name: str, channels: int) -> None:
    contents, expected = tf.constant(JPEGS[name]), decode_by_pillow(JPEGS[name], channels)
    square = decode_crop(contents, tf.constant([0, 4, HEIGHT, HEIGHT]), is_jpeg=True, channels=channels)
    for image, part in (
        (decode_whole(contents, channels), expected),
        (square, expected[:, 4 : 4 + HEIGHT]),
    ):
        assert image.shape == part.shape
        assert difference(image, part).max() <= 6
        assert difference(image, part).mean() < 1.5


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_png_keeps_the_upper_byte(channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
    image = decode_whole(tf.constant(encode(pixels, "PNG")), channels)
    np.testing.assert_array_equal(image, np.repeat(pixels[:, :, None] >> 8, channels, axis=2))


def test_gray_is_itu_r_601_luma_rounded_to_the_nearest() -> None:
    exact = NOISE.astype(np.float64) @ [0.299, 0.587, 0.114]
    image = decode_whole(tf.constant(LOSSLESS["png"]), channels=1)[:, :, 0]
    assert difference(image, exact).max() <= 0.5 + 1e-4


def decode_whole_as_crops(contents: bytes, channels: int) -> tf.Tensor:
    """All pixels; JPEGs are decoded with the settings that are used for crops."""
    if contents[:2] != b"\xff\xd8":
        return decode_whole(tf.constant(contents), channels)
    if channels == 1 and Image.open(io.BytesIO(contents)).mode == "CMYK":
        return luma(decode_whole_as_crops(contents, 3))
    return tf.io.decode_jpeg(contents, channels, **LIBJPEG_OPTIONS)


WINDOWED = {**JPEGS, "noisy jpeg": encode(NOISE, "JPEG"), "png": LOSSLESS["png"], "webp": LOSSLESS["webp"]}


@settings(max_examples=40)
@given(data=st.data(), channels=st.sampled_from([1, 3]), name=st.sampled_from(sorted(WINDOWED)))
def test_a_decoded_window_equals_that_part_of_the_whole_image(data: st.DataObject, channels: int, name: str) -> None:
    side = data.draw(st.integers(1, HEIGHT))
    y, x = data.draw(st.integers(0, HEIGHT - side)), data.draw(st.integers(0, WIDTH - side))
    whole = decode_whole_as_crops(WINDOWED[name], channels)
    image = decode_crop(tf.constant(WINDOWED[name]), tf.constant([y, x, side, side]), "jpeg" in name, channels)
    np.testing.assert_array_equal(image, whole[y : y + side, x : x + side])


@pytest.mark.parametrize("channels", [1, 3])
def test_mixed_formats_decode_inside_tf_data_as_outside(channels: int) -> None:
    contents = [LOSSLESS["gray png"], JPEGS["cmyk jpeg"], LOSSLESS["gif"], JPEGS["jpeg"], LOSSLESS["rgba webp"]]
    kinds = [name == b"\xff\xd8" for name in (file[:2] for file in contents)]
    window = tf.constant([3, 5, 12, 20])
    ds = tf.data.Dataset.from_tensor_slices((contents, kinds)).map(
        lambda file, kind: decode_crop(file, window, kind, channels), num_parallel_calls=2
    )
    assert ds.element_spec == tf.TensorSpec([None, None, channels], tf.uint8)
    for file, kind, image in zip(contents, kinds, ds.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(image, decode_crop(tf.constant(file), window, kind, channels))


@pytest.mark.parametrize("subsampling", [0, 2], ids=["4:4:4", "4:2:0"])
def test_jpegs_decode_without_a_color_cast(subsampling: int) -> None:
    """The pixels equal Pillow's, except for the chroma that Pillow blends; libjpeg's fast DCT is a level off."""
    levels = np.linspace(30, 220, 96 * 128 * 3).reshape(3, 96, 128).transpose(1, 2, 0)
    contents = encode(
        (levels + np.random.default_rng(0).normal(0, 8, levels.shape)).astype(np.uint8), "JPEG", subsampling=subsampling
    )
    expected = decode_by_pillow(contents, 3).astype(np.float64)
    window = tf.constant([0, 0, 96, 96])
    for image in (
        decode_whole(tf.constant(contents), 3)[:, :96],
        decode_crop(tf.constant(contents), window, True, 3),
    ):
        differences = image.numpy() - expected[:, :96]
        assert np.abs(differences.mean(axis=(0, 1))).max() < 0.05
        if subsampling == 0:
            assert not differences.any()


def test_to_uint8_rounds_and_clips() -> None:
    values = tf.constant([-1e9, -0.6, 0.4, 0.6, 127.49, 127.51, 254.6, 255.6, 1e9])
    assert to_uint8(values).numpy().tolist() == [0, 0, 0, 1, 127, 128, 255, 255, 255]


@pytest.mark.parametrize("contents", [b"", b"no image", JPEGS["jpeg"][:300], LOSSLESS["png"][:-40]])
def test_bytes_that_are_no_image_raise(contents: bytes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_whole(tf.constant(contents), channels=3)


@pytest.mark.parametrize("window", [[0, 0, 299, 419], [36, 52, 80, 100], [5, 8, 251, 132], [43, 163, 256, 256]])
def test_a_jpeg_is_scaled_as_its_pixels_are(window: list[int]) -> None:
    """The decoder averages blocks itself, also the incomplete ones at the border."""
    height, width, shape = 299, 419, (32, 24)
    rng = np.random.default_rng(0)
    layers = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (height // s, width // s, 3), np.uint8)).resize((width, height))
        )
        for s in (3, 9, 27)
    ]
    contents = tf.constant(encode(np.mean(layers, axis=0).astype(np.uint8), "JPEG", quality=95, subsampling=0))
    lossless = tf.io.encode_png(tf.io.decode_jpeg(contents, channels=3, **LIBJPEG_OPTIONS))
    (region,), (method,) = crop.decode_regions(tf.constant([window]), [height], [width], tf.constant([shape]))
    assert region[4] > 0
    images = [
        decode_region(file, region, tf.constant(window), method, file is contents, shape, channels)
        for channels in (3, 1)
        for file in (contents, lossless)
    ]
    assert images[0].shape == (*shape, 3)
    assert difference(images[0], images[1]).mean() < 0.5
    assert difference(images[2], images[3]).mean() < 1
    assert difference(images[2], luma(images[0])).mean() < 1
