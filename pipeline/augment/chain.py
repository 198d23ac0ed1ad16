"""THE chain of augmentations, in order: stateless, on whole batches of uint8 images. Read this first.

    augment = augmentation(AugmentConfig(rotation=15, flip=0.5, cutout=0.25))
    images = augment(images, draws, key)    # draws: float32 [batch, augment.columns] in [0, 1)

Each function called here does its argument work once and returns a `Stage`, or None where its strength is 0.
(Random resized crops choose what is decoded: see `crop.py`.)
"""

from __future__ import annotations

from evenkeel.pipeline.augment.color import (
    colour,
    equalize,
    posterize,
    sharpness,
)
from evenkeel.pipeline.augment.geometry import flip, geometry
from evenkeel.pipeline.augment.noise import cutout, noise
from evenkeel.pipeline.augment.randaugment import randaugment
from evenkeel.pipeline.augment.stage import Stage, chain
from evenkeel.pipeline.config import AugmentConfig


def augmentation(config: AugmentConfig, moved: bool = False) -> Stage | None:
    """(images uint8 [b, h, w, c], draws [b, columns], key int32 [2]) -> the same, augmented; None when all is off.

    With `moved`, flips and crops have been done, by the same draws: see `copied` and `only_flips`.
    """
    # A flip alone copies pixels, which is cheaper than to resample them.
    first = geometry(config.flip, config.pad_crop, config.rotation, config.translation, config.shear, config.zoom)
    first = first or flip(config.flip)
    if first and moved:
        first = Stage(first.columns, lambda images, draws, key: images)
    return chain(
        [
            first,
            randaugment(config.randaugment_ops, config.randaugment_magnitude),
            colour(config.brightness, config.contrast, config.saturation, config.hue),
            equalize(config.equalize),
            posterize(config.posterize),
            sharpness(config.sharpness),
            noise(config.noise),
            cutout(config.cutout),
        ]
    )


def copied(config: AugmentConfig) -> bool:
    """Whether all that moves pixels is flips and shifts by whole pixels: where frames are held, copying does it."""
    return config.rotation == config.translation == config.shear == config.zoom == 0


def only_flips(config: AugmentConfig) -> bool:
    """Whether flips are all that moves pixels: then an image is mirrored as soon as it is decoded."""
    return config.flip > 0 and config.pad_crop == 0 and copied(config)
