"""Measures which copies of a picture are found as near duplicates, how many other pictures are, and what it costs.

    python -m benchmarks.speed.near_duplicates --source=/data/photographs --images=1000 --output=result.json

Each image is copied in several ways. A kind of copy is found if it is a near duplicate of its original in a data set of
all originals and all copies of this kind. The pairs among the originals alone are drawn into `--sheet`: a person can
tell which of them show the same picture.
"""

from __future__ import annotations

import io
import pathlib
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import flags
from PIL import Image, ImageEnhance, ImageOps

from evenkeel.benchmarks import command, results
from evenkeel.pipeline.errors import UsageError, require
from evenkeel.pipeline.images.perceptual_hash import (
    BITS,
    hamming_distances,
    hash_pictures,
    mirror_hashes,
    shrink_to_gray,
)
from evenkeel.pipeline.prepare.near_duplicates import find_same_pictures

FLAGS = flags.FLAGS
TILE_PIXELS, SHEET_PAIRS, PAIRS_PER_ROW = 96, 100, 5

flags.DEFINE_string("source", "", "folder of images, searched at any depth")
flags.DEFINE_integer("images", 1000, "images, spread evenly over the names; fewer if there are fewer")
flags.DEFINE_string("sheet", "", "picture to draw the pairs among the originals into")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    require(bool(FLAGS.source), "--source is missing: give a folder of images.")
    originals = read_images(FLAGS.source, FLAGS.images)
    hashes, colors = hash_images(originals)
    started = time.process_time()
    among = find_same_pictures(hashes, colors)
    seconds = time.process_time() - started
    measured = [
        results.Result("near_duplicates", "originals", "pairs", "pairs", "lower", (float(len(among.pairs)),)),
        results.Result("near_duplicates", "originals", "search", "CPU s", "lower", (seconds,)),
    ]
    lines = [("copies", "found", f"bits of {BITS}: median", "99%", "limit")]
    for kind, copy in COPIES.items():
        copied_hashes, copied_colors = hash_images([copy(image) for image in originals])
        near = find_same_pictures(np.concatenate([hashes, copied_hashes]), np.concatenate([colors, copied_colors]))
        found = float((near.pairs[:, 1] - near.pairs[:, 0] == len(originals)).sum() / len(originals))
        bits = np.minimum(
            *(hamming_distances(hashes, other) for other in (copied_hashes, mirror_hashes(copied_hashes)))
        )
        measured.append(results.Result("near_duplicates", kind, "found", "share", "higher", (found,)))
        median, high = np.percentile(bits, [50, 99])
        lines.append((kind, f"{found:.1%}", f"{median:.0f}", f"{high:.0f}", str(near.limit)))
    print(results.align_columns(lines))
    count = len(originals)
    print(
        f"{len(among.pairs)} of {count * (count - 1) // 2} pairs of {count} originals are near duplicates (limit"
        f" {among.limit}); {(~hashes.any(axis=1)).sum()} have no hash; the search took {seconds:.2f} CPU seconds"
    )
    if FLAGS.sheet:
        draw_pairs(originals, among.pairs).save(FLAGS.sheet)
    if FLAGS.output:
        results.write(FLAGS.output, measured, results.environment())
    return 0


def read_images(source: str, count: int) -> list[Image.Image]:
    """Images of a folder, upright, RGB.

    Raises:
      UsageError: the folder holds fewer than two.
    """
    paths = [path for path in sorted(pathlib.Path(source).rglob("*")) if path.is_file()]
    found = []
    for path in paths[:: max(1, len(paths) // count)][:count]:
        try:
            found.append(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        except (OSError, SyntaxError):  # no image
            continue
    if len(found) < 2:
        raise UsageError(f"--source ({source}) holds {len(found)} images: give a folder with more.")
    return found


def hash_images(images: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """Perceptual hashes, int64 [n, 4], and mean colours, float64 [n, 3]."""
    shrink = tf.function(shrink_to_gray, input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
    pixels = [np.asarray(image) for image in images]
    gray = np.stack([shrink(image).numpy() for image in pixels])
    return hash_pictures(gray), np.stack([image.reshape(-1, 3).mean(axis=0) for image in pixels])


def re_encode(file_format: str, quality: int) -> Callable[[Image.Image], Image.Image]:
    def copy(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, file_format, quality=quality)
        return Image.open(file).convert("RGB")

    return copy


def scale(factor: float, filter_: Image.Resampling = Image.Resampling.BILINEAR) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize([max(1, round(side * factor)) for side in image.size], filter_)


def crop(share: float) -> Callable[[Image.Image], Image.Image]:
    """Cuts this share of each side's length off, half of it at each end."""

    def copy(image: Image.Image) -> Image.Image:
        cut = [max(1, round(side * share / 2)) for side in image.size]
        return image.crop((cut[0], cut[1], image.width - cut[0], image.height - cut[1]))

    return copy


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    **{f"JPEG {quality}": re_encode("JPEG", quality) for quality in (95, 75, 50, 20)},
    "WebP 50": re_encode("WEBP", 50),
    "half": scale(0.5),
    "half, nearest pixels": scale(0.5, Image.Resampling.NEAREST),
    "quarter": scale(0.25),
    "double": scale(2),
    "half, JPEG 50": lambda image: re_encode("JPEG", 50)(scale(0.5)(image)),
    "mirrored": ImageOps.mirror,
    "mirrored, half, JPEG 75": lambda image: re_encode("JPEG", 75)(scale(0.5)(ImageOps.mirror(image))),
    "stretched to a square": lambda image: image.resize([max(image.size)] * 2, Image.Resampling.BILINEAR),
    **{f"{share:.0%} cut off": crop(share) for share in (0.02, 0.05, 0.1)},
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "upside down": ImageOps.flip,
    "turned by 2 degrees": lambda image: image.rotate(2, Image.Resampling.BILINEAR),
    "5% brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.05)),
    "15% brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "gray": lambda image: image.convert("L").convert("RGB"),
}


def draw_pairs(images: list[Image.Image], pairs: np.ndarray) -> Image.Image:
    """The first pairs side by side."""
    rows = max(1, -(-min(len(pairs), SHEET_PAIRS) // PAIRS_PER_ROW))
    sheet = Image.new("RGB", (PAIRS_PER_ROW * (2 * TILE_PIXELS + 12), rows * (TILE_PIXELS + 12)), "white")
    for number, pair in enumerate(pairs[:SHEET_PAIRS].tolist()):
        left, top = number % PAIRS_PER_ROW * (2 * TILE_PIXELS + 12), number // PAIRS_PER_ROW * (TILE_PIXELS + 12)
        for side, row in enumerate(pair):
            sheet.paste(images[row].resize((TILE_PIXELS, TILE_PIXELS)), (left + side * TILE_PIXELS, top))
    return sheet


if __name__ == "__main__":
    command.run(main)
