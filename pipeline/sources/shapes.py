"""The embedded data set `shapes`: ten outlines to tell apart, rendered as labelled JPEGs, clean or with chosen dirt.

    directory = prepare(ShapesConfig(count=6000, label_noise=0.1), cache_dir="/tmp/evenkeel")
    builder = tfds.builder_from_directory(directory)

A run that needs no download, small enough for a laptop and hard enough to need convolutions. What the dirt does to a
training run is known beforehand, because the same seed gives the same images without it.
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


def _outline(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A closed polygon (n, 2), its bounding box centred on 0 and its farthest corner at 1."""
    points = np.stack([x, y], axis=1).astype(float)
    points -= (points.min(axis=0) + points.max(axis=0)) / 2
    return points / np.linalg.norm(points, axis=1).max()


def _regular(corners: int, inner: float = 1.0) -> np.ndarray:
    """A regular polygon; with `inner` below 1 a star, whose every second corner lies at that radius."""
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radius = np.where(np.arange(corners) % 2, inner, 1.0)
    return _outline(radius * np.cos(angle), radius * np.sin(angle))


_CIRCLE = _regular(48)
_CROSS = np.array([1, 1, 3, 3, 1, 1, -1, -1, -3, -3, -1, -1])
_T = np.linspace(0, 2 * np.pi, 48, endpoint=False)
_HEART = 13 * np.cos(_T) - 5 * np.cos(2 * _T) - 2 * np.cos(3 * _T) - np.cos(4 * _T)
OUTLINES: dict[str, tuple[np.ndarray, ...]] = {  # the first polygon is filled, a second one cut out of it
    "circle": (_CIRCLE,),
    "square": (_regular(4),),
    "triangle": (_regular(3),),
    "star": (_regular(10, inner=0.4),),
    "ring": (_CIRCLE, 0.55 * _CIRCLE),
    "cross": (_outline(_CROSS, np.roll(_CROSS, -3)),),
    "pentagon": (_regular(5),),
    "crescent": (_CIRCLE, 0.8 * _CIRCLE + (0.5, 0)),
    "heart": (_outline(16 * np.sin(_T) ** 3, _HEART),),
    "ellipse": (_CIRCLE * (1, 0.5),),
}
CLASSES = tuple(OUTLINES)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_TRAIN, _VALIDATION, _PLAN = range(3)  # what a generator is for; SeedSequence([s, 1]) equals ([s, 1, 0]), so all have 3


