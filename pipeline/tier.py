"""How a prepared image is stored: as it is, re-encoded within bounds, or as pixels that need no decoder.

store = stored_as(parse_tier("jpeg:256:90"), bound="shorter")
contents, pixels = store(image, contents)      # inside tf.data, per image
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from pipeline.config import Tier
from pipeline.decode import decode_whole, to_uint8


def stored_as(tier: Tier, bound: str) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """A function (uint8 [h, w, 3], the bytes it was decoded from) -> (bytes to store, uint8 [h', w', 3] they hold)."""

    def store(image: tf.Tensor, contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if not tier.side:
            return contents, image
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
