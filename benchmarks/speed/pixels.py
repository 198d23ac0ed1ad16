"""Measures how much a picture depends on how it is stored: mean differences in gray levels of what the network sees.

    python -m benchmarks.speed.pixels --source=/data/photographs --output=result.json

Every photograph is stored as a JPEG (quality 95), as a PNG of the JPEG's pixels, and in the storage tiers raw:256 and
jpeg:256:95. Each kind goes through the evaluation of a data set at several image sizes; the JPEG also goes through the
decoder of an exported model. `pillow` is the antialiased bilinear resize of Pillow (`Image.resize`) of the same pixels
and the same square. The photographs are used as they are (`--scale=1`) or enlarged.
"""

from __future__ import annotations

import io
import itertools
import pathlib
import tempfile

import numpy as np
from absl import flags
from PIL import Image, ImageOps

from evenkeel.benchmarks import command, results
from evenkeel.pipeline.config import DataConfig, PrepareConfig
from evenkeel.pipeline.errors import UsageError, require

FLAGS = flags.FLAGS
JPEG_QUALITY = 95
TIERS = ("raw:256", "jpeg:256:95")

flags.DEFINE_string("source", "", "folder of photographs, searched at any depth")
flags.DEFINE_integer("images", 24, "photographs, the first ones by name")
flags.DEFINE_integer("scale", 1, "how much they are enlarged first, along each side")
flags.DEFINE_list("sizes", ["32", "64", "96", "224"], "image sizes in pixels")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    require(bool(FLAGS.source), "--source is missing: give a folder of photographs.")
    photographs = read_photographs(FLAGS.source, FLAGS.images, FLAGS.scale)
    measured = []
    lines = [("size", "pair", "gray levels")]
    with tempfile.TemporaryDirectory() as directory:
        stored = store(photographs, pathlib.Path(directory))
        for size in map(int, FLAGS.sizes):
            pictures = {kind: show(source, size) for kind, source in stored.items()}
            pictures["served"] = serve(stored["jpeg"], size)
            pictures["pillow"] = np.stack([resize_with_pillow(image, size) for image in photographs])
            for first, second in itertools.combinations(pictures, 2):
                difference = np.abs(pictures[first].astype(int) - pictures[second]).mean(axis=(1, 2, 3))
                case = f"{first}-{second}/{size}"
                samples = tuple(difference.tolist())
                measured.append(results.Result("pixels", case, "difference", "gray levels", "lower", samples))
                lines.append((str(size), f"{first} - {second}", f"{difference.mean():.2f}"))
    print(results.align_columns(lines))
    if FLAGS.output:
        results.write(FLAGS.output, measured, results.environment())
    return 0


def read_photographs(source: str, count: int, scale: int) -> list[Image.Image]:
    """The first photographs of a folder, decoded from JPEGs of `JPEG_QUALITY`, so that all kinds have their pixels.

    Raises:
      UsageError: the folder holds too few.
    """
    found: list[Image.Image] = []
    for path in sorted(pathlib.Path(source).rglob("*")):
        if len(found) == count:
            break
        try:
            image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        except (OSError, SyntaxError):  # a folder, or no image
            continue
        if scale > 1:
            image = image.resize((image.width * scale, image.height * scale), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=JPEG_QUALITY)
        found.append(Image.open(file))
    if len(found) < count:
        raise UsageError(f"--source ({source}) holds {len(found)} images, fewer than --images ({count}).")
    return found


def store(photographs: list[Image.Image], directory: pathlib.Path) -> dict[str, str]:
    """Stores the photographs in every kind; returns {kind: its directory}, a source of data."""
    import tensorflow as tf

    from evenkeel.pipeline.images.decode import LIBJPEG_OPTIONS
    from evenkeel.pipeline.prepare.prepare import prepare

    for number, image in enumerate(photographs):
        contents = image.fp.getvalue()  # type: ignore[attr-defined]
        pixels = tf.io.decode_jpeg(contents, channels=3, **LIBJPEG_OPTIONS).numpy()
        for split in ("train", "validation"):
            for kind in ("jpeg", "png"):
                path = directory / kind / split / "ab"[number % 2] / f"{number:04}.{kind}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "jpeg":
                    path.write_bytes(contents)
                else:
                    Image.fromarray(pixels).save(path, compress_level=1)
    stored = {kind: str(directory / kind) for kind in ("jpeg", "png")}
    for tier in TIERS:
        stored[tier] = str(directory / tier.replace(":", "-"))
        prepare(PrepareConfig(source=stored["jpeg"], tier=tier, outliers="keep"), stored[tier])
    return stored


def show(source: str, size: int) -> np.ndarray:
    """What evaluation shows to the network, uint8 [images, size, size, 3], in the order of the names."""
    from evenkeel.pipeline.build import evaluation_batches
    from evenkeel.pipeline.dataset import load_dataset
    from evenkeel.pipeline.index.replica_shard import ReplicaShard

    config = DataConfig(source=source, image_size=size, cache="none")
    rows = load_dataset(config).validation
    images, *_ = next(iter(evaluation_batches(rows, config, ReplicaShard(len(rows)))))
    return images.numpy()[np.argsort([pathlib.PurePath(name).stem for name in rows.names])]


def serve(source: str, size: int) -> np.ndarray:
    """What an exported model shows to the network, uint8 [images, size, size, 3]."""
    import tensorflow as tf

    from evenkeel.pipeline.reading.serving import image_reader

    paths = sorted((pathlib.Path(source) / "validation").rglob("*.*"), key=lambda path: path.stem)
    images, _ = image_reader(DataConfig(image_size=size))(tf.constant([path.read_bytes() for path in paths]))
    return images.numpy()


def resize_with_pillow(image: Image.Image, size: int) -> np.ndarray:
    """The central square, resized as Pillow does, uint8 [size, size, 3]."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.BILINEAR))


if __name__ == "__main__":
    command.run(main)
