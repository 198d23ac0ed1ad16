"""A data set of 12 bits in 16-bit files is shown with all its contrast, on every road to the network."""

from __future__ import annotations

import logging
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from evenkeel.pipeline.build import evaluation_batches, training_batches
from evenkeel.pipeline.config import DataConfig, PrepareConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.prepare.prepare import prepare
from evenkeel.pipeline.reading import serving

SIZE = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Four pictures of 12 bits, one of them so dark that it needs 9, and one TIFF."""
    root = tmp_path_factory.mktemp("deep")
    for number in range(4):
        values = np.random.default_rng(number).integers(0, 300 if number == 3 else 4096, (SIZE, SIZE))
        values[0, 0] = 299 if number == 3 else 4095
        suffix = "tif" if number == 2 else "png"
        for split in ("train", "validation"):
            path = root / split / "ab"[number % 2] / f"{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint16)).save(path)
    return root


def expected(number: int) -> np.ndarray:
    values = np.random.default_rng(number).integers(0, 300 if number == 3 else 4096, (SIZE, SIZE))
    values[0, 0] = 299 if number == 3 else 4095
    return values >> 4


def show(source: pathlib.Path, **options: object) -> np.ndarray:
    """The validation images in the order of their names, uint8 [4, 16, 16]."""
    config = DataConfig(source=str(source), image_size=SIZE, channels=1, batch_size=4, **options)  # type: ignore[arg-type]
    data, shard = load_dataset(config), ReplicaShard(4)
    images = next(iter(evaluation_batches(data.validation, config, shard)))[0].numpy()[..., 0]
    trained = next(iter(training_batches(data, config, 0, shard)))[0].numpy()[..., 0]
    assert sorted(image.tobytes() for image in images) == sorted(image.tobytes() for image in trained)
    pixels = np.concatenate([expected(number).ravel() for number in range(4)])
    assert data.mean[0] == pytest.approx(pixels.mean(), abs=0.6)
    assert data.std[0] == pytest.approx(pixels.std(), rel=0.02)
    return images[np.argsort([pathlib.PurePath(name).stem for name in data.validation.names])]


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "memory"])
def test_the_bits_that_the_files_hold_are_shown_and_told(
    folder: pathlib.Path, cache: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        images = show(folder, cache=cache)
    for number, image in enumerate(images):
        np.testing.assert_array_equal(image, expected(number))
    assert f"16-bit images of {folder} hold only 12 bits: 4095 is shown as white" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["jpeg", "raw:16"])
def test_prepared_images_show_the_same(folder: pathlib.Path, tier: str, tmp_path: pathlib.Path) -> None:
    prepare(PrepareConfig(source=str(folder), tier=tier, outliers="keep"), str(tmp_path / "prepared"))
    for number, image in enumerate(show(tmp_path / "prepared")):
        np.testing.assert_array_equal(image, expected(number))


@pytest.mark.slow
def test_a_served_model_sees_the_same(folder: pathlib.Path) -> None:
    config = DataConfig(image_size=SIZE, channels=1)
    paths = [folder / "validation" / "ab"[number % 2] / f"{number}.png" for number in (0, 1, 3)]
    images, errors = serving.image_reader(config, 12)(tf.constant([path.read_bytes() for path in paths]))
    assert set(errors.numpy()) == {b""}
    for number, image in zip((0, 1, 3), images.numpy(), strict=True):
        np.testing.assert_array_equal(image[..., 0], expected(number))
