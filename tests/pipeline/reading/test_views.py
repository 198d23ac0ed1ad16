"""What the network sees of images that have other proportions than the model: cut, stretched or padded."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from PIL import Image

from evenkeel.pipeline.build import evaluation_batches, training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig, PrepareConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.prepare.prepare import prepare

HEIGHT, WIDTH = 40, 160
RED, GRAY = (220, 30, 30), (128, 128, 128)
BACKGROUND = (10, 200, 60)


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Wide gray pictures with a red stripe at the left or the right end: PNG, raw, and turned by an orientation."""
    root = tmp_path_factory.mktemp("stripes")
    exif = Image.Exif()
    exif[0x0112] = 6
    for side in ("left", "right"):
        picture = Image.new("RGB", (WIDTH, HEIGHT), GRAY)
        picture.paste(RED, (0 if side == "left" else WIDTH - 20, 0, 20 if side == "left" else WIDTH, HEIGHT))
        for split in ("train", "validation"):
            for kind in ("png", "turned"):
                path = root / kind / split / side / "picture.png"
                path.parent.mkdir(parents=True)
                if kind == "png":
                    picture.save(path)
                else:
                    picture.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    prepare(PrepareConfig(source=str(root / "png"), tier="raw:40", outliers="keep"), str(root / "raw"))
    return {kind: root / kind for kind in ("png", "turned", "raw")}


def show(source: pathlib.Path, **options: object) -> tuple[np.ndarray, np.ndarray]:
    """The left and the right stripe, as evaluation shows them."""
    config = DataConfig(source=str(source), batch_size=2, background=",".join(map(str, BACKGROUND)), **options)  # type: ignore[arg-type]
    data, shard = load_dataset(config), ReplicaShard(2)
    images, labels, _ = next(iter(evaluation_batches(data.validation, config, shard)))
    trained, trained_labels = next(iter(training_batches(data, config, 0, shard)))
    order = np.argsort(labels)
    shown = images.numpy()[order]
    if not config.augment.random_resized_crop:
        np.testing.assert_array_equal(shown, trained.numpy()[np.argsort(trained_labels)])
    left, right = shown
    return left, right


def is_color(pixels: np.ndarray, color: tuple[int, int, int]) -> bool:
    return pixels.size > 0 and bool(np.abs(pixels.astype(int) - color).max() <= 3)


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "memory"])
@pytest.mark.parametrize("kind", ["png", "turned", "raw"])
def test_the_center_cuts_the_ends_off(stripes: dict[str, pathlib.Path], kind: str, cache: str) -> None:
    left, right = show(stripes[kind], image_size=20, cache=cache)
    assert is_color(left, GRAY)
    assert is_color(right, GRAY)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["png", "turned", "raw"])
@pytest.mark.parametrize("size", [20, "10x30"])
def test_stretching_shows_the_whole_picture(stripes: dict[str, pathlib.Path], kind: str, size: int | str) -> None:
    left, right = show(stripes[kind], image_size=size, view="stretch")
    assert left.shape == (*DataConfig(image_size=size).image_shape, 3)
    stripe = left.shape[1] // 8
    assert is_color(left[:, : stripe - 1], RED)
    assert is_color(left[:, stripe + 2 :], GRAY)
    np.testing.assert_allclose(left[:, ::-1].astype(int), right, atol=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["png", "turned", "raw"])
@pytest.mark.parametrize(("size", "first", "last"), [(40, 15, 25), ("20x60", 3, 18), ("60x40", 25, 35)])
def test_padding_shows_the_whole_picture_on_the_background(
    stripes: dict[str, pathlib.Path], kind: str, size: int | str, first: int, last: int
) -> None:
    """Rows `first` to `last` hold the picture, in its own proportions."""
    left, right = show(stripes[kind], image_size=size, view="pad")
    assert is_color(left[:first], BACKGROUND)
    assert is_color(left[last:], BACKGROUND)
    middle, stripe = left[first:last], left.shape[1] // 8
    assert is_color(middle[:, : stripe - 1], RED)
    assert is_color(middle[:, stripe + 2 :], GRAY)
    np.testing.assert_allclose(left[:, ::-1].astype(int), right, atol=2)


@pytest.mark.slow
def test_the_center_of_a_shape_like_the_picture_is_the_whole_picture(stripes: dict[str, pathlib.Path]) -> None:
    for stretched, centered in zip(
        show(stripes["png"], image_size="10x40", view="stretch"), show(stripes["png"], image_size="10x40"), strict=True
    ):
        np.testing.assert_array_equal(stretched, centered)


@pytest.mark.slow
@pytest.mark.parametrize("view", ["center", "stretch", "pad"])
def test_random_crops_have_the_shape_of_the_model(stripes: dict[str, pathlib.Path], view: str) -> None:
    augment = AugmentConfig(random_resized_crop=0.5, flip=0.5)
    left, right = show(stripes["turned"], image_size="12x24", view=view, augment=augment)
    assert left.shape == right.shape == (12, 24, 3)
