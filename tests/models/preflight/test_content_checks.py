"""Whether images show anything, whether there are enough, and whether the splits have the same classes."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from evenkeel.models.config import TrainConfig
from evenkeel.models.preflight import content_checks, data_checks
from evenkeel.pipeline.dataset import Dataset, load_dataset
from tests.models.preflight.cases import by_check, failed, load_shapes, train_config

SIDE = 16
Draw = Callable[[int, np.random.Generator], np.ndarray]


def photograph(label: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth image, uint8 [16, 16, 3], of which some pixels are white; stripes run along or across, by `label`."""
    y, x = np.mgrid[:SIDE, :SIDE]
    stripes = 60 * np.sin((x if label else y) / 2 + rng.uniform(0, 6))
    pixels = rng.uniform(90, 150, 3) + stripes[..., None] + rng.normal(0, 20, (SIDE, SIDE, 3))
    if rng.random() < 0.1:
        pixels[:8][rng.random((8, SIDE)) < 0.7] = 255  # a bright sky
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write(root: pathlib.Path, counts: dict[str, int], draw: Draw, seed: int = 0) -> None:
    """Writes PNG images to the folders `counts`, {split/class: number of images}; labels number the classes."""
    rng = np.random.default_rng(seed)
    names = sorted({folder.rpartition("/")[2] for folder in counts})
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            pixels = draw(names.index(folder.rpartition("/")[2]), rng)
            Image.fromarray(pixels).save(root / folder / f"{number:03d}.png")


def load(root: pathlib.Path) -> tuple[TrainConfig, Dataset]:
    config = train_config(source=str(root))
    return config, load_dataset(config.data)


def two_classes(train: int, test: int) -> dict[str, int]:
    return {"train/cat": train, "train/dog": train, "test/cat": test, "test/dog": test}


def test_an_integer_division_leaves_empty_images_and_no_outliers(tmp_path: pathlib.Path) -> None:
    write(tmp_path, two_classes(150, 60), lambda label, rng: photograph(label, rng) // 255)
    config, data = load(tmp_path)
    findings = by_check(data_checks.check_index(config, data))
    assert failed(findings) == {"empty_images"}
    finding = findings["empty_images"]
    empty = content_checks.find_empty_images(data.train)
    count, first = int(empty.sum()), data.train.names[int(empty.argmax())]
    assert 200 < count < 300
    assert finding.line == (
        f"empty_images: {count} of 300 training images have a single colour, such as {first}; their median"
        " brightness is 0 of 255; at most 50% may: such an image shows nothing else. Look at them, and at what wrote"
        " them: an integer division (pixels // 255), a wrong path, a failed decoder."
    )
    assert finding.causes == ("empty_images",)
    assert findings["outlier_images"].seen == "no outliers are looked for, because most images are empty"
    assert data_checks.outlier_pictures(data) == []


def noise(label: int, rng: np.random.Generator) -> np.ndarray:
    return np.clip(rng.normal(20, 1, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def mask(label: int, rng: np.random.Generator) -> np.ndarray:
    """A mask of the values 0 and 1: dark to the eye, but it shows a shape."""
    y, x = np.mgrid[:SIDE, :SIDE] - rng.integers(4, 12, 2)[:, None, None]
    inside = (np.abs(x) < 3) & (np.abs(y) < 3) if label else x**2 + y**2 < 9
    return np.repeat(inside[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize(("draw", "empty"), [(photograph, 0.0), (noise, 1.0), (mask, 0.0)])
def test_noise_is_empty_and_a_dark_mask_is_not(draw: Draw, empty: float, tmp_path: pathlib.Path) -> None:
    write(tmp_path, two_classes(20, 5), draw)
    assert content_checks.find_empty_images(load(tmp_path)[1].train).mean() == empty


def test_up_to_half_of_the_images_may_be_empty() -> None:
    _, data = load_shapes()
    assert content_checks.check_empty_images(data).line.startswith("empty_images: 0 of 300 training images have")
    black = dataclasses.replace(
        data.train, columns={name: column.copy() for name, column in data.train.columns.items()}
    )
    for column in ("sums", "squares", "laplacian"):
        black.columns[column][:151] = 0
    assert not content_checks.check_empty_images(dataclasses.replace(data, train=black)).ok
    black = black.take(np.arange(2, 300))
    assert content_checks.check_empty_images(dataclasses.replace(data, train=black.take(np.arange(1, 297)))).ok
