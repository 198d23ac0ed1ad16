"""evenkeel augmentations: draws what augmentations do to the images."""

from __future__ import annotations

import dataclasses
import os
import typing

from absl import flags

from evenkeel.models.config import TrainConfig, config_json
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.errors import UsageError, require
from evenkeel.tools import cli
from evenkeel.tools.flags import config_from_flags, define_flags, require_flag
from evenkeel.tools.tensorflow_import import import_tensorflow

if typing.TYPE_CHECKING:
    import numpy as np

FLAGS = flags.FLAGS
USAGE = """
Draws a PNG with a row of images for each augmentation at a visible strength. The first row shows the unchanged images,
the last row the effect of the given options.

  evenkeel augmentations --data.source=/data/pets --output=grid.png
  evenkeel augmentations --config=runs/pets/config.json --output=grid.png
"""
ROWS = {
    "unchanged": AugmentConfig(),
    "flip": AugmentConfig(flip=1.0),
    "pad_crop": AugmentConfig(pad_crop=8),
    "random_resized_crop": AugmentConfig(random_resized_crop=0.92),
    "rotation": AugmentConfig(rotation=30),
    "translation": AugmentConfig(translation=0.25),
    "shear": AugmentConfig(shear=0.3),
    "zoom": AugmentConfig(zoom=0.5),
    "brightness": AugmentConfig(brightness=0.4),
    "contrast": AugmentConfig(contrast=0.8),
    "saturation": AugmentConfig(saturation=1.0),
    "hue": AugmentConfig(hue=0.5),
    "sharpness": AugmentConfig(sharpness=1.0),
    "equalize": AugmentConfig(equalize=1.0),
    "posterize": AugmentConfig(posterize=6),
    "noise": AugmentConfig(noise=25),
    "cutout": AugmentConfig(cutout=0.4),
    "randaugment": AugmentConfig(randaugment_ops=2),
}
MAX_IMAGES = 64  # images in a row
MIN_TILE_SIDE = 96  # pixels; smaller images are enlarged by a whole factor
GAP, LABEL_WIDTH = 4, 170  # pixels

define_flags(TrainConfig)
flags.DEFINE_string("output", "", "PNG file to write")
flags.DEFINE_integer("images", 8, "number of images in a row")


def main(argv: list[str]) -> int:
    config = config_from_flags(TrainConfig)
    if FLAGS.print_config:
        print(config_json(config))
        return 0
    require_flag("output", "the PNG file to write")
    require(FLAGS.output.lower().endswith(".png"), f"--output ({FLAGS.output}) must end in .png.")
    require(1 <= FLAGS.images <= MAX_IMAGES, f"--images ({FLAGS.images}) must be from 1 to {MAX_IMAGES}.")
    folder = os.path.dirname(FLAGS.output) or "."
    require(
        os.path.isdir(folder),
        f"--output ({FLAGS.output}) lies in a directory that does not exist: create {folder} first.",
    )
    import_tensorflow()
    picture = draw_grid(augmented_rows(config.data, config.seed, FLAGS.images))
    from PIL import Image

    try:
        Image.fromarray(picture).save(FLAGS.output)
    except OSError as error:
        raise UsageError(
            f"--output ({FLAGS.output}) cannot be written: {error.strerror}; choose another path."
        ) from error
    print(FLAGS.output)
    return 0


def augmented_rows(config: DataConfig, seed: int, count: int) -> dict[str, np.ndarray]:
    """Returns {row name: images uint8 [count, h, w, c]}: the first training images, the same images in every row."""
    from evenkeel.pipeline.build import training_batches
    from evenkeel.pipeline.dataset import load_dataset
    from evenkeel.pipeline.index.replica_shard import ReplicaShard

    data = load_dataset(config)
    rows = {}
    for name, augment in {**ROWS, "as configured": config.augment}.items():
        if config.channels == 1 and (name == "saturation" or name == "hue"):
            continue
        augment = dataclasses.replace(augment, pad_crop=min(augment.pad_crop, min(config.image_shape) - 1))
        changed = dataclasses.replace(config, batch_size=count, augment=augment, cache="none")
        rows[name] = next(iter(training_batches(data, changed, seed, ReplicaShard(count))))[0].numpy()
    return rows


def draw_grid(rows: dict[str, np.ndarray]) -> np.ndarray:
    """The picture, uint8 [height, width, 3]: the rows of images with their names on the left, on white."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    count, height, width, _ = next(iter(rows.values())).shape
    factor = -(-MIN_TILE_SIDE // min(height, width))
    pitch, line_pitch = width * factor + GAP, height * factor + GAP
    picture = Image.new("RGB", (LABEL_WIDTH + count * pitch, len(rows) * line_pitch + GAP), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for line, (name, images) in enumerate(rows.items()):
        top = GAP + line * line_pitch
        draw.text((GAP, top + line_pitch // 2), name, "black", font, anchor="lm")
        for column, image in enumerate(images):
            pixels = np.ascontiguousarray(np.broadcast_to(image, (height, width, 3)))
            tile = Image.fromarray(pixels).resize((width * factor, height * factor), Image.Resampling.NEAREST)
            picture.paste(tile, (LABEL_WIDTH + column * pitch, top))
    return np.asarray(picture)


COMMAND = cli.Command(
    main,
    USAGE,
    TrainConfig,
    own=("output", "images"),
    common=("output", "images", "data.source", "data.image_size", "preset", "config", "seed"),
)

if __name__ == "__main__":
    cli.run(COMMAND)
