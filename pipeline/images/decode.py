"""Encoded bytes -> uint8 image; never decodes more pixels than the crop needs.

image = decode(contents, window, is_jpeg=True, size=32, channels=3)    # inside tf.data, per image
"""

from __future__ import annotations

import tensorflow as tf

# libjpeg-turbo's accurate DCT costs what its fast one does (0.998 and 1.01 times the whole decoding) since it has code
# for AVX2, and the fast one takes 1.1 gray levels off red and 1.2 off blue. Chroma is repeated, not blended with its
# neighbours: a pixel then does not depend on where its image was cut. 0.15 levels from Pillow's pixels, 1.26 if fast.
LIBJPEG = {"dct_method": "INTEGER_ACCURATE", "fancy_upscaling": False}


def is_jpeg(contents: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(contents, 0, 3) == b"\xff\xd8\xff"


def decode_whole(contents: tf.Tensor, channels: int) -> tf.Tensor:
    """uint8 [height, width, channels] from JPEG (CMYK too), PNG (8 and 16 bit), BMP, WebP or GIF (its first frame).

    The file's own channels are converted: gray is repeated, alpha is dropped, colour becomes ITU-R 601 luma.
    """
    # channels=0 because the BMP and WebP kernels refuse to convert.
    image = tf.cond(
        is_jpeg(contents),
        lambda: tf.io.decode_jpeg(contents, channels=0, **LIBJPEG),
        lambda: tf.io.decode_image(contents, channels=0, expand_animations=False),
    )
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


def _cropped_jpeg(contents: tf.Tensor, window: tf.Tensor, channels: int, ratio: int = 1) -> tf.Tensor:
    def decoded(channels: int) -> tf.Tensor:
        return tf.image.decode_and_crop_jpeg(contents, window, channels=channels, ratio=ratio, **LIBJPEG)

    if channels == 3:
        return decoded(3)
    # libjpeg makes colour of CMYK, but refuses to make gray of it.
    is_cmyk = tf.image.extract_jpeg_shape(contents)[2] == 4
    return tf.cond(is_cmyk, lambda: luma(decoded(3)), lambda: decoded(1))


def _cropped_other(contents: tf.Tensor, window: tf.Tensor, channels: int) -> tf.Tensor:
    y, x, height, width = tf.unstack(window)
    return decode_whole(contents, channels)[y : y + height, x : x + width]


def decode_shrunk(contents: tf.Tensor, region: tf.Tensor, size: int, channels: int) -> tf.Tensor:
    """A JPEG shrunk while it is decoded, by 2, 4 or 8, to uint8 [size, size, channels]; `region` is of `crop.regions`.

    The inverse DCT at a lower resolution averages; what then is left to shrink, less than twice, is averaged too: that
    is closer to scaling the whole image down with antialiasing than bilinear reading of all its pixels, and cheaper.
    """

    def decoded(ratio: int) -> tf.Tensor:
        return _cropped_jpeg(contents, region[:4], channels, ratio)

    image = tf.switch_case(region[4] - 1, [lambda ratio=ratio: decoded(ratio) for ratio in (2, 4, 8)])
    # A quarter of the cost of tf.image.resize with antialiasing, and as close.
    averaged = tf.raw_ops.ResizeArea(images=image[None], size=[size, size])[0]
    return tf.ensure_shape(tf.cast(averaged + 0.5, tf.uint8), [size, size, channels])


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """Bilinear, half-pixel centres: uint8 [h, w, c] -> uint8 [size, size, c]; the same pixels if that is its size."""
    shape = tf.shape(image)
    return tf.cond(
        (shape[0] == size) & (shape[1] == size), lambda: image, lambda: tf.cast(_bilinear(image, size) + 0.5, tf.uint8)
    )


def _bilinear(image: tf.Tensor, size: int) -> tf.Tensor:
    # Of floats the kernel loads a pixel at once, of bytes each channel by itself: 0.10 ms at 224 against 0.15, with the
    # cast. A blend of bytes is never out of their range: adding a half and cutting off is all the rounding it needs.
    return tf.image.resize(tf.cast(image, tf.float32), [size, size])


def cropped(contents: tf.Tensor, window: tf.Tensor, is_jpeg: tf.Tensor | bool, channels: int) -> tf.Tensor:
    """The `window` (int32 y, x, height, width) of an encoded image, uint8 [height, width, channels].

    `is_jpeg` may be a Python bool where the whole data set is of one kind: then the graph holds one decoder.
    """
    if isinstance(is_jpeg, bool):
        return (_cropped_jpeg if is_jpeg else _cropped_other)(contents, window, channels)
    return tf.cond(
        is_jpeg,
        lambda: _cropped_jpeg(contents, window, channels),
        lambda: _cropped_other(contents, window, channels),
    )


def decode(contents: tf.Tensor, window: tf.Tensor, is_jpeg: tf.Tensor | bool, size: int, channels: int) -> tf.Tensor:
    """As `cropped`, scaled to uint8 [size, size, channels]."""
    return tf.ensure_shape(resize(cropped(contents, window, is_jpeg, channels), size), [size, size, channels])
