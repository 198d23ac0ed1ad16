"""python -m tools.show_augmentations --data.source=/data/pets --output=grid.png"""

from __future__ import annotations

import dataclasses
import os
import typing

from absl import flags as absl_flags

from evenkeel.models.config import TrainConfig, config_json
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.errors import UsageError, require
from evenkeel.tools import flags, quiet

if typing.TYPE_CHECKING:
    import numpy as np

FLAGS = absl_flags.FLAGS
USAGE = """
Draws what augmentations do: a row each at a strength one can see, between the images as they are and what the
options given do to them.

  python -m tools.show_augmentations --data.source=/data/pets --output=grid.png
  python -m tools.show_augmentations --config=runs/pets/config.json --output=grid.png
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
LARGEST_ROW = 64
SMALLEST_TILE = 96  # pixels; smaller images are enlarged by a whole factor
GAP = 4
LABEL = 170

flags.define(TrainConfig)
absl_flags.DEFINE_string("output", "", "PNG file to write")
absl_flags.DEFINE_integer("images", 8, "images in a row")


def main(argv: list[str]) -> int:
    config = flags.config(TrainConfig)
    if FLAGS.print_config:
        print(config_json(config))
        return 0
    flags.need("output", "the PNG file to write")
    require(FLAGS.output.lower().endswith(".png"), f"--output ({FLAGS.output}) must end in .png.")
    require(1 <= FLAGS.images <= LARGEST_ROW, f"--images ({FLAGS.images}) must lie in 1 to {LARGEST_ROW}.")
    folder = os.path.dirname(FLAGS.output) or "."
    require(os.path.isdir(folder), f"--output ({FLAGS.output}) lies in no directory: make {folder} first.")
    quiet.import_tensorflow()
    picture = grid(augmented_rows(config.data, config.seed, FLAGS.images))
    from PIL import Image

    try:
        Image.fromarray(picture).save(FLAGS.output)
    except OSError as error:
        raise UsageError(f"--output ({FLAGS.output}) cannot be written: {error.strerror}.") from error
    print(FLAGS.output)
    return 0


def augmented_rows(config: DataConfig, seed: int, count: int) -> dict[str, np.ndarray]:
    """{name: uint8 [count, s, s, c]}: the first images of training, the same ones in every row."""
    from evenkeel.pipeline.build import training_batches
    from evenkeel.pipeline.dataset import load_dataset
    from evenkeel.pipeline.index.shuffle import ReplicaShard

    data = load_dataset(config)
    rows = {}
    for name, augment in {**ROWS, "as configured": config.augment}.items():
        if config.channels == 1 and (name == "saturation" or name == "hue"):
            continue
        augment = dataclasses.replace(augment, pad_crop=min(augment.pad_crop, config.image_size - 1))
        chosen = dataclasses.replace(config, batch_size=count, augment=augment, cache="none")
        rows[name] = next(iter(training_batches(data, chosen, seed, ReplicaShard(count))))[0].numpy()
    return rows


def grid(rows: dict[str, np.ndarray]) -> np.ndarray:
    """uint8 [height, width, 3]: a line for each row of images, its name on the left, on white."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    count, side, _, _ = next(iter(rows.values())).shape
    factor = -(-SMALLEST_TILE // side)
    pitch = side * factor + GAP
    picture = Image.new("RGB", (LABEL + count * pitch, len(rows) * pitch + GAP), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for line, (name, images) in enumerate(rows.items()):
        top = GAP + line * pitch
        draw.text((GAP, top + pitch // 2), name, "black", font, anchor="lm")
        for column, image in enumerate(images):
            pixels = np.broadcast_to(image, (side, side, 3))
            tile = Image.fromarray(np.ascontiguousarray(pixels)).resize((pitch - GAP,) * 2, Image.Resampling.NEAREST)
            picture.paste(tile, (LABEL + column * pitch, top))
    return np.asarray(picture)


if __name__ == "__main__":
    flags.run(main, USAGE, TrainConfig, own=("output", "images"))
