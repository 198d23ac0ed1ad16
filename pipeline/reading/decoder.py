"""A row of the index -> its image: what to decode of which kind of bytes, and how.

regions = regions_of(index, config, fetch)(rows, windows)    # inside tf.data, per batch
images, labels = decoder(index, config, fetch)(rows, payloads, regions, mirrored)
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.images import crop
from evenkeel.pipeline.images.decode import (
    decode_crop,
    decode,
    decode_downscaled,
    luma,
)
from evenkeel.pipeline.images.raw_resize import make_raw_resizer
from evenkeel.pipeline.index.index import (
    JPEG,
    OTHER,
    RAW,
    Index,
)
from evenkeel.pipeline.reading.byte_source import Fetch


def shown(rows: tf.Tensor) -> tf.Tensor:
    """The rows whose images these are: row -1 - r shows r and does not count."""
    return tf.where(rows < 0, -1 - rows, rows)


def _can_shrink(index: Index, size: int) -> bool:
    shorter = np.minimum(index.columns["height"], index.columns["width"])[index.columns["kind"] == JPEG]
    return bool(shorter.max(initial=0) >= 2 * size)


def regions_of(index: Index, config: DataConfig, fetch: Fetch) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """(rows int64 [b], windows int32 [b, 4]) -> what to decode of each, int32 [b, 5 or more], as in `crop.regions` and
    then as `fetch` plans to read it."""
    if not _can_shrink(index, config.image_size):
        return lambda rows, windows: fetch.planned(shown(rows), tf.pad(windows, [[0, 0], [0, 1]]))
    heights, widths = (tf.constant(index.columns[name]) for name in ("height", "width"))
    is_jpeg = tf.constant(index.columns["kind"] == JPEG)

    def regions(rows: tf.Tensor, windows: tf.Tensor) -> tf.Tensor:
        height, width, jpeg = (tf.gather(column, shown(rows)) for column in (heights, widths, is_jpeg))
        return fetch.planned(shown(rows), crop.decode_regions(windows, height, width, config.image_size, jpeg))

    return regions


def decoder(
    index: Index, config: DataConfig, fetch: Fetch, side_by_side: int
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor | None], tuple[tf.Tensor, tf.Tensor]]:
    """(rows int64 [b], payloads [b], regions [b, 5 or more], mirrored bool [b] or None) -> (images uint8 [b, s, s, c],
    labels int64 [b]); the label of a negative row is -1. At most so many encoded images are decoded `side_by_side`."""
    labels = tf.constant(index.columns["label"])
    pixels = fetch.at_once and (index.columns["kind"] == RAW).all()
    images_of = _stored(index, config, fetch) if pixels else _one_by_one(index, config, fetch, side_by_side)

    def decoded(
        rows: tf.Tensor, payloads: tf.Tensor, regions: tf.Tensor, mirrored: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        at = shown(rows)
        images = images_of(at, payloads, regions, mirrored)
        return images, tf.where(rows < 0, tf.constant(-1, tf.int64), tf.gather(labels, at))

    return decoded


def _stored(index: Index, config: DataConfig, fetch: Fetch) -> Callable[..., tf.Tensor]:
    """`decoder`'s images where all of them lie in memory as pixels."""
    scaled = _scaled(index, config, fetch)
    return lambda at, payloads, regions, mirrored: scaled(at, *fetch.stored(payloads), regions, mirrored)


def _one_by_one(index: Index, config: DataConfig, fetch: Fetch, side_by_side: int) -> Callable[..., tf.Tensor]:
    """`decoder`'s images in a loop inside of one call: to wake a thread for each of them took 6% of their CPU time."""
    size, channels = config.image_size, config.channels
    shrinks = _can_shrink(index, size)

    def jpeg(at: tf.Tensor, payload: tf.Tensor, region: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        contents = fetch.encoded(payload, region)
        as_it_is = lambda: decode(contents, window[:4], True, size, channels)  # noqa: E731
        if not shrinks:
            return as_it_is()
        return tf.cond(window[4] > 0, lambda: decode_downscaled(contents, window, size, channels), as_it_is)

    def other(at: tf.Tensor, payload: tf.Tensor, region: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        return decode(fetch.encoded(payload, region), window[:4], False, size, channels)

    scaled = _scaled(index, config, fetch)

    def raw(at: tf.Tensor, payload: tf.Tensor, region: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        memory, offset = fetch.stored(payload)
        return scaled(at[None], memory, offset[None], window[None])[0]

    image_of = _by_kind(index, {OTHER: other, JPEG: jpeg, RAW: raw})

    def image(elements: tuple[tf.Tensor, ...]) -> tf.Tensor:
        at, payload, region, window, *mirrored = elements
        image = image_of(at, payload, region, window)
        if not mirrored:
            return image
        # 0.03 ms less than to part a batch in two and to stitch it together again.
        return tf.cond(mirrored[0], lambda: tf.reverse(image, [1]), lambda: image)

    def images_of(at: tf.Tensor, payloads: tf.Tensor, regions: tf.Tensor, mirrored: tf.Tensor | None) -> tf.Tensor:
        # Of regions of unknown length `[:, :5]` would be of unknown length too.
        windows = tf.cast(tf.slice(regions, [0, 0], [-1, 5]), tf.int32)
        elements = (at, payloads, regions, windows, *([] if mirrored is None else [mirrored]))
        spec = tf.TensorSpec([size, size, channels], tf.uint8)
        return tf.map_fn(image, elements, parallel_iterations=side_by_side, fn_output_signature=spec)

    return images_of


def _scaled(index: Index, config: DataConfig, fetch: Fetch) -> Callable[..., tf.Tensor]:
    """(rows [b], memory, offsets [b], regions [b, 5], mirrored) -> uint8 [b, s, s, c]: regions of stored images."""
    columns, channels = index.columns, fetch.channels
    pixels = columns["height"].astype(np.int64) * columns["width"]
    largest = int(pixels[columns["kind"] == RAW].max(initial=1)) * channels
    read, widths = make_raw_resizer(largest, config.image_size, channels), tf.constant(columns["width"])

    def scaled(
        rows: tf.Tensor, memory: tf.Tensor, offsets: tf.Tensor, regions: tf.Tensor, mirrored: tf.Tensor | None = None
    ) -> tf.Tensor:
        if not fetch.at_once:  # one image of its own size, which compiled code wants to know beforehand
            memory = tf.ensure_shape(tf.pad(memory, [[0, largest - tf.size(memory)]]), [largest])
        return _converted(read(memory, offsets, tf.gather(widths, rows), regions[:, :4], mirrored), config.channels)

    return scaled


def whole(index: Index, config: DataConfig, fetch: Fetch) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """(row, payload) -> all of its image, uint8 [h, w, c]."""
    heights, widths, channels = (
        tf.constant(index.columns["height"]),
        tf.constant(index.columns["width"]),
        config.channels,
    )

    def encoded(is_jpeg: bool, at: tf.Tensor, payload: tf.Tensor, window: tf.Tensor) -> tf.Tensor:
        return decode_crop(fetch.encoded(payload), window, is_jpeg, channels)

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
