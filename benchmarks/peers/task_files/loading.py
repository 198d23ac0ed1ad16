"""Code that all loaders share: the task and its data, random crops in NumPy, and the turns, which pull batches.

    work = read_work("/data/jpeg224-0123456789abcdef")
    facts, run = serve_batches(endless_batches, work, "torch 2.13.0")

Imports only the standard library and NumPy, because it runs in the environment of every peer.
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
PAD, CUTOUT, GRAY = 4, 8, 128  # pixels, pixels, gray level
PROBE_IMAGES = 1024  # images that a loader returns before the race, for the mean and deviation of its output

Facts = tuple[dict[str, Any], Callable[[int], dict[str, float]]]


@dataclasses.dataclass(frozen=True)
class Work:
    """A loading task and its data.

    Attributes:
      task: name of the task, which determines the batch size and the shape of the images.
      folder: the folder that `sources.write_task_data` wrote.
      images: number of training images.
    """

    task: str
    folder: Path
    images: int

    @property
    def small(self) -> bool:
        """Whether the images are kept decoded in memory."""
        return self.task == "small32"

    @property
    def size(self) -> int:
        """Height and width of the images in a batch."""
        return 32 if self.small else 224

    @property
    def batch(self) -> int:
        """The number of images in a batch."""
        return 512 if self.small else 64

    @property
    def files(self) -> Path:
        """The folder that contains one folder of training images per class."""
        return self.folder / "files" / "train"

    def paths(self) -> tuple[list[str], list[int]]:
        """Returns the paths of all training files, and their labels."""
        paths = sorted(self.files.glob("*/*"))
        return [str(path) for path in paths], [int(path.parent.name) for path in paths]

    def labels(self) -> np.ndarray:
        """Returns the labels of the decoded images, int64 [images]."""
        return np.load(self.folder / "labels.npy")

    def small_images(self) -> np.ndarray:
        """Returns all decoded images in memory, uint8 [images, 32, 32, 3]."""
        return np.load(self.folder / "pixels.npy").reshape(-1, self.size, self.size, 3)

    def raw_images(self) -> RawImages:
        return RawImages(self.folder)


class RawImages:
    """Decoded images of different sizes in a memory-mapped file; `images[row]` is one, uint8 [height, width, 3]."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.heights, self.widths = (np.load(folder / f"{name}.npy").astype(np.int64) for name in ("heights", "widths"))
        self._ends = np.cumsum(3 * self.heights * self.widths)
        self._pixels = np.load(folder / "pixels.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> np.ndarray:
        height, width, end = int(self.heights[row]), int(self.widths[row]), int(self._ends[row])
        return self._pixels[end - 3 * height * width : end].reshape(height, width, 3)

    def __reduce__(self) -> tuple[Any, ...]:
        return RawImages, (self._folder,)  # each worker process maps the file again


def read_work(folder: str) -> Work:
    """Reads the task and the number of images from the description in `folder`."""
    about = json.loads((Path(folder) / "work.json").read_text())
    return Work(about["task"], Path(folder), about["images"])


def serve_batches(
    batches: Iterator[Any], work: Work, about: str, to_images: Callable[[Any], Any] = np.asarray
) -> Facts:
    """Returns what a task file gives `worker.py`, for a loader that returns batches one by one to Python.

    That is (facts about the work, a function that loads a number of batches); `about` describes the loader.

    `to_images` converts a batch to an array [b, size, size, 3] with values from 0 to 255; this time is not measured.
    """

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            next(batches)
        return {}

    return describe_output(work, lambda: np.asarray(to_images(next(batches))), about), run


def describe_output(work: Work, next_images: Callable[[], np.ndarray], about: str) -> dict[str, Any]:
    """Returns the facts of a loader, from its first images. All loaders must have equal shapes and similar means."""
    batches = [next_images() for _ in range(-(-PROBE_IMAGES // work.batch))]
    means = [float(images.mean(dtype=np.float64)) for images in batches]
    squares = [float(np.square(images, dtype=np.float64).mean()) for images in batches]
    mean = sum(means) / len(means)
    return {
        "same": {
            "images": work.images,
            "images a batch": work.batch,
            "output": "x".join(map(str, batches[0].shape[1:])),
        },
        "alike": {"mean": mean, "deviation": math.sqrt(max(sum(squares) / len(squares) - mean**2, 0.0))},
        "images_per_step": work.batch,
        "about": about,
        "works_ahead": True,
    }


def repeat_epochs(epoch: Callable[[], Iterable[Any]]) -> Iterator[Any]:
    """Yields the batches of `epoch()` again and again, without end."""
    while True:
        yield from epoch()


def random_window(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draws a window (y, x, height, width) as RandomResizedCrop in torchvision: ten attempts, then the center."""
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    for area, draws in zip(rng.uniform(*AREA, 10), rng.random((10, 3)), strict=True):
        aspect = math.exp(low + (high - low) * draws[0])
        crop_height = round(math.sqrt(height * width * area / aspect))
        crop_width = round(math.sqrt(height * width * area * aspect))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            y, x = int((height - crop_height + 1) * draws[1]), int((width - crop_width + 1) * draws[2])
            return y, x, crop_height, crop_width
    crop_height, crop_width = min(height, round(width / ASPECT[0])), min(width, round(height * ASPECT[1]))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def random_resized_crop(image: Any, size: int, rng: np.random.Generator) -> np.ndarray:
    """Crops and flips a Pillow image -> uint8 [size, size, 3], as torchvision's transforms do."""
    from PIL import Image

    y, x, height, width = random_window(image.height, image.width, rng)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + width, y + height))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(image)


def padded_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augments an image uint8 [s, s, 3]: reflects a border of 4, crops and flips randomly, cuts out a square of 8x8."""
    size = len(image)
    y, x, flip = (int(n) for n in rng.integers(0, (2 * PAD + 1, 2 * PAD + 1, 2)))
    image = np.pad(image, ((PAD, PAD), (PAD, PAD), (0, 0)), "reflect")[y : y + size, x : x + size]
    image = np.ascontiguousarray(image[:, ::-1] if flip else image)
    y, x = (int(n) for n in rng.integers(0, size - CUTOUT + 1, 2))
    image[y : y + CUTOUT, x : x + CUTOUT] = GRAY
    return image
