"""Encoded bytes -> uint8 image; never decodes more pixels than the crop needs.

image = decode(contents, window, is_jpeg=True, size=32, channels=3)    # inside tf.data, per image
"""

from __future__ import annotations

import tensorflow as tf


def decode_whole(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """uint8 [height, width, channels] from JPEG (CMYK too), PNG (8 and 16 bit), BMP, WebP or GIF (its first frame).

    The file's own channels are converted: gray is repeated, alpha is dropped, colour becomes ITU-R 601 luma.
    """
    # channels=0 because the BMP and WebP kernels refuse to convert.
    image = tf.io.decode_image(contents, channels=0, expand_animations=False)
    image.set_shape([None, None, None])
    found = tf.shape(image)[2]
    image = tf.cond(found < 3, lambda: tf.repeat(image[..., :1], 3, axis=2), lambda: image[..., :3])
    if channels == 3:
        return tf.ensure_shape(image, [None, None, 3])
    return luma(image)


def luma(image: tf.Tensor) -> tf.Tensor:
    """uint8 [h, w, 3] -> uint8 [h, w, 1], ITU-R 601 weights."""
    return to_uint8(tf.tensordot(tf.cast(image, tf.float32), tf.constant([[0.299], [0.587], [0.114]]), 1))


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Rounds to the nearest and saturates."""
    return tf.saturate_cast(tf.round(image), tf.uint8)


def _cropped_jpeg(contents: tf.Tensor, window: tf.Tensor, channels: int) -> tf.Tensor:
    def cropped(channels: int) -> tf.Tensor:
        # Plain chroma upsampling and the fast DCT: what a network sees differs by less than JPEG's own loss.
        return tf.image.decode_and_crop_jpeg(
            contents, window, channels=channels, fancy_upscaling=False, dct_method="INTEGER_FAST"
        )

    if channels == 3:
        return cropped(3)
    # libjpeg makes colour of CMYK, but refuses to make gray of it.
    is_cmyk = tf.image.extract_jpeg_shape(contents)[2] == 4
    return tf.cond(is_cmyk, lambda: luma(cropped(3)), lambda: cropped(1))


def _cropped_other(contents: tf.Tensor, window: tf.Tensor, channels: int) -> tf.Tensor:
    y, x, height, width = tf.unstack(window)
    return decode_whole(contents, channels)[y : y + height, x : x + width]


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """Bilinear, half-pixel centres: uint8 [h, w, c] -> uint8 [size, size, c]; the same pixels if that is its size."""
    shape = tf.shape(image)
    return tf.cond(
        (shape[0] == size) & (shape[1] == size),
        lambda: image,
        lambda: to_uint8(tf.image.resize(image, [size, size])),
    )


def decode(contents: tf.Tensor, window: tf.Tensor, is_jpeg: tf.Tensor | bool, size: int, channels: int) -> tf.Tensor:
    """The `window` (int32 y, x, height, width) of an encoded image, scaled to uint8 [size, size, channels].

    `is_jpeg` may be a Python bool where the whole data set is of one kind: then the graph holds one decoder.
    """
    if isinstance(is_jpeg, bool):
        image = (_cropped_jpeg if is_jpeg else _cropped_other)(contents, window, channels)
    else:
        image = tf.cond(
            is_jpeg,
            lambda: _cropped_jpeg(contents, window, channels),
            lambda: _cropped_other(contents, window, channels),
        )
    return tf.ensure_shape(resize(image, size), [size, size, channels])
