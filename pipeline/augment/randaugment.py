"""RandAugment (Cubuk et al. 2020): each image gets a few randomly chosen operations, all of one magnitude.

images = randaugment(operations=2, magnitude=9)(images, draws)
"""

from __future__ import annotations

import math

import tensorflow as tf

from evenkeel.pipeline.augment.color import (
    adjust_colors,
    adjust_sharpness,
    clear_low_bits,
    equalize_histograms,
    image_means,
)
from evenkeel.pipeline.augment.geometry import resample, sampling_matrices
from evenkeel.pipeline.augment.stage import Stage, compose

MAX_MAGNITUDE = 10
# Strengths at magnitude 10, as in table 6 of AutoAugment (Cubuk et al. 2019); 150 of 331 pixels is a share of 0.45.
MAX_DEGREES, MAX_SHEAR, MAX_TRANSLATION, MAX_BLEND, MAX_BITS = 30.0, 0.3, 0.45, 0.9, 4
# The operations of a branch are computed together, and only for the images that drew one of these operations.
NOTHING, GEOMETRY, COLOR, SHARPNESS, POSTERIZE, EQUALIZE = range(BRANCHES := 6)
OPERATIONS = {
    "identity": NOTHING,
    "rotate": GEOMETRY,
    "shear_x": GEOMETRY,
    "shear_y": GEOMETRY,
    "translate_x": GEOMETRY,
    "translate_y": GEOMETRY,
    "brightness": COLOR,
    "contrast": COLOR,
    "saturation": COLOR,
    "sharpness": SHARPNESS,
    "posterize": POSTERIZE,
    "equalize": EQUALIZE,
}


def randaugment(operations: int, magnitude: float) -> Stage | None:
    """Applies `operations` random operations to each image, one after the other, at `magnitude` (0 to 10).

    Draws: 2 columns per operation. The first column chooses among `OPERATIONS`, each equally often. The second column
    chooses the sign, for operations that have a sign.
    """
    return compose([random_operation(magnitude / MAX_MAGNITUDE)] * operations)


def random_operation(strength: float) -> Stage:
    """Applies one of `OPERATIONS` to each image, at `strength` (0 to 1). Draws: 2 columns."""
    names = list(OPERATIONS)

    def apply(images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        operation = tf.cast(draws[:, 0] * len(names), tf.int32)
        branches = tf.gather(list(OPERATIONS.values()), operation)
        signed = tf.where(draws[:, 1] < 0.5, tf.constant(-strength, tf.float64), strength)
        images, operation, signed, positions = (
            tf.dynamic_partition(tensor, branches, BRANCHES)
            for tensor in (images, operation, signed, tf.range(tf.shape(branches)[0]))
        )

        def strengths(branch: int, name: str) -> tf.Tensor:
            """The signed strength of each image of `branch`, float64 [n]; 0 for images that did not draw `name`."""
            return tf.where(operation[branch] == names.index(name), signed[branch], 0)

        _, height, width, _ = images[GEOMETRY].shape
        images[GEOMETRY] = resample(
            images[GEOMETRY],
            sampling_matrices(
                height,
                width,
                shear_x=strengths(GEOMETRY, "shear_x") * MAX_SHEAR,
                shear_y=strengths(GEOMETRY, "shear_y") * MAX_SHEAR,
                angle=strengths(GEOMETRY, "rotate") * math.radians(MAX_DEGREES),
                x=strengths(GEOMETRY, "translate_x") * MAX_TRANSLATION * width,
                y=strengths(GEOMETRY, "translate_y") * MAX_TRANSLATION * height,
            ),
        )
        brightness, contrast, saturation = (
            strengths(COLOR, name) * MAX_BLEND for name in ("brightness", "contrast", "saturation")
        )
        images[COLOR] = adjust_colors(
            images[COLOR],
            scale=1 + brightness + contrast,
            offset=-contrast * image_means(images[COLOR]),
            saturation=1 + saturation,
            turn=tf.zeros_like(saturation),
        )
        images[SHARPNESS] = adjust_sharpness(images[SHARPNESS], tf.cast(1 + signed[SHARPNESS] * MAX_BLEND, tf.float32))
        images[POSTERIZE] = clear_low_bits(
            images[POSTERIZE], tf.fill(tf.shape(operation[POSTERIZE]), round(strength * MAX_BITS))
        )
        images[EQUALIZE] = equalize_histograms(images[EQUALIZE])
        return tf.ensure_shape(tf.dynamic_stitch(positions, images), [None, *images[NOTHING].shape[1:]])

    return Stage(2, apply)
