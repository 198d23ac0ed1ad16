"""RandAugment (Cubuk et al. 2020): every image gets some operations drawn for it, all of one magnitude.

images = randaugment(operations=2, magnitude=9)(images, draws)
"""

from __future__ import annotations

import math

import tensorflow as tf

from evenkeel.pipeline.augment.color import (
    affine,
    equalized,
    means,
    posterized,
    sharpened,
)
from evenkeel.pipeline.augment.geometry import resample, sampling_matrices
from evenkeel.pipeline.augment.stage import Stage, chain

# The strengths of magnitude 10, as in AutoAugment's table 6 (Cubuk et al. 2019); 150 of 331 pixels is a share of 0.45.
DEGREES, SHEAR, TRANSLATION, BLEND, BITS = 30.0, 0.3, 0.45, 0.9, 4
LARGEST = 10
# Branches: what is computed together, for those images only that drew one of its operations.
NOTHING, GEOMETRY, COLOUR, SHARPNESS, POSTERIZE, EQUALIZE = range(BRANCHES := 6)
OPERATIONS = {
    "identity": NOTHING,
    "rotate": GEOMETRY,
    "shear_x": GEOMETRY,
    "shear_y": GEOMETRY,
    "translate_x": GEOMETRY,
    "translate_y": GEOMETRY,
    "brightness": COLOUR,
    "contrast": COLOUR,
    "saturation": COLOUR,
    "sharpness": SHARPNESS,
    "posterize": POSTERIZE,
    "equalize": EQUALIZE,
}


def randaugment(operations: int, magnitude: float) -> Stage | None:
    """`operations` drawn for each image, applied one after the other at `magnitude` (0 to 10). Draws: 2 columns each.

    Which operation, each of `OPERATIONS` equally often, and its sign, as far as it has one.
    """
    return chain([one_operation(magnitude / LARGEST)] * operations)


def one_operation(strength: float) -> Stage:
    """One of `OPERATIONS` at `strength` (0 to 1) for each image. Draws: 2 columns."""
    names = list(OPERATIONS)

    def change(images: tf.Tensor, draws: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        drawn = tf.cast(draws[:, 0] * len(names), tf.int32)
        branch = tf.gather(list(OPERATIONS.values()), drawn)
        signed = tf.where(draws[:, 1] < 0.5, tf.constant(-strength, tf.float64), strength)
        images, drawn, signed, places = (
            tf.dynamic_partition(of, branch, BRANCHES) for of in (images, drawn, signed, tf.range(tf.shape(branch)[0]))
        )

        def of(branch: int, name: str) -> tf.Tensor:
            """float64 [n]: the signed strength of those images of `branch` that drew `name`, 0 for the others."""
            return tf.where(drawn[branch] == names.index(name), signed[branch], 0)

        _, height, width, _ = images[GEOMETRY].shape
        images[GEOMETRY] = resample(
            images[GEOMETRY],
            sampling_matrices(
                height,
                width,
                shear_x=of(GEOMETRY, "shear_x") * SHEAR,
                shear_y=of(GEOMETRY, "shear_y") * SHEAR,
                angle=of(GEOMETRY, "rotate") * math.radians(DEGREES),
                x=of(GEOMETRY, "translate_x") * TRANSLATION * width,
                y=of(GEOMETRY, "translate_y") * TRANSLATION * height,
            ),
        )
        brightness, contrast, saturation = (
            of(COLOUR, name) * BLEND for name in ("brightness", "contrast", "saturation")
        )
        images[COLOUR] = affine(
            images[COLOUR],
            scale=1 + brightness + contrast,
            offset=-contrast * means(images[COLOUR]),
            saturation=1 + saturation,
            turn=tf.zeros_like(saturation),
        )
        images[SHARPNESS] = sharpened(images[SHARPNESS], tf.cast(1 + signed[SHARPNESS] * BLEND, tf.float32))
        images[POSTERIZE] = posterized(images[POSTERIZE], tf.fill(tf.shape(drawn[POSTERIZE]), round(strength * BITS)))
        images[EQUALIZE] = equalized(images[EQUALIZE])
        return tf.ensure_shape(tf.dynamic_stitch(places, images), [None, *images[NOTHING].shape[1:]])

    return Stage(2, change)
