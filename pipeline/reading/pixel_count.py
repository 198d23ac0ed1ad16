"""The number of pixels of an encoded image by its header, inside an exported graph; what must not be decoded has none.

count = pixel_count(contents)      # string [] -> int64 []

The checks are those of `images/header.py`, which reads the same headers in Python. Offsets come from the PNG (ISO/IEC
15948), WebP (RFC 9649), GIF (GIF89a) and BMP (BITMAPINFOHEADER) specifications.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.images.header import MAX_DEFLATE_RATIO, MAX_JPEG_PIXELS, MAX_PNG_PIXELS, MAX_SCANS, MAX_SIDE

HEADER_BYTES = 54  # all formats but GIF store what is needed in these bytes
PALETTE_BYTES = 1024  # of a BMP with 8 bits per pixel
ZERO = np.int64(0)


def pixel_count(contents: tf.Tensor) -> tf.Tensor:
    """The number of pixels that a decoder would hold in memory, int64 []; 0 if the image must not reach a decoder.

    Raises:
      tf.errors.InvalidArgumentError: the image begins like a JPEG, but has no JPEG header.
    """
    is_type = lambda magic: tf.strings.substr(contents + b"\0" * 16, 0, len(magic)) == magic  # noqa: E731
    return tf.case(
        [
            (is_type(b"\xff\xd8\xff"), lambda: _jpeg_pixels(contents)),
            (is_type(b"\x89PNG\r\n\x1a\n"), lambda: _png_pixels(contents)),
            (is_type(b"RIFF"), lambda: _webp_pixels(contents)),
            (is_type(b"BM"), lambda: _bmp_pixels(contents)),
            (is_type(b"GIF8"), lambda: _gif_pixels(contents)),
        ],
        default=lambda: tf.constant(ZERO),
    )


class _Bytes:
    """The first bytes of a file as numbers; what lies behind its end is 0."""

    def __init__(self, contents: tf.Tensor, count: int) -> None:
        start = tf.strings.substr(contents + b"\0" * count, 0, count)
        self._values = tf.cast(tf.ensure_shape(tf.io.decode_raw(start, tf.uint8), [count]), tf.int64)

    def little(self, first: int, count: int) -> tf.Tensor:
        return tf.add_n([self._values[first + byte] * 256**byte for byte in range(count)])

    def big(self, first: int, count: int) -> tf.Tensor:
        return tf.add_n([self._values[first + byte] * 256 ** (count - 1 - byte) for byte in range(count)])

    def signed(self, first: int) -> tf.Tensor:
        value = self.little(first, 4)
        return tf.where(value >= 1 << 31, value - (1 << 32), value)


def _limit(width: tf.Tensor, height: tf.Tensor, ok: tf.Tensor, pixels: tf.Tensor | None = None) -> tf.Tensor:
    ok &= (tf.minimum(width, height) >= 1) & (tf.maximum(width, height) <= MAX_SIDE)
    return tf.where(ok, width * height if pixels is None else pixels, ZERO)


def _jpeg_pixels(contents: tf.Tensor) -> tf.Tensor:
    few_scans = tf.size(tf.strings.split(contents, b"\xff\xda", maxsplit=MAX_SCANS + 1)) <= MAX_SCANS + 1
    height, width = tf.unstack(tf.cast(tf.image.extract_jpeg_shape(contents)[:2], tf.int64))
    return _limit(width, height, few_scans & (width * height <= MAX_JPEG_PIXELS))


def _png_pixels(contents: tf.Tensor) -> tf.Tensor:
    header = _Bytes(contents, HEADER_BYTES)
    width, height, bits, color_type = header.big(16, 4), header.big(20, 4), header.big(24, 1), header.big(25, 1)
    samples = tf.gather(tf.constant([1, 1, 3, 1, 2, 1, 4], tf.int64), tf.minimum(color_type, 6))
    length = tf.strings.length(contents)
    possible = width * height * samples * bits <= tf.cast(length, tf.int64) * MAX_DEFLATE_RATIO * 8
    possible &= width * height <= MAX_PNG_PIXELS
    before_pixels = tf.strings.split(contents + b"IDAT", b"IDAT", maxsplit=1)[0]
    has_color_key = tf.size(tf.strings.split(before_pixels, b"tRNS", maxsplit=1)) > 1
    possible &= ~(((color_type == 0) | (color_type == 2)) & has_color_key)
    return _limit(width, height, possible & (tf.strings.substr(contents + b"\0" * 16, 12, 4) == b"IHDR"))


def _webp_pixels(contents: tf.Tensor) -> tf.Tensor:
    header, kind = _Bytes(contents, HEADER_BYTES), tf.strings.substr(contents + b"\0" * 16, 8, 8)
    side_range = 1 << 14  # a side has 14 bits
    lossless_bits = header.little(21, 4)
    cases = {
        b"WEBPVP8 ": (header.little(26, 2) % side_range, header.little(28, 2) % side_range),
        b"WEBPVP8L": (1 + lossless_bits % side_range, 1 + lossless_bits // side_range % side_range),
        b"WEBPVP8X": (1 + header.little(24, 3), 1 + header.little(27, 3)),
    }
    is_animated = (kind == b"WEBPVP8X") & (header.little(20, 1) // 2 % 2 == 1)
    return tf.add_n([_limit(*sides, (kind == name) & ~is_animated) for name, sides in cases.items()])


def _bmp_pixels(contents: tf.Tensor) -> tf.Tensor:
    """TensorFlow's decoder reads from the offset of the pixels on, whatever lies there."""
    header, length = _Bytes(contents, HEADER_BYTES), tf.cast(tf.strings.length(contents), tf.int64)
    data_offset, header_size = header.signed(10), header.little(14, 4)
    width, height, bits, compression = (
        header.signed(18),
        tf.abs(header.signed(22)),
        header.little(28, 2),
        header.little(30, 4),
    )
    row_bytes = (bits * width + 31) // 32 * 4
    end = data_offset + (height - 1) * row_bytes + bits * width // 8
    known = ((bits == 8) | (bits == 24) | (bits == 32)) & (header_size >= 40)
    plain = (compression == 0) | ((compression == 3) & (bits == 32))
    inside = (data_offset >= 14 + header_size) & (end <= length)
    gray = (bits != 8) | _has_gray_palette(contents, header_size, header.little(46, 4))
    return _limit(width, height, known & plain & inside & gray)


