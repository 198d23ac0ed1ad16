"""Small images, decoded once and held in memory: a batch is made of them by copying lines, nothing is done per image.

    frames = hold(batches, count=len(index), border=4, mirror=True)
    images = frames.batch(rows, mirrored, down, cells, right)

Each frame is reflected around its border and, where flips are wanted, stands there a second time mirrored; a crop is
then whole lines of it, cut at one place for a whole cell of the batch. 2 us per 32x32 image, where a graph that is run
for every image takes 86.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from evenkeel.pipeline.system.tensor_memory import allocate_bytes, share_as_tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Frames:
    """`lines`: uint8 [mirrored or not, frames, lines, bytes of a line], flattened to [-1, bytes of a line]."""

    lines: tf.Tensor
    count: int
    size: int
    channels: int
    border: int
    mirrored: bool

    def batch(
        self, rows: tf.Tensor, mirrored: tf.Tensor, down: tf.Tensor, starts: tf.Tensor, right: tf.Tensor
    ) -> tf.Tensor:
        """uint8 [b, size, size, channels]: frames `rows` (int64 [b]), `mirrored` (bool [b]) where that says so.

        Line `down` (int64 [b], 0 to 2 border) of the bordered frame becomes the first one. Columns are cut alike within
        a cell of the batch: cell c holds its images `starts[c]` to `starts[c + 1]` and begins at column `right[c]`
        (int32 [cells + 1] and [cells], 0 to 2 border).
        """
        wide, line = self.size + 2 * self.border, self.size * self.channels
        rows += tf.where(mirrored, tf.constant(self.count, tf.int64), 0)
        if not self.border:
            lines = tf.reshape(self.lines, [-1, self.size * line])
            return tf.reshape(tf.gather(lines, rows), [-1, self.size, self.size, self.channels])
        first = rows * wide + down
        lines = tf.gather(self.lines, first[:, None] + tf.range(self.size, dtype=tf.int64))
        nothing = tf.zeros_like(right)
        begin = tf.stack([starts[:-1], nothing, right * self.channels], axis=1)
        extent = tf.stack([starts[1:] - starts[:-1], nothing + self.size, nothing + line], axis=1)
        cells = [tf.slice(lines, *cell) for cell in zip(tf.unstack(begin), tf.unstack(extent), strict=True)]
        return tf.reshape(tf.concat(cells, axis=0), [-1, self.size, self.size, self.channels])


def size_in_bytes(count: int, size: int, channels: int, border: int, mirror: bool) -> int:
    """What `hold` takes."""
    return (1 + mirror) * count * (size + 2 * border) ** 2 * channels


def hold(batches: Iterable[np.ndarray], count: int, border: int, mirror: bool) -> Frames:
    """Frames out of `batches` of uint8 [b, size, size, channels], `count` images in all."""
    held: np.ndarray | None = None
    done = 0
    for images in batches:
        _, size, _, channels = images.shape
        if held is None:
            wide = size + 2 * border
            held = allocate_bytes(size_in_bytes(count, size, channels, border, mirror))
            held = held.reshape(1 + mirror, count, wide, wide, channels)
        bordered = np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)), "reflect")
        held[0, done : done + len(images)] = bordered
        if mirror:
            held[1, done : done + len(images)] = bordered[:, :, ::-1]
        done += len(images)
    if held is None or done != count:
        raise ValueError(f"{done} images came, {count} were announced.")
    lines = share_as_tensor(held.reshape(-1, held.shape[3] * held.shape[4]))
    return Frames(lines, count, held.shape[3] - 2 * border, held.shape[4], border, mirror)
