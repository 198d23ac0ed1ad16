"""The chain of augmentations, in order: stateless, on whole batches of uint8 images. Start reading here.

    augment = build_augmentation(AugmentConfig(rotation=15, flip=0.5, cutout=0.25))
    images = augment(images, draws, key)    # draws: float32 [batch, augment.draw_columns] in [0, 1)

Each function called here processes its arguments once and returns a `Stage`, or None if its strength is 0. Random
resized crops are not part of the chain: they choose which part of an image is decoded (`images/crop.py`).
"""

from __future__ import annotations

from evenkeel.pipeline.augment.color import (
    color_jitter,
    equalize,
    posterize,
    sharpness,
)
from evenkeel.pipeline.augment.geometry import flip, geometry
from evenkeel.pipeline.augment.noise import cutout, noise
from evenkeel.pipeline.augment.randaugment import randaugment
from evenkeel.pipeline.augment.stage import Stage, compose
from evenkeel.pipeline.config import AugmentConfig


def build_augmentation(config: AugmentConfig, geometry_done: bool = False) -> Stage | None:
    """The stage that applies all augmentations of `config`; None if all of them are off.

    With `geometry_done`, the images have been flipped and cropped already, by the same draws (see `moves_whole_pixels`
    and `only_flips`): the geometry stage keeps its draw columns and changes nothing.
    """
    # A flip alone copies pixels, which is cheaper than resampling them.
    first = geometry(config.flip, config.pad_crop, config.rotation, config.translation, config.shear, config.zoom)
    first = first or flip(config.flip)
    if first and geometry_done:
        first = Stage(first.draw_columns, lambda images, draws, key: images)
    return compose(
        [
            first,
            randaugment(config.randaugment_ops, config.randaugment_magnitude),
            color_jitter(config.brightness, config.contrast, config.saturation, config.hue),
            equalize(config.equalize),
            posterize(config.posterize),
            sharpness(config.sharpness),
            noise(config.noise),
            cutout(config.cutout),
        ]
    )


def moves_whole_pixels(config: AugmentConfig) -> bool:
    """Whether `config` uses no geometric augmentations except flips and shifts by whole pixels.

    Such augmentations need no interpolation. Images cached in memory at their final size are flipped and cropped while
    they are copied into the batch.
    """
    return config.rotation == config.translation == config.shear == config.zoom == 0


def only_flips(config: AugmentConfig) -> bool:
    """Whether flips are the only geometric augmentation; each image is then mirrored as soon as it is decoded."""
    return config.flip > 0 and config.pad_crop == 0 and moves_whole_pixels(config)
