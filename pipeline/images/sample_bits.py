"""How many bits the samples of 16-bit files hold: microscopes and scanners store 12 bits, which would look black.

bits = find_sample_bits(contents)                # per file, when it is indexed; 0 for files of 8 bits
pixels = decode_deep_png(contents, sample_bits)  # inside tf.data: the upper 8 of so many bits
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

ALL_BITS = 16
SHOWN_BITS = 8


def find_sample_bits(contents: bytes) -> int:
    """The bits of the largest sample of a 16-bit PNG, 8 to 16; 0 for any other file."""
    if not (contents.startswith(b"\x89PNG") and contents[24:25] == b"\x10"):
        return 0
    try:
        with tf.device("CPU"):
            largest = int(tf.reduce_max(tf.io.decode_png(contents, dtype=tf.uint16)))
    except tf.errors.OpError:  # it is not indexed either
        return ALL_BITS
    return max(SHOWN_BITS, largest.bit_length())


def is_deep_png(contents: tf.Tensor) -> tf.Tensor:
    """Whether a file is a PNG of 16 bits per sample, bool []; inside a graph."""
    start = tf.strings.substr(contents + b"\0" * 25, 0, 25)
    return (tf.strings.substr(start, 0, 4) == b"\x89PNG") & (tf.strings.substr(start, 24, 1) == b"\x10")


def decode_deep_png(contents: tf.Tensor, sample_bits: tf.Tensor | int) -> tf.Tensor:
    """The upper 8 of the lowest `sample_bits` bits of each sample, uint8 [h, w, c]; larger samples become 255."""
    samples = tf.cast(tf.io.decode_png(contents, channels=0, dtype=tf.uint16), tf.int32)
    return tf.cast(tf.minimum(tf.bitwise.right_shift(samples, sample_bits - SHOWN_BITS), 255), tf.uint8)


def scale_sums(columns: dict[str, np.ndarray], sample_bits: int) -> dict[str, np.ndarray]:
    """Index columns with the sums of 16-bit files as if their samples held `sample_bits` bits.

    A file is indexed as if its samples held the bits that its largest one needs, so sums only become smaller.
    """
    own = columns["sample_bits"].astype(np.int64)
    shift = np.where(own > 0, np.maximum(sample_bits - own, 0), 0)
    if not shift.any():
        return columns
    powers = {"sums": 1, "squares": 2}
    scaled = {name: columns[name] >> (power * shift)[:, None] for name, power in powers.items()}
    laplacian = columns["laplacian"] >> np.stack([shift, 2 * shift], axis=1)  # a sum, and a sum of squares
    return {**columns, **scaled, "laplacian": laplacian}
