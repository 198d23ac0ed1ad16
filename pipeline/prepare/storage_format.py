"""How a prepared image is stored: as it is, re-encoded within bounds, or as pixels that need no decoder.

tier = parse_tier("jpeg:256:90")
image = decode_for(contents, scale_for(tier, "shorter", header))
contents, pixels = stored_as(tier, "shorter")(image, contents, True)      # inside tf.data, per image
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from evenkeel.pipeline.config import Tier
from evenkeel.pipeline.images.decode import decode_whole, to_uint8
from evenkeel.pipeline.images.header import (
    BMP,
    JPEG,
    PNG,
    Header,
)

SCALES = (1, 2, 4, 8)  # what libjpeg scales down by before the inverse transform


def kept_as(image_format: int) -> int:
    """The format in which a file is stored that is not to be encoded anew: its own, or PNG, which loses nothing.

    Readers that know only TFDS fail to decode WebP and GIF: `tf.io.decode_image` makes an animation of each.
    """
    return image_format if image_format in (JPEG, PNG, BMP) else PNG


def scale_for(tier: Tier, bound: str, header: Header) -> int:
    """How a source is best decoded, for `decode_for`: 0 as training does, else 1, 2, 4 or 8 times smaller."""
    if not tier.side or header.format != JPEG:
        return 0
    found = (min if bound == "shorter" else max)(header.width, header.height)
    return max((scale for scale in SCALES if found >= scale * tier.side), default=1)


def decode_for(contents: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """uint8 [height, width, 3]; of a JPEG that will be encoded anew chroma is blended, as nothing is cut out of it."""

    def jpeg(ratio: int) -> Callable[[], tf.Tensor]:
        return lambda: tf.io.decode_jpeg(contents, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    branches = [lambda: decode_whole(contents, channels=3), *map(jpeg, SCALES)]
    which = tf.argmax(tf.concat([[0], SCALES], axis=0) == tf.cast(scale, tf.int32))
    return tf.ensure_shape(tf.switch_case(tf.cast(which, tf.int32), branches), [None, None, 3])


def stored_as(tier: Tier, bound: str) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """A function (uint8 [h, w, 3], the bytes it was decoded from, whether these may be stored) -> (bytes to store,
    uint8 [h', w', 3] that they hold)."""

    def store(image: tf.Tensor, contents: tf.Tensor, whole: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if not tier.side:
            return tf.cond(whole, lambda: contents, lambda: tf.io.encode_png(image)), image
        image = bounded(image, tier.side, bound)
        if tier.kind == "raw":
            # A serialized tensor ends with its content: the cheapest way from pixels to a string.
            size = tf.size(image)
            return tf.strings.substr(tf.io.serialize_tensor(image), -size, size), image
        encoded = tf.io.encode_jpeg(image, quality=tier.quality, optimize_size=True)
        return encoded, decode_whole(encoded, channels=3)

    return store


def bounded(image: tf.Tensor, side: int, bound: str) -> tf.Tensor:
    """uint8 [h, w, c] scaled down so that its shorter or longer side is `side`; the same pixels if it is no longer."""
    size = tf.shape(image)[:2]
    found = tf.reduce_min(size) if bound == "shorter" else tf.reduce_max(size)

    def scaled() -> tf.Tensor:
        exact = tf.cast(size, tf.float64) * (side / tf.cast(found, tf.float64))
        # Antialiased: what is made smaller is averaged, not sampled.
        return to_uint8(tf.image.resize(image, tf.cast(tf.maximum(tf.round(exact), 1), tf.int32), antialias=True))

    return tf.ensure_shape(tf.cond(found > side, scaled, lambda: image), [None, None, 3])
