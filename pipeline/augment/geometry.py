"""Where each pixel comes from: flips, crops, and one affine resampling for rotation, translation, shear and zoom.

turned = geometry(rotation=15, flip=0.5)(images, draws)
images = resample(images, sampling_matrices(224, 224, angle=angles))
"""

from __future__ import annotations

import math

import tensorflow as tf

from evenkeel.pipeline.augment.stage import Stage, in_chunks, where_drawn

FRACTION = 16  # bits after the point of a coordinate: good for sides up to 4,096 pixels
WEIGHT = 8  # bits of an interpolation weight
MIRROR, CROP_Y, CROP_X = range(3)  # columns of draws


def flip(probability: float) -> Stage | None:
    """Left-right, with `probability`. Draws: 1 column."""
    if probability == 0:
        return None
    return Stage(1, lambda images, draws, key: where_drawn(images, draws[:, 0] < probability, mirrored))


def mirrored(images: tf.Tensor) -> tf.Tensor:
    """Left-right. tf.reverse of [rows, w, c] copies pixels: 0.05 ms at 224, where images[:, :, ::-1] takes 1.8."""
    _, _, width, channels = images.shape
    return tf.reshape(tf.reverse(tf.reshape(images, [-1, width, channels]), [1]), tf.shape(images))


def geometry(
    flip: float = 0.0,
    pad_crop: int = 0,
    rotation: float = 0.0,
    translation: float = 0.0,
    shear: float = 0.0,
    zoom: float = 0.0,
) -> Stage | None:
    """Flip, zoom, shear, rotation and shifts in one resampling. Draws: 9 columns. None when only `flip` is on.

    The angle is uniform in +-`rotation` degrees, the translation in +-`translation` of either side, both shears in
    +-`shear`, the logarithm of the scale in +-log(1 + `zoom`). `pad_crop` shifts by whole pixels, at most so many, all
    offsets equally often: what one gets by reflecting that many pixels around an image and cropping it at random.
    """
    if pad_crop == rotation == translation == shear == zoom == 0:
        return None

    def change(images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        _, height, width, _ = images.shape
        mirror, crop_y, crop_x, *others = tf.unstack(tf.cast(draws, tf.float64), axis=1)
        angle, shear_x, shear_y, size, x, y = (2 * u - 1 for u in others)
        matrices = sampling_matrices(
            height,
            width,
            flipped=mirror < flip,
            scale=tf.exp(size * math.log1p(zoom)),
            shear_x=shear_x * shear,
            shear_y=shear_y * shear,
            angle=angle * math.radians(rotation),
            x=x * translation * width + pad_crop - tf.floor(crop_x * (2 * pad_crop + 1)),
            y=y * translation * height + pad_crop - tf.floor(crop_y * (2 * pad_crop + 1)),
        )
        return resample(images, matrices)

    return Stage(9, change)


def sampling_matrices(
    height: int,
    width: int,
    flipped: tf.Tensor | bool = False,
    scale: tf.Tensor | float = 1.0,
    shear_x: tf.Tensor | float = 0.0,
    shear_y: tf.Tensor | float = 0.0,
    angle: tf.Tensor | float = 0.0,
    x: tf.Tensor | float = 0.0,
    y: tf.Tensor | float = 0.0,
) -> tf.Tensor:
    """float64 [b, 2, 3]: (x, y, 1) of an output pixel -> (x, y) of where it is read; (0, 0) is the centre of the first.

    Around the centre, the content is flipped left-right, scaled, sheared along y, then along x (in sides per side),
    turned by `angle` (radians, counterclockwise) and moved by (x, y) pixels; the matrix is the inverse of all that.
    Arguments are [b] (float64, bool) or scalars. In float64, so that a vectorized sine cannot move a pixel.
    """
    values = (scale, shear_x, shear_y, angle, x, y)
    scale, kx, ky, angle, x, y = (tf.convert_to_tensor(value, tf.float64) for value in values)
    cos, sin = tf.cos(angle), tf.sin(angle)
    side = tf.where(flipped, tf.constant(-1, tf.float64), 1) / scale
    # flip / scale . [1 0; -ky 1] . [1 -kx; 0 1] . [cos -sin; sin cos]
    a, b = cos - kx * sin, -sin - kx * cos
    xx, xy = side * a, side * b
    yx, yy = (sin - ky * a) / scale, (cos - ky * b) / scale
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    rows = [
        [xx, xy, middle_x - xx * (middle_x + x) - xy * (middle_y + y)],
        [yx, yy, middle_y - yx * (middle_x + x) - yy * (middle_y + y)],
    ]
    flat = [tf.reshape(value, [-1]) for row in rows for value in row]
    count = tf.reduce_max([tf.size(value) for value in flat])
    return tf.reshape(tf.stack([tf.broadcast_to(value, [count]) for value in flat], axis=1), [-1, 2, 3])


def resample(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """uint8 images [b, h, w, c] read at `matrices` (float64 [b, 2, 3], see `sampling_matrices`), bilinearly.

    Beyond its border an image is reflected, without the border itself. In integers: coordinates have 16 bits after the
    point and weights 8, so that a pixel does not depend on how a kernel was compiled. XLA makes one loop of it, which
    costs 0.34 ms per 224x224 image where ImageProjectiveTransformV3 takes 1.9 (it finds each place three times).
    """
    # Half a weight more, as weights are cut off, not rounded.
    half_weight = tf.constant([0, 0, 1 << (FRACTION - WEIGHT - 1)])
    return in_chunks(_read, images, tf.cast(tf.round(matrices * 2.0**FRACTION), tf.int32) + half_weight)


@tf.function(jit_compile=True, autograph=False)
def _read(images: tf.Tensor, fixed: tf.Tensor) -> tf.Tensor:
    """uint8 [n, h, w, c] read where `fixed` (int32 [n, 2, 3], `FRACTION` bits after the point) says."""
    count, height, width, channels = images.shape
    down, right = tf.range(height)[None, :, None], tf.range(width)[None, None, :]
    x, y = (
        fixed[:, row, 0, None, None] * right + (fixed[:, row, 1, None, None] * down + fixed[:, row, 2, None, None])
        for row in (0, 1)
    )
    (left, right, x_weight), (above, below, y_weight) = _between(x, width), _between(y, height)
    first = (tf.range(count) * height)[:, None, None]
    pixels = tf.reshape(images, [-1, channels])

    def row(at: tf.Tensor) -> tf.Tensor:
        rows = (first + at) * width
        near, far = (tf.cast(tf.gather(pixels, rows + column), tf.int32) for column in (left, right))
        return near * ((1 << WEIGHT) - x_weight) + far * x_weight

    blend = row(above) * ((1 << WEIGHT) - y_weight) + row(below) * y_weight
    return tf.cast(tf.bitwise.right_shift(blend + (1 << (2 * WEIGHT - 1)), 2 * WEIGHT), tf.uint8)


def _between(at: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The pixels on either side of fixed-point coordinates, reflected into the image, and the weight of the second."""
    whole = tf.bitwise.right_shift(at, FRACTION)
    weight = tf.bitwise.right_shift(at, FRACTION - WEIGHT) & ((1 << WEIGHT) - 1)
    return _reflected(whole, size), _reflected(whole + 1, size), weight[..., None]


def _reflected(at: tf.Tensor, size: int) -> tf.Tensor:
    # Twice reaches four sides away, which is more than the strengths can ask for; a modulo costs twice the whole loop.
    for _ in range(2):
        at = tf.abs(at)
        at = tf.where(at >= size, 2 * (size - 1) - at, at)
    return tf.clip_by_value(at, 0, size - 1)
