"""Decodes images to uint8 pixels; for a JPEG, only the crop is decoded.

image = decode_region(contents, region, window, method, is_jpeg=True, shape=(32, 32), channels=3)    # inside tf.data
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from evenkeel.pipeline.images.sample_bits import ALL_BITS, decode_deep_png, is_deep_png
from evenkeel.pipeline.images.scaling import AVERAGED, HALVED, PLAIN, Shape, average_blocks, scale, scale_halved

# libjpeg-turbo has AVX2 code for its accurate DCT, which takes as long as its fast DCT (0.998 and 1.01 times the whole
# decoding). The fast DCT lowers red by 1.1 gray levels and blue by 1.2. Chroma is repeated, not blended with its
# neighbours, so a pixel does not depend on where its image is cropped. The pixels differ from Pillow's by 0.15 levels;
# with the fast DCT they differ by 1.26.
LIBJPEG_OPTIONS = {"dct_method": "INTEGER_ACCURATE", "fancy_upscaling": False}


Color = tuple[int, int, int]  # red, green, blue, 0 to 255
WHITE = (255, 255, 255)


def decode_region(
    contents: tf.Tensor,
    region: tf.Tensor,
    window: tf.Tensor,
    method: tf.Tensor | int,
    is_jpeg: bool,
    shape: Shape,
    channels: int,
    background: Color = WHITE,
    sample_bits: int = ALL_BITS,
) -> tf.Tensor:
    """Decodes a region of an image and scales a window of it to uint8 [*shape, channels].

    `region` (int32 [5]) and `method` come from `crop.decode_regions` of the `window` (int32 [4]). A method that is the
    same for all images may be a number: the graph then holds one way of scaling.
    """
    if not is_jpeg:
        image = decode_whole(contents, channels, background, sample_bits)
        return scale_region(image, region, window, method, shape)

    def decode_by(method: int) -> tf.Tensor:
        if method != HALVED:
            return scale(_decode_crop_jpeg(contents, region[:4], channels), shape, method)
        decode_at = lambda ratio: lambda: _decode_crop_jpeg(contents, region[:4], channels, ratio)  # noqa: E731
        image = tf.switch_case(region[4] - 1, [decode_at(ratio) for ratio in (2, 4, 8)])
        return scale_halved(image, window, region[4], shape)

    return _switch_on_method(method, decode_by)


def scale_region(
    image: tf.Tensor, region: tf.Tensor, window: tf.Tensor, method: tf.Tensor | int, shape: Shape
) -> tf.Tensor:
    """Scales a window of a whole image, uint8 [h, w, c], as `decode_region` does, to uint8 [*shape, c]."""
    y, x, height, width = tf.unstack(full_size_region(region, tf.shape(image)[:2]))
    return scale_pixels(image[y : y + height, x : x + width], region, window, method, shape)


def full_size_region(region: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """The pixels (y, x, height, width) of a region in an image of a `size` that is not scaled down, int32 [4]."""
    first, extent = tf.split(tf.bitwise.left_shift(region[:4], region[4]), 2)
    return tf.concat([first, tf.minimum(extent, size - first)], axis=0)


def scale_pixels(
    pixels: tf.Tensor, region: tf.Tensor, window: tf.Tensor, method: tf.Tensor | int, shape: Shape
) -> tf.Tensor:
    """`scale_region` for the pixels of the region alone, see `full_size_region`."""

    def scale_by(method: int) -> tf.Tensor:
        if method != HALVED:
            return scale(pixels, shape, method)
        return scale_halved(average_blocks(pixels, region[4]), window, region[4], shape)

    return _switch_on_method(method, scale_by)


def _switch_on_method(method: tf.Tensor | int, function: Callable[[int], tf.Tensor]) -> tf.Tensor:
    if isinstance(method, int):
        return function(method)
    return tf.switch_case(method, [functools.partial(function, each) for each in (PLAIN, AVERAGED, HALVED)])


def decode_crop(
    contents: tf.Tensor,
    window: tf.Tensor,
    is_jpeg: tf.Tensor | bool,
    channels: int,
    background: Color = WHITE,
    sample_bits: int = ALL_BITS,
) -> tf.Tensor:
    """Decodes the `window` (int32 y, x, height, width) of an image to uint8 [height, width, channels].

    `is_jpeg` may be a Python bool if the whole data set is of one kind: the graph then holds one decoder.
    """
    if isinstance(is_jpeg, bool):
        if is_jpeg:
            return _decode_crop_jpeg(contents, window, channels)
        return _decode_crop_other(contents, window, channels, background, sample_bits)
    return tf.cond(
        is_jpeg,
        lambda: _decode_crop_jpeg(contents, window, channels),
        lambda: _decode_crop_other(contents, window, channels, background, sample_bits),
    )


def _decode_crop_jpeg(contents: tf.Tensor, window: tf.Tensor, channels: int, ratio: int = 1) -> tf.Tensor:
    def decode_and_crop(channels: int) -> tf.Tensor:
        return tf.image.decode_and_crop_jpeg(contents, window, channels=channels, ratio=ratio, **LIBJPEG_OPTIONS)

    if channels == 3:
        return decode_and_crop(3)
    # libjpeg converts CMYK to colour, but refuses to convert it to gray.
    is_cmyk = tf.image.extract_jpeg_shape(contents)[2] == 4
    return tf.cond(is_cmyk, lambda: luma(decode_and_crop(3)), lambda: decode_and_crop(1))


def _decode_crop_other(
    contents: tf.Tensor, window: tf.Tensor, channels: int, background: Color, sample_bits: int
) -> tf.Tensor:
    y, x, height, width = tf.unstack(window)
    return decode_whole(contents, channels, background, sample_bits)[y : y + height, x : x + width]


def decode_whole(
    contents: tf.Tensor, channels: int, background: Color = WHITE, sample_bits: tf.Tensor | int = ALL_BITS
) -> tf.Tensor:
    """Decodes a whole image to uint8 [height, width, channels].

    Formats: JPEG (also CMYK), PNG (8 and 16 bit), BMP, WebP, GIF (its first frame). The file's own channels are
    converted: gray is repeated, transparent pixels are blended with `background`, colour becomes ITU-R 601 luma if
    `channels` is 1. The samples of 16-bit files are taken to hold `sample_bits` bits.
    """

    def decode_lossless() -> tf.Tensor:
        image = lambda: tf.io.decode_image(contents, channels=0, expand_animations=False)  # noqa: E731
        if isinstance(sample_bits, int) and sample_bits == ALL_BITS:
            return image()
        return tf.cond(is_deep_png(contents), lambda: decode_deep_png(contents, sample_bits), image)

    # channels=0, because the BMP and WebP kernels do not convert channels.
    image = tf.cond(
        is_jpeg(contents),
        lambda: tf.io.decode_jpeg(contents, channels=0, **LIBJPEG_OPTIONS),
        decode_lossless,
    )
    image.set_shape([None, None, None])
    file_channels = tf.shape(image)[2]
    color = tf.cond(file_channels < 3, lambda: tf.repeat(image[..., :1], 3, axis=2), lambda: image[..., :3])
    # Two channels are gray and alpha, four are colour and alpha; but of a BMP the fourth byte often means nothing.
    has_alpha = (file_channels % 2 == 0) & (tf.strings.substr(contents, 0, 2) != b"BM")
    image = tf.cond(has_alpha, lambda: _blend(color, image[..., -1:], background), lambda: color)
    if channels == 3:
        return tf.ensure_shape(image, [None, None, 3])
    return luma(image)


def _blend(color: tf.Tensor, alpha: tf.Tensor, background: Color) -> tf.Tensor:
    """Pixels, uint8 [h, w, 3], over a background; alpha, uint8 [h, w, 1], is 255 where they are opaque."""
    share = tf.cast(alpha, tf.float32) / 255
    return to_uint8(tf.cast(color, tf.float32) * share + tf.constant(background, tf.float32) * (1 - share))


def luma(image: tf.Tensor) -> tf.Tensor:
    """Luma with ITU-R 601 weights, uint8 [h, w, 3] -> uint8 [h, w, 1]."""
    return to_uint8(tf.tensordot(tf.cast(image, tf.float32), tf.constant([[0.299], [0.587], [0.114]]), 1))


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Rounds to the nearest integer and clips to 0..255."""
    return tf.saturate_cast(tf.round(image), tf.uint8)


def is_jpeg(contents: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(contents, 0, 3) == b"\xff\xd8\xff"
