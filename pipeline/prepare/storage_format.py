"""Storage tiers of a prepared image: the file unchanged, re-encoded as a smaller JPEG, or pixels without encoding.

tier = parse_tier("jpeg:256:90")
image = decode_at_scale(contents, decode_scale(tier, "shorter", header))
contents, pixels = make_encoder(tier, "shorter")(image, size, contents, True)    # inside tf.data, per image
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from evenkeel.pipeline.config import Tier
from evenkeel.pipeline.images.decode import WHITE, Color, decode_whole, to_uint8
from evenkeel.pipeline.images.header import (
    BMP,
    JPEG,
    PNG,
    Header,
)
from evenkeel.pipeline.images.sample_bits import ALL_BITS

JPEG_SCALES = (1, 2, 4, 8)  # factors by which libjpeg can downscale before the inverse transform
# From this quality on, chroma keeps its resolution. At quality 95, halving it would change what the network sees at 224
# pixels by another 0.4 gray levels on average.
FULL_CHROMA_QUALITY = 95
AS_IN_TRAINING = 0  # the decode scale of images that are not downscaled while they are decoded


def stored_format(image_format: int) -> int:
    """The format of a file that is stored without re-encoding: its own, or PNG, which is lossless.

    WebP and GIF become PNG because plain TFDS readers cannot decode them: `tf.io.decode_image` returns an animation.
    """
    return image_format if image_format in (JPEG, PNG, BMP) else PNG


def decode_scale(tier: Tier, bound: str, header: Header) -> int:
    """The scale for `decode_at_scale`: `AS_IN_TRAINING`, or the factor of `JPEG_SCALES` that downscales a JPEG."""
    if not tier.side or header.format != JPEG:
        return AS_IN_TRAINING
    side = (min if bound == "shorter" else max)(header.width, header.height)
    return max((scale for scale in JPEG_SCALES if side >= scale * tier.side), default=1)


def decode_at_scale(
    contents: tf.Tensor, scale: tf.Tensor, background: Color = WHITE, sample_bits: tf.Tensor | int = ALL_BITS
) -> tf.Tensor:
    """Decodes an image as in training (scale 0) or downscaled by `scale`, to uint8 [height, width, 3].

    With a scale, chroma is interpolated: nothing is cropped out of a JPEG that will be re-encoded.
    """

    def decode_jpeg(ratio: int) -> Callable[[], tf.Tensor]:
        return lambda: tf.io.decode_jpeg(contents, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    branches = [lambda: decode_whole(contents, 3, background, sample_bits), *map(decode_jpeg, JPEG_SCALES)]
    branch = tf.argmax(tf.concat([[AS_IN_TRAINING], JPEG_SCALES], axis=0) == tf.cast(scale, tf.int32))
    return tf.ensure_shape(tf.switch_case(tf.cast(branch, tf.int32), branches), [None, None, 3])


def make_encoder(tier: Tier, bound: str) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """The function that turns an image into the bytes to store.

    Returns:
      (image uint8 [h, w, 3], size int32 [2]: its height and width before the decoder scaled it down, contents: the file
      it was decoded from, keep_file: whether the file may be stored unchanged) -> (bytes to store, uint8 [h', w', 3]
      that a reader decodes from them).
    """

    def encode(
        image: tf.Tensor, size: tf.Tensor, contents: tf.Tensor, keep_file: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if not tier.side:
            return tf.cond(keep_file, lambda: contents, lambda: tf.io.encode_png(image)), image
        image = shrink_to_side(image, size, tier.side, bound)
        if tier.kind == "raw":
            # A serialized tensor ends with its content, so this is the cheapest way from pixels to a string.
            size = tf.size(image)
            return tf.strings.substr(tf.io.serialize_tensor(image), -size, size), image
        encoded = tf.io.encode_jpeg(
            image,
            quality=tier.quality,
            optimize_size=True,
            chroma_downsampling=tier.quality < FULL_CHROMA_QUALITY,
        )
        return encoded, decode_whole(encoded, channels=3)

    return encode


def shrink_to_side(image: tf.Tensor, size: tf.Tensor, side: int, bound: str) -> tf.Tensor:
    """Downscales an image so that its shorter or longer side (`bound`) is `side`, uint8 [h', w', 3]; never enlarges.

    Both sides are scaled by the same factor, and the central square of the result shows what the central square of the
    image shows: a shift by half a pixel would change a photograph by 1.5 gray levels. The interpolation is bicubic and
    antialiased, because the result is scaled once more in training: bilinear interpolation would blur it twice.

    Args:
      image: uint8 [h, w, 3], which may have been downscaled already.
      size: int32 [2], (height, width) before that.
      side: the limit, in pixels.
      bound: shorter or longer.
    """
    current = tf.reduce_min(size) if bound == "shorter" else tf.reduce_max(size)

    def shrink() -> tf.Tensor:
        ratio = tf.cast(current, tf.float64) / side
        shrunk = tf.maximum(tf.cast(tf.floor(tf.cast(size, tf.float64) / ratio + 1e-6), tf.int32), 1)
        corner = (size - tf.reduce_min(size)) // 2  # of the central square, as in `crop.view_windows`
        shrunk_corner = (shrunk - tf.reduce_min(shrunk)) // 2
        start = tf.cast(corner, tf.float64) - tf.cast(shrunk_corner, tf.float64) * ratio
        # The first and the last pixel are taken from within the image.
        last = tf.cast(size, tf.float64) - (tf.cast(shrunk, tf.float64) - 0.5) * ratio
        start = tf.maximum(tf.minimum(start, last), -ratio / 2)
        # The decoder makes a whole pixel of a block that the border cuts off.
        downscaled = tf.cast(tf.round(tf.reduce_max(size / tf.shape(image)[:2])), tf.float64)
        factor = tf.fill([2], downscaled / ratio)
        scaled = tf.raw_ops.ScaleAndTranslate(
            images=tf.cast(image, tf.float32)[None],
            size=shrunk,
            scale=tf.cast(factor, tf.float32),
            translation=tf.cast(-start / ratio, tf.float32),
            kernel_type="keyscubic",
            antialias=True,
        )[0]
        return to_uint8(scaled)

    return tf.ensure_shape(tf.cond(current > side, shrink, lambda: image), [None, None, 3])
