"""The orientation of a picture: the EXIF tag with which cameras say how to turn it, and the turning itself.

orientation = read_orientation(contents)       # 1 to 8; 1 if there is no tag
image = turn_upright(image, orientation)       # inside tf.data, per image
"""

from __future__ import annotations

import struct

import tensorflow as tf

UPRIGHT = 1
ORIENTATION_TAG = 0x0112
BLOCK_BYTES = 2048  # of the block of tags that an exported graph reads
MAX_ENTRIES = 64  # of the tag directory; cameras write about 12
FIRST_TURNED = 5  # orientations from here on exchange height and width


def read_orientation(contents: bytes) -> int:
    """The EXIF orientation of a JPEG, PNG or WebP file (EXIF 2.32, 4.6.4): 1 to 8, and 1 if there is none.

    Orientation 6, for example, means that the picture must be turned by 90 degrees clockwise.
    """
    try:
        if contents.startswith(b"\xff\xd8"):
            block = _find_jpeg_block(contents)
        elif contents.startswith(b"\x89PNG"):
            block = _find_png_block(contents)
        elif contents.startswith(b"RIFF") and contents[12:16] == b"VP8X" and contents[20] & 8:
            block = _find_webp_block(contents)
        else:
            return UPRIGHT
        return _read_tag(block.removeprefix(b"Exif\0\0"))
    except (struct.error, IndexError):  # a damaged block says nothing
        return UPRIGHT


def _find_jpeg_block(contents: bytes) -> bytes:
    position = 2
    while contents[position] == 0xFF:
        marker = contents[position + 1]
        if marker in (0xD9, 0xDA):  # the end, or a scan
            break
        (length,) = struct.unpack_from(">H", contents, position + 2)
        if marker == 0xE1 and contents[position + 4 : position + 10] == b"Exif\0\0":
            return contents[position + 4 : position + 2 + length]
        position += 2 + length
    return b""


def _find_png_block(contents: bytes) -> bytes:
    position = 8
    while position + 8 <= len(contents):
        length, kind = struct.unpack_from(">I4s", contents, position)
        if kind == b"eXIf":
            return contents[position + 8 : position + 8 + length]
        position += 12 + length
    return b""


def _find_webp_block(contents: bytes) -> bytes:
    position = 12
    while position + 8 <= len(contents):
        kind, length = struct.unpack_from("<4sI", contents, position)
        if kind == b"EXIF":
            return contents[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
    return b""


def _read_tag(block: bytes) -> int:
    """The orientation in a TIFF header with a tag directory (TIFF 6.0, section 2)."""
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return UPRIGHT
    (start,) = struct.unpack_from(f"{order}I", block, 4)
    (count,) = struct.unpack_from(f"{order}H", block, start)
    for entry in range(min(count, MAX_ENTRIES)):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", block, start + 2 + 12 * entry)
        if tag == ORIENTATION_TAG:
            return value if 1 <= value <= 8 else UPRIGHT
    return UPRIGHT


def find_orientation(contents: tf.Tensor) -> tf.Tensor:
    """The orientation of an encoded image, int32 [], for an exported graph; like `read_orientation`, for whole files.

    It searches for the block of tags instead of walking along the parts of the file.
    """
    is_jpeg = tf.strings.substr(contents, 0, 2) == b"\xff\xd8"
    is_png = tf.strings.substr(contents, 0, 4) == b"\x89PNG"
    marker = tf.where(is_jpeg, b"Exif\0\0", tf.where(is_png, b"eXIf", b"EXIF"))
    start = tf.strings.length(tf.strings.split(contents + marker, marker, maxsplit=1)[0]) + tf.strings.length(marker)
    start += tf.where(is_jpeg | is_png, 0, 4)  # WebP: the length of the chunk
    block = tf.strings.substr(
        contents + b"\0" * BLOCK_BYTES, tf.minimum(start, tf.strings.length(contents)), BLOCK_BYTES
    )
    data = tf.cast(tf.ensure_shape(tf.io.decode_raw(block, tf.uint8), [BLOCK_BYTES]), tf.int32)
    little = tf.strings.substr(block, 0, 4) == b"II*\0"
    known = little | (tf.strings.substr(block, 0, 4) == b"MM\0*")

    def number(position: tf.Tensor) -> tf.Tensor:
        low, high = (tf.gather(data, tf.clip_by_value(position + at, 0, BLOCK_BYTES - 1)) for at in (0, 1))
        return tf.where(little, low + 256 * high, 256 * low + high)

    # The directory begins within 64 KB, so two of the four bytes of its position are enough.
    directory = number(tf.where(little, 4, 6))
    entries = directory + 2 + 12 * tf.range(MAX_ENTRIES)
    found = (number(entries) == ORIENTATION_TAG) & (tf.range(MAX_ENTRIES) < number(directory))
    value = tf.reduce_max(tf.where(found, number(entries + 8), 0))
    return tf.where(known & (value >= 1) & (value <= 8), value, UPRIGHT)


def turn_upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns an image [h, w, c] as its `orientation` (int [], 1 to 8) says."""
    mirror, flip = (lambda x: tf.reverse(x, [1])), (lambda x: tf.reverse(x, [0]))
    transpose = lambda x: tf.transpose(x, [1, 0, 2])  # noqa: E731
    branches = [
        lambda: image,
        lambda: mirror(image),
        lambda: tf.reverse(image, [0, 1]),
        lambda: flip(image),
        lambda: transpose(image),
        lambda: mirror(transpose(image)),
        lambda: tf.reverse(transpose(image), [0, 1]),
        lambda: flip(transpose(image)),
    ]
    return tf.switch_case(tf.maximum(tf.cast(orientation, tf.int32), UPRIGHT) - UPRIGHT, branches)


def stored_windows(
    windows: tf.Tensor, orientations: tf.Tensor, stored_heights: tf.Tensor, stored_widths: tf.Tensor
) -> tf.Tensor:
    """Windows of upright pictures as windows of the pictures as they are stored, int32 [n, 4] (y, x, height, width).

    Args:
      windows: int32 [n, 4], in pixels of the upright pictures.
      orientations: int [n], 1 to 8.
      stored_heights, stored_widths: int32 [n], sizes of the stored pictures.
    """
    orientations = tf.cast(orientations, tf.int32)
    y, x, height, width = tf.unstack(windows, axis=1)
    turned = orientations >= FIRST_TURNED
    y, x = tf.where(turned, x, y), tf.where(turned, y, x)
    height, width = tf.where(turned, width, height), tf.where(turned, height, width)
    backwards_y, backwards_x = (
        tf.reduce_any(orientations[:, None] == those, axis=1) for those in ([3, 4, 6, 7], [2, 3, 7, 8])
    )
    y = tf.where(backwards_y, stored_heights - y - height, y)
    x = tf.where(backwards_x, stored_widths - x - width, x)
    return tf.stack([y, x, height, width], axis=1)