def _has_gray_palette(contents: tf.Tensor, header_size: tf.Tensor, colors: tf.Tensor) -> tf.Tensor:
    """Whether entry i of a BMP's palette is the gray level i; the decoder takes its indices for gray levels."""
    first = tf.cast(tf.minimum(14 + header_size, tf.cast(tf.strings.length(contents), tf.int64)), tf.int32)
    palette = tf.strings.substr(contents + b"\0" * PALETTE_BYTES, first, PALETTE_BYTES)
    entries = tf.reshape(tf.ensure_shape(tf.io.decode_raw(palette, tf.uint8), [PALETTE_BYTES]), [-1, 4])[:, :3]
    levels = tf.range(PALETTE_BYTES // 4)
    count = tf.where((colors == 0) | (colors > 256), tf.constant(256, tf.int64), colors)
    is_gray = tf.reduce_all(tf.cast(entries, tf.int32) == levels[:, None], axis=1)
    return tf.reduce_all(is_gray | (tf.cast(levels, tf.int64) >= count))


def _gif_pixels(contents: tf.Tensor) -> tf.Tensor:
    """The pixels of all frames, which the decoder holds in memory although only the first one is used."""
    header = _Bytes(contents, HEADER_BYTES)
    width, height, flags = header.little(6, 2), header.little(8, 2), header.little(10, 1)
    data = tf.concat([tf.cast(tf.io.decode_raw(contents, tf.uint8), tf.int64), tf.zeros([16], tf.int64)], axis=0)
    end = tf.size(data, tf.int64) - 16

    def at(position: tf.Tensor, count: int = 1) -> tf.Tensor:
        return tf.add_n([tf.gather(data, position + byte) * 256**byte for byte in range(count)])

    def table_bytes(flags: tf.Tensor) -> tf.Tensor:
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(tf.constant(2, tf.int64), flags % 8), ZERO)

    def skip_block(position: tf.Tensor, pixels: tf.Tensor, ok: tf.Tensor) -> tuple[tf.Tensor, ...]:
        is_frame = at(position) == 0x2C
        is_transparent = ~is_frame & (at(position + 1) == 0xF9) & (at(position + 3) % 2 == 1)
        ok &= ~(is_transparent & (pixels == 0))  # the first frame
        pixels += tf.where(is_frame, at(position + 5, 2) * at(position + 7, 2), ZERO)
        position += tf.where(is_frame, 11 + table_bytes(at(position + 9)), tf.constant(2, tf.int64))
        (position,) = tf.while_loop(
            lambda position: (position < end) & (at(tf.minimum(position, end)) > 0),
            lambda position: (position + 1 + at(position),),
            (position,),
        )
        return tf.minimum(position + 1, end), pixels, ok & (position < end)

    start = tf.minimum(13 + table_bytes(flags), end)
    _, pixels, ok = tf.while_loop(
        lambda position, *_: (position < end) & ((at(position) == 0x21) | (at(position) == 0x2C)),
        skip_block,
        (start, tf.constant(ZERO), tf.constant(True)),
    )
    return _limit(width, height, ok, tf.maximum(pixels, width * height))