def render(label: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """One image of `CLASSES[label]`: uint8 (size, size, 3), a function of the arguments and the generator's state."""
    scale = max(1, min(4, 512 // size))  # edges are smoothed by drawing larger; beyond 512 pixels it costs too much
    side = size * scale

    sign = 1 if rng.random() < 0.9 else -1  # mostly lighter than the background: a linear model has that to hold on to
    foreground = background = np.zeros(3, np.float32)
    while sign * LUMA @ (foreground - background) < 0.25:  # in grey, too, the shape must be visible
        foreground, background = rng.random((2, 3), np.float32)
    image = background + 0.4 * _texture(size, rng)[:, :, None] * (rng.random(3, np.float32) - 0.5)

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


def _texture(size: int, rng: np.random.Generator) -> np.ndarray:
    """A gradient, stripes or smooth noise: float32 (size, size) in [-1, 1], the same look at any size."""
    kind, angle = rng.integers(3), rng.uniform(0, 2 * np.pi)
    if kind == 0:
        coarse = rng.uniform(-1, 1, (5, 5)).astype(np.float32)
        return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)).clip(-1, 1)
    at = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    along = np.cos(angle) * at + np.sin(angle) * at[:, None]
    if kind == 1:
        return (along * 1.4).astype(np.float32)
    return np.sin(along * rng.uniform(12, 50) + rng.uniform(0, 6)).astype(np.float32)


def _labels(count: int, imbalance: float, rng: np.random.Generator) -> np.ndarray:
    """Shuffled labels (count,): a geometric series of class sizes, `imbalance` between first and last, none empty."""
    weight = imbalance ** -np.linspace(0, 1, len(CLASSES))
    ideal = count * weight / weight.sum()
    sizes = np.maximum(1, ideal.astype(int))
    left = count - sizes.sum()  # negative when classes that would be empty were given an image: the largest pays
    sizes[np.argsort(sizes - ideal, kind="stable")[: max(left, 0)]] += 1
    sizes[0] += min(left, 0)
    return rng.permutation(np.repeat(np.arange(len(CLASSES)), sizes))


def _outlier(kind: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """All black, all white or uniform noise, by `kind` 0, 1, 2."""
    if kind == 2:
        return rng.integers(0, 256, (size, size, 3), np.uint8)
    return np.full((size, size, 3), 255 * kind, np.uint8)


def _examples(config: ShapesConfig, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and features of every image of `split`, in order of the file name; only `train` gets dirt."""
    dirty = split == "train"
    count = config.count if dirty else max(10, config.count // 5)

    def plan(purpose: int) -> np.random.Generator:  # one each, so that a knob of dirt changes nothing but its own
        return np.random.default_rng([config.seed, _PLAN, purpose])

    def chosen(purpose: int, share: float) -> dict[int, int]:
        """Exactly round(share * count) rows, each with its rank in the draw, which is independent of the row."""
        rows = plan(purpose).permutation(count)[: round(share * count) if dirty else 0]
        return {int(row): rank for rank, row in enumerate(rows)}

    labels = _labels(count, config.imbalance if dirty else 1.0, plan(0 if dirty else 1))
    dark, outlier = chosen(2, config.unnormalised), chosen(3, config.outliers)
    mislabelled, corrupt = chosen(4, config.label_noise), chosen(5, config.corrupt)
    for row, label in enumerate(labels.tolist()):
        rng = np.random.default_rng([config.seed, _TRAIN if dirty else _VALIDATION, row])
        image = render(label, config.size, rng)
        if row in dark:
            image //= 16
        if row in outlier:
            image = _outlier(outlier[row] % 3, config.size, rng)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=config.quality)
        jpeg = file.getvalue()
        if row in corrupt:
            jpeg = jpeg[: jpeg.index(b"\xff\xda")]  # before the scan: cut inside it, the upper rows would still decode
        if row in mislabelled:
            label = (label + 1 + mislabelled[row] % (len(CLASSES) - 1)) % len(CLASSES)
        name = f"{split}_{row:06d}.jpg"
        yield name, {"image": jpeg, "label": label, "filename": name}


def config_name(config: ShapesConfig) -> str:
    """`size32_count6000_quality90_seed0_corrupt0.01`: every difference shows, dirt only where there is some."""
    parts = []
    for name, default in dataclasses.asdict(ShapesConfig()).items():
        value = type(default)(getattr(config, name))  # 2 and 2.0 are the same imbalance
        if name in ("size", "count", "quality", "seed") or value != default:
            parts.append(f"{name}{value}")
    return "_".join(parts)


@dataclasses.dataclass
class ShapesBuilderConfig(tfds.core.BuilderConfig):
    """A `ShapesConfig` as TFDS wants it: `name` is a folder, `description` goes into dataset_info.json."""

    name: str = ""
    shapes: ShapesConfig = dataclasses.field(default_factory=ShapesConfig)

    def __post_init__(self) -> None:
        self.name, self.description = config_name(self.shapes), repr(self.shapes)


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Features `image` (JPEG, uint8 (size, size, 3)), `label` (index into `CLASSES`) and `filename`."""

    VERSION = tfds.core.Version("1.0.0")  # a change of `render` is a new version: prepared directories are kept
    BUILDER_CONFIGS = [ShapesBuilderConfig()]  # noqa: RUF012

    def _create_builder_config(self, config: Any, version: Any) -> Any:
        # Any ShapesConfig will do; TFDS would warn of each that is not listed above.
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
        return _examples(self.builder_config.shapes, split)


def prepare(config: ShapesConfig, cache_dir: str) -> str:
    """The TFDS directory of `config` below `cache_dir`: uncompressed TFRecords, rendered unless they are there already.

    TFDS writes beside the directory and renames at the end, so what was interrupted is not found here.
    """
    builder = Shapes(data_dir=cache_dir, config=ShapesBuilderConfig(shapes=config))
    # Nothing is downloaded: the folder TFDS wants for it, and what it prints about it, need not stay.
    with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
        prepare_once(builder, download_dir=downloads)
    return str(builder.data_dir)
