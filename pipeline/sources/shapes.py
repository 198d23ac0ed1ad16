"""The synthetic data set `shapes`: ten outlines, rendered as labelled JPEGs, clean or with chosen defects.

    directory = prepare(ShapesConfig(count=6000, label_noise=0.1), cache_dir="/tmp/evenkeel")
    builder = tfds.builder_from_directory(directory)

It needs no download, is small enough for a laptop and hard enough to need convolutions. The effect of a defect on
training can be measured, because the same seed without it gives the same images.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw

from evenkeel.pipeline.config import ShapesConfig
from evenkeel.pipeline.sources.prepare_once import prepare_once


def _normalize_polygon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A closed polygon, float64 [n, 2]: its bounding box is centred on 0 and its farthest corner is at distance 1."""
    points = np.stack([x, y], axis=1).astype(float)
    points -= (points.min(axis=0) + points.max(axis=0)) / 2
    return points / np.linalg.norm(points, axis=1).max()


def _regular_polygon(corners: int, inner: float = 1.0) -> np.ndarray:
    """A regular polygon, or with `inner` below 1 a star: every second corner lies at radius `inner`."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radius = np.where(np.arange(corners) % 2, inner, 1.0)
    return _normalize_polygon(radius * np.cos(angle), radius * np.sin(angle))


_CIRCLE = _regular_polygon(48)
_CROSS = np.array([1, 1, 3, 3, 1, 1, -1, -1, -3, -3, -1, -1])
_T = np.linspace(0, 2 * np.pi, 48, endpoint=False)
_HEART = 13 * np.cos(_T) - 5 * np.cos(2 * _T) - 2 * np.cos(3 * _T) - np.cos(4 * _T)
OUTLINES: dict[str, tuple[np.ndarray, ...]] = {  # the first polygon is filled, the second is cut out of it
    "circle": (_CIRCLE,),
    "square": (_regular_polygon(4),),
    "triangle": (_regular_polygon(3),),
    "star": (_regular_polygon(10, inner=0.4),),
    "ring": (_CIRCLE, 0.55 * _CIRCLE),
    "cross": (_normalize_polygon(_CROSS, np.roll(_CROSS, -3)),),
    "pentagon": (_regular_polygon(5),),
    "crescent": (_CIRCLE, 0.8 * _CIRCLE + (0.5, 0)),
    "heart": (_normalize_polygon(16 * np.sin(_T) ** 3, _HEART),),
    "ellipse": (_CIRCLE * (1, 0.5),),
}
CLASSES = tuple(OUTLINES)
LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)
# The purpose of a random generator, the second of three seed numbers. All generators have three, because
# SeedSequence([s, 1]) equals SeedSequence([s, 1, 0]).
_TRAIN, _VALIDATION, _PLAN = range(3)


def render(label: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Renders an image of `CLASSES[label]`, uint8 [size, size, 3]; it depends only on the arguments."""
    scale = max(1, min(4, 512 // size))  # larger drawings give smooth edges; beyond 512 pixels they cost too much
    side = size * scale

    sign = 1 if rng.random() < 0.9 else -1  # 90% are lighter than the background: a linear model can learn that
    foreground = background = np.zeros(3, np.float32)
    while sign * LUMA_WEIGHTS @ (foreground - background) < 0.25:  # the shape must be visible in gray, too
        foreground, background = rng.random((2, 3), np.float32)
    image = background + 0.4 * _render_texture(size, rng)[:, :, None] * (rng.random(3, np.float32) - 0.5)

    def blend(mask: Image.Image, colour: np.ndarray) -> None:
        alpha = np.asarray(mask.reduce(scale), np.float32)[:, :, None] / 255
        np.add(image, alpha * (colour - image), out=image)

    for _ in range(rng.integers(6)):
        mask = Image.new("L", (side, side))
        (x, y), (dx, dy), r = rng.random(2) * side, (rng.random(2) - 0.5) * side * 0.6, rng.uniform(0.02, 0.05) * side
        if rng.random() < 0.5:
            ImageDraw.Draw(mask).ellipse((x - r, y - r, x + r, y + r), fill=255)
        else:
            ImageDraw.Draw(mask).line((x, y, x + dx, y + dy), fill=255, width=max(1, round(r)))
        blend(mask, rng.random(3, np.float32))

    radius, angle = rng.uniform(0.22, 0.42), rng.uniform(0, 2 * np.pi)
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    centre = rng.uniform(radius, 1 - radius, 2)
    mask = Image.new("L", (side, side))
    for fill, outline in zip((255, 0), OUTLINES[CLASSES[label]], strict=False):
        corners = (outline @ turn * radius + centre) * side
        ImageDraw.Draw(mask).polygon(corners.ravel().tolist(), fill=fill)
    blend(mask, foreground)

    image += rng.uniform(0, 0.08) * rng.standard_normal(image.shape, np.float32)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def _render_texture(size: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise, a gradient or stripes, float32 [size, size] in [-1, 1]; looks the same at any size."""
    kind, angle = rng.integers(3), rng.uniform(0, 2 * np.pi)
    if kind == 0:
        coarse = rng.uniform(-1, 1, (5, 5)).astype(np.float32)
        return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)).clip(-1, 1)
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    along = np.cos(angle) * axis + np.sin(angle) * axis[:, None]
    if kind == 1:
        return (along * 1.4).astype(np.float32)
    return np.sin(along * rng.uniform(12, 50) + rng.uniform(0, 6)).astype(np.float32)


def _draw_labels(count: int, imbalance: float, rng: np.random.Generator) -> np.ndarray:
    """Shuffled labels, int64 [count].

    Class sizes are a geometric series: the first size is `imbalance` times the last. No class is empty.
    """
    weight = imbalance ** -np.linspace(0, 1, len(CLASSES))
    ideal = count * weight / weight.sum()
    sizes = np.maximum(1, ideal.astype(int))
    # Images still to assign. Their number is negative if classes that would be empty got an image; the largest class
    # then has fewer images.
    rest = count - sizes.sum()
    sizes[np.argsort(sizes - ideal, kind="stable")[: max(rest, 0)]] += 1
    sizes[0] += min(rest, 0)
    return rng.permutation(np.repeat(np.arange(len(CLASSES)), sizes))


def _render_outlier(kind: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """An image that is all black (`kind` 0), all white (1) or uniform noise (2)."""
    if kind == 2:
        return rng.integers(0, 256, (size, size, 3), np.uint8)
    return np.full((size, size, 3), 255 * kind, np.uint8)


def _generate(config: ShapesConfig, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (file name, features) of every image of `split`, sorted by file name; only `train` has defects."""
    is_train = split == "train"
    count = config.count if is_train else max(10, config.count // 5)

    def make_rng(purpose: int) -> np.random.Generator:
        """A random generator for one purpose, so that a change of one defect does not change the other defects."""
        return np.random.default_rng([config.seed, _PLAN, purpose])

    def draw_rows(purpose: int, share: float) -> dict[int, int]:
        """Draws exactly round(share * count) rows; returns {row: its rank}, with ranks independent of rows."""
        rows = make_rng(purpose).permutation(count)[: round(share * count) if is_train else 0]
        return {int(row): rank for rank, row in enumerate(rows)}

    labels = _draw_labels(count, config.imbalance if is_train else 1.0, make_rng(0 if is_train else 1))
    dark, outlier = draw_rows(2, config.unnormalised), draw_rows(3, config.outliers)
    mislabelled, corrupt = draw_rows(4, config.label_noise), draw_rows(5, config.corrupt)
    for row, label in enumerate(labels.tolist()):
        rng = np.random.default_rng([config.seed, _TRAIN if is_train else _VALIDATION, row])
        image = render(label, config.size, rng)
        if row in dark:
            image //= 16
        if row in outlier:
            image = _render_outlier(outlier[row] % 3, config.size, rng)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=config.quality)
        jpeg = file.getvalue()
        if row in corrupt:
            # The file is cut before the scan: if it were cut inside the scan, the upper rows would still decode.
            jpeg = jpeg[: jpeg.index(b"\xff\xda")]
        if row in mislabelled:
            label = (label + 1 + mislabelled[row] % (len(CLASSES) - 1)) % len(CLASSES)
        name = f"{split}_{row:06d}.jpg"
        yield name, {"image": jpeg, "label": label, "filename": name}


def config_name(config: ShapesConfig) -> str:
    """A unique name of `config`, such as `size32_count6000_quality90_seed0_corrupt0.01`.

    The name contains only the defects that differ from the default.
    """
    parts = []
    for name, default in dataclasses.asdict(ShapesConfig()).items():
        value = type(default)(getattr(config, name))  # 2 and 2.0 are the same imbalance
        if name in ("size", "count", "quality", "seed") or value != default:
            parts.append(f"{name}{value}")
    return "_".join(parts)


@dataclasses.dataclass
class ShapesBuilderConfig(tfds.core.BuilderConfig):
    """A `ShapesConfig` for TFDS: `name` becomes a folder, and `description` is written to dataset_info.json."""

    name: str = ""
    shapes: ShapesConfig = dataclasses.field(default_factory=ShapesConfig)

    def __post_init__(self) -> None:
        self.name, self.description = config_name(self.shapes), repr(self.shapes)


class Shapes(tfds.core.GeneratorBasedBuilder):
    """A TFDS builder with the features `image` (JPEG, size x size), `label` (index into `CLASSES`) and `filename`."""

    VERSION = tfds.core.Version("1.0.0")  # raise it when `render` changes: existing directories are not prepared again
    BUILDER_CONFIGS = [ShapesBuilderConfig()]  # noqa: RUF012

    def _create_builder_config(self, config: Any, version: Any) -> Any:
        # Any ShapesConfig is allowed; TFDS would log a warning for each that is not in BUILDER_CONFIGS.
        return config if isinstance(config, ShapesBuilderConfig) else super()._create_builder_config(config, version)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=CLASSES),
            "filename": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Ten outlines on textured backgrounds, rendered by evenkeel.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        return {split: self._generate_examples(split) for split in ("train", "validation")}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        return _generate(self.builder_config.shapes, split)


def prepare(config: ShapesConfig, cache_dir: str) -> str:
    """Renders the data set, if it does not exist yet, as TFRecords below `cache_dir`; returns its TFDS directory.

    The TFRecords are not compressed. TFDS writes into a temporary directory and renames it at the end, so an
    interrupted run leaves no partial data set.
    """
    builder = Shapes(data_dir=cache_dir, config=ShapesBuilderConfig(shapes=config))
    # Nothing is downloaded: the download folder that TFDS requires, and its messages about it, are discarded.
    with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
        prepare_once(builder, download_dir=downloads)
    return str(builder.data_dir)
