"""What the loaders share, whatever their framework: the work, its random numbers, and how a turn pulls batches.

    work = read("/data/jpeg224-0123456789abcdef")
    facts, run = served(endless_batches, work, "torch 2.13.0")

Standard library and numpy only: it runs in every peer's environment.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # random resized crop (Szegedy et al. 2015, section 6)
PAD, CUTOUT, GRAY = 4, 8, 128
LOOKED_AT = 1024  # images, before the race, for the mean and deviation of what a loader puts out

Facts = tuple[dict[str, Any], Callable[[int], dict[str, float]]]


@dataclasses.dataclass(frozen=True)
class Work:
    """What is read and how it leaves: `batch` images of `size` x `size` x 3."""

    task: str
    folder: Path
    images: int

    @property
    def small(self) -> bool:
        return self.task == "small32"

    @property
    def size(self) -> int:
        return 32 if self.small else 224

    @property
    def batch(self) -> int:
        return 512 if self.small else 64

    @property
    def files(self) -> Path:
        """The folder of class folders of training images."""
        return self.folder / "files" / "train"

    def paths(self) -> tuple[list[str], list[int]]:
        """All training files and their labels."""
        paths = sorted(self.files.glob("*/*"))
        return [str(path) for path in paths], [int(path.parent.name) for path in paths]

    def labels(self) -> np.ndarray:
        """int64 [images], of the decoded images."""
        return np.load(self.folder / "labels.npy")

    def small_images(self) -> np.ndarray:
        """uint8 [images, 32, 32, 3], in memory."""
        return np.load(self.folder / "pixels.npy").reshape(-1, self.size, self.size, 3)

    def raw_images(self) -> Pixels:
        return Pixels(self.folder)


class Pixels:
    """Decoded images of different sizes, mapped: `pixels[row]` is uint8 [height, width, 3]."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.heights, self.widths = (np.load(folder / f"{name}.npy").astype(np.int64) for name in ("heights", "widths"))
        self._ends = np.cumsum(3 * self.heights * self.widths)
        self._flat = np.load(folder / "pixels.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> np.ndarray:
        height, width, end = int(self.heights[row]), int(self.widths[row]), int(self._ends[row])
        return self._flat[end - 3 * height * width : end].reshape(height, width, 3)

    def __reduce__(self) -> tuple[Any, ...]:
        return Pixels, (self._folder,)  # a worker process maps the file itself


def read(folder: str) -> Work:
    about = json.loads((Path(folder) / "work.json").read_text())
    return Work(about["task"], Path(folder), about["images"])


def random_window(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(y, x, height, width) of a random resized crop, by torchvision's rule: ten attempts, then the central window."""
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    for area, place in zip(rng.uniform(*AREA, 10), rng.random((10, 3)), strict=True):
        aspect = math.exp(low + (high - low) * place[0])
        tall, wide = round(math.sqrt(height * width * area / aspect)), round(math.sqrt(height * width * area * aspect))
        if 0 < tall <= height and 0 < wide <= width:
            return int((height - tall + 1) * place[1]), int((width - wide + 1) * place[2]), tall, wide
    tall, wide = min(height, round(width / ASPECT[0])), min(width, round(height * ASPECT[1]))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def scaled_crop(image: Any, size: int, rng: np.random.Generator) -> np.ndarray:
    """A Pillow image as torchvision's RandomResizedCrop and RandomHorizontalFlip leave it: uint8 [size, size, 3]."""
    from PIL import Image

    y, x, height, width = random_window(image.height, image.width, rng)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + width, y + height))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def padded_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 [s, s, 3] -> the same size: reflected border of 4, random crop, flip, square of 8x8 cut out."""
    size = len(image)
    y, x, flip = (int(n) for n in rng.integers(0, (2 * PAD + 1, 2 * PAD + 1, 2)))
    image = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)), "reflect")[y : y + size, x : x + size]
    image = np.ascontiguousarray(image[:, ::-1] if flip else image)
    y, x = (int(n) for n in rng.integers(0, size - CUTOUT + 1, 2))
    image[y : y + CUTOUT, x : x + CUTOUT] = GRAY
    return image


def endless(epochs: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """One epoch behind the other."""
    while True:
        yield from epochs()


def served(batches: Iterator[Any], work: Work, about: str, images_of: Callable[[Any], Any] = np.asarray) -> Facts:
    """What `worker.py` wants of a loader whose batches come one by one to Python.

    `images_of` makes of a batch an array [b, size, size, 3], values 0 to 255; it is not called while time is taken.
    """

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            next(batches)
        return {}

    return facts(work, lambda: np.asarray(images_of(next(batches))), about), run


def facts(work: Work, next_images: Callable[[], np.ndarray], about: str) -> dict[str, Any]:
    """What a loader puts out, from the first images: its shape must be that of all others, its mean nearly so."""
    looked = [next_images() for _ in range(-(-LOOKED_AT // work.batch))]
    means = [float(images.mean(dtype=np.float64)) for images in looked]
    squares = [float(np.square(images, dtype=np.float64).mean()) for images in looked]
    mean = sum(means) / len(means)
    return {
        "same": {
            "images": work.images,
            "images a batch": work.batch,
            "output": "x".join(map(str, looked[0].shape[1:])),
        },
        "alike": {"mean": mean, "deviation": math.sqrt(max(sum(squares) / len(squares) - mean**2, 0.0))},
        "images_per_step": work.batch,
        "about": about,
        "works_ahead": True,
    }
