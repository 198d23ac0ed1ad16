"""A row of the index -> its image: what to decode of which kind of bytes, and how.

decoded = decoder(index, config, fetch)
image, label = decoded(row, payload, window)    # inside tf.data, per image
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from pipeline import crop
from pipeline.config import DataConfig
from pipeline.decode import cropped, decode, decode_scaled, luma, resize
from pipeline.fetch import Fetch
from pipeline.index import JPEG, OTHER, RAW, Index


def shown(rows: tf.Tensor) -> tf.Tensor:
    """The rows whose images these are: row -1 - r shows r and does not count."""
    return tf.where(rows < 0, -1 - rows, rows)


def decoder(
    index: Index, config: DataConfig, fetch: Fetch
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """(row, payload, window) -> (image uint8 [s, s, c], label int64 []); the label of a negative row is -1."""
    size, channels = config.image_size, config.channels
    labels, heights, widths = (tf.constant(index.columns[name]) for name in ("label", "height", "width"))
    shorter = np.minimum(index.columns["height"], index.columns["width"])[index.columns["kind"] == JPEG]
    can_shrink = shorter.max(initial=0) >= 2 * size

    def jpeg(at: tf.Tensor, payload: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        contents = fetch.encoded(payload)
        as_it_is = lambda: decode(contents, window, True, size, channels)  # noqa: E731
        if not can_shrink:
            return as_it_is()
        exponent, region, placement = crop.scaled(window, heights[at], widths[at], size)
        shrunk = lambda: decode_scaled(contents, region, placement, exponent, size, channels)  # noqa: E731
        return tf.cond(exponent > 0, shrunk, as_it_is)

    def other(at: tf.Tensor, payload: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        return decode(fetch.encoded(payload), window, False, size, channels)

    def raw(at: tf.Tensor, payload: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        image = fetch.pixels(payload, window, heights[at], widths[at])
        return tf.ensure_shape(resize(_converted(image, channels), size), [size, size, channels])

    image_of = _by_kind(index, {OTHER: other, JPEG: jpeg, RAW: raw})

    def decoded(row: tf.Tensor, payload: tf.Tensor, window: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        at = shown(row)
        return image_of(at, payload, window), tf.where(row < 0, tf.constant(-1, tf.int64), labels[at])

    return decoded


def whole(index: Index, config: DataConfig, fetch: Fetch) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """(row, payload) -> all of its image, uint8 [h, w, c]."""
    heights, widths, channels = (
        tf.constant(index.columns["height"]),
        tf.constant(index.columns["width"]),
        config.channels,
    )

    def encoded(is_jpeg: bool, at: tf.Tensor, payload: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        return cropped(fetch.encoded(payload), window, is_jpeg, channels)

    def raw(at: tf.Tensor, payload: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        return _converted(fetch.pixels(payload, window, heights[at], widths[at]), channels)

    by_kind: dict[int, Callable[..., tf.Tensor]] = {
        OTHER: functools.partial(encoded, False),
        JPEG: functools.partial(encoded, True),
        RAW: raw,
    }
    image_of = _by_kind(index, by_kind)

    def decoded(row: tf.Tensor, payload: tf.Tensor) -> tf.Tensor:
        return image_of(row, payload, tf.stack([0, 0, heights[row], widths[row]]))

    return decoded


def _by_kind(index: Index, by_kind: dict[int, Callable[..., tf.Tensor]]) -> Callable[..., tf.Tensor]:
    """(row, ...) -> what the function for the row's kind makes of it. Where all are of one kind, a graph holds one."""
    kinds, found = tf.constant(index.columns["kind"], tf.int32), np.unique(index.columns["kind"]).tolist()
    if len(found) == 1:
        return by_kind[found[0]]
    return lambda row, *rest: tf.switch_case(
        kinds[row], {kind: functools.partial(by_kind[kind], row, *rest) for kind in found}
    )


def _converted(image: tf.Tensor, channels: int) -> tf.Tensor:
    """Stored pixels, as many channels as are wanted or three."""
    return luma(image) if image.shape[-1] == 3 and channels == 1 else image
