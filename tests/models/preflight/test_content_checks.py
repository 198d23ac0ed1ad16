"""Whether images show anything, whether there are enough, and whether the splits have the same classes."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from evenkeel.models.config import TrainConfig
from evenkeel.models.preflight import config_checks, content_checks, data_checks
from evenkeel.pipeline.dataset import Dataset, load_dataset
from evenkeel.pipeline.errors import UsageError
from tests.models.preflight.cases import by_check, failed, load_shapes, train_config

SIDE = 16
Draw = Callable[[int, np.random.Generator], np.ndarray]


def stripes(label: int, rng: np.random.Generator) -> np.ndarray:
    """Stripes along, across or aslant, by `label`, uint8 [16, 16, 3]."""
    y, x = np.mgrid[:SIDE, :SIDE]
    wave = 60 * np.sin((x, y, x + y, x - y)[label] / 2 + rng.uniform(0, 6))
    pixels = rng.uniform(110, 140, 3) + wave[..., None] + rng.normal(0, 20, (SIDE, SIDE, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def photograph(label: int, rng: np.random.Generator) -> np.ndarray:
    """As `stripes`; a tenth of the images have a sky of white pixels."""
    pixels = stripes(label, rng)
    if rng.random() < 0.1:
        pixels[:8][rng.random((8, SIDE)) < 0.7] = 255
    return pixels


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


def test_three_images_are_too_few_and_nothing_else_is_said_of_them(tmp_path: pathlib.Path) -> None:
    write(tmp_path, {"train/cat": 1, "train/dog": 2, "test/cat": 1, "test/dog": 2}, stripes)
    config, data = load(tmp_path)
    config = dataclasses.replace(config, epochs=200, data=dataclasses.replace(config.data, batch_size=3))
    findings = by_check([*config_checks.check_config(config, 3, 1), *data_checks.check_index(config, data)])
    assert failed(findings) - {"shared_images"} == {"few_images", "few_validation_images"}
    assert findings["few_images"].line == (
        "few_images: of 3 training images, 1 show cat, the rarest class; there must be at least 20, and 12 of each"
        " class: from fewer, a new network learns little that holds for other images. Collect more images."
    )
    assert findings["few_images"].causes == ("too_few_images",)
    assert findings["outlier_images"].seen == "no outliers are looked for among 3 images"
    assert findings["few_validation_images"].line.startswith(
        "few_validation_images: of 3 validation images, an accuracy of 50% has a 95% interval of 13% to 87%, and one"
    )


def test_a_rare_class_of_few_images_can_be_answered_by_the_most_common(tmp_path: pathlib.Path) -> None:
    write(tmp_path, {"train/cat": 75, "train/dog": 20, "train/ship": 10, "test/cat": 40, "test/dog": 20}, stripes)
    config, data = load(tmp_path)
    findings = by_check(data_checks.check_index(config, data))
    assert failed(findings) == {"few_images"}
    finding = findings["few_images"]
    assert finding.line == (
        "few_images: of 105 training images, 10 show ship, the rarest class; always answering cat is right for 71%;"
        " there must be at least 20, and 12 of each class: from fewer, a new network learns little that holds for other"
        " images. Collect more images of ship. Until then, use --data.balance=classes, or the network may learn to"
        " answer the most common class."
    )
    assert finding.causes == ("class_imbalance",)
    balanced = content_checks.check_image_count(data, balanced=True)
    assert balanced.causes == ("too_few_images",)
    assert "balance" not in balanced.line


@pytest.mark.parametrize("images", [20, 60, 100, 127, 128, 1000])
def test_advice_on_the_batch_does_not_contradict_itself(images: int) -> None:
    for batch in (1, images):
        config = train_config(batch_size=batch)
        findings = by_check(config_checks.check_config(config, images, 1))
        advice = [findings[name].remedy for name in ("batch_large", "batch_small") if not findings[name].ok]
        assert len(advice) == 1
        advised = int(advice[0].removeprefix("Use --data.batch_size=").split(" ")[0].rstrip("."))
        followed = by_check(config_checks.check_config(train_config(batch_size=advised), images, 1))
        assert followed["batch_large"].ok
        assert followed["batch_small"].ok


@pytest.mark.parametrize(
    ("share", "count", "interval"),
    [(0.5, 10, (0.2366, 0.7634)), (0.9, 100, (0.8256, 0.9448)), (0.0, 20, (0.0, 0.1611))],
)
def test_wilson_intervals_are_those_of_tables(share: float, count: int, interval: tuple[float, float]) -> None:
    assert content_checks.wilson_interval(share, count) == pytest.approx(interval, abs=2e-4)


def test_splits_without_a_common_class_are_an_error(tmp_path: pathlib.Path) -> None:
    write(tmp_path, {"train/cat": 5, "train/dog": 5, "test/cats": 5, "test/dogs": 5}, stripes)
    with pytest.raises(UsageError) as error:
        load(tmp_path)
    assert str(error.value) == (
        "no class of split test (cats, dogs) is in split train (cat, dog): cats looks like cat, dogs looks like dog."
        " Give a class the same name in both splits."
    )


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("Dog", " (Dog): Dog looks like dog; a class that is not trained is never answered. Give a class the same"),
        ("ship", " (ship); a class that is not trained is never answered. Add training images of it, or remove"),
    ],
)
def test_a_class_without_training_images_is_compared_with_the_others(
    name: str, end: str, tmp_path: pathlib.Path
) -> None:
    write(tmp_path, {"train/cat": 60, "train/dog": 60, "test/cat": 30, f"test/{name}": 30}, stripes)
    config, data = load(tmp_path)
    findings = by_check(data_checks.check_index(config, data))
    assert failed(findings) == {"class_names"}
    assert findings["class_names"].line.startswith(
        f"class_names: 30 of 60 validation images show classes without training images{end}"
    )
    assert findings["class_names"].causes == ("split_labels",)
