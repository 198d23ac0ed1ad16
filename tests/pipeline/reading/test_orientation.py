"""A picture with an EXIF orientation looks like the upright picture, on every road to the network."""

from __future__ import annotations

import io
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from evenkeel.pipeline.build import evaluation_batches, training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig, PrepareConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.prepare.prepare import prepare
from evenkeel.pipeline.reading import serving

SIZE = 16
# How Pillow stores an upright picture so that the orientation turns it upright again.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encode(upright: Image.Image, orientation: int, suffix: str) -> bytes:
    """The picture turned away, with the tag that turns it back; without a tag for orientation 1."""
    method = STORED[orientation]
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    options = {"exif": exif} if method is not None else {}
    stored = upright if method is None else upright.transpose(method)
    file_format, quality = {"jpg": ("JPEG", {"quality": 95, "subsampling": 0}), "png": ("PNG", {}),
                            "webp": ("WEBP", {"lossless": True})}[suffix]  # fmt: skip
    stored.save(file, file_format, **options, **quality)
    return file.getvalue()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """{"turned" and "upright": folders with the same pictures, with and without orientations}; no side is square."""
    root = tmp_path_factory.mktemp("folders")
    rng = np.random.default_rng(0)
    number = 0
    for suffix in ("jpg", "png", "webp"):
        for orientation in STORED:
            number += 1
            # Blocks of 16 pixels: a JPEG keeps them, so that the two differ by rounding at most.
            blocks = np.kron(rng.integers(0, 256, (3, 5, 3)), np.ones((16, 16, 1))).astype(np.uint8)
            for name, tag in (("turned", orientation), ("upright", 1)):
                for split in ("train", "validation"):
                    path = root / name / split / "ab"[number % 2] / f"{number:02}.{suffix}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(encode(Image.fromarray(blocks), tag, suffix))
    return {name: root / name for name in ("turned", "upright")}


def same(found: np.ndarray, expected: np.ndarray, different: float = 0.0) -> None:
    """Whether at most a share of the values differ by more than what rounding and a JPEG's quality can explain."""
    assert (np.abs(found.astype(int) - expected) > 3).mean() <= different


def load(source: pathlib.Path, **changes: object) -> tuple[np.ndarray, np.ndarray]:
    """(a training batch, all validation images)."""
    config = DataConfig(source=str(source), image_size=SIZE, batch_size=24, **changes)  # type: ignore[arg-type]
    data, shard = load_dataset(config), ReplicaShard(24)
    assert data.skipped == ()
    images, _ = next(iter(training_batches(data, config, 0, shard)))
    validation = next(iter(evaluation_batches(data.validation, config, shard)))[0]
    order = np.argsort(data.validation.names)
    return images.numpy(), validation.numpy()[order]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"cache": "none"},
        {"cache": "none", "augment": AugmentConfig(random_resized_crop=0.9, flip=0.5)},
        {"cache": "memory", "augment": AugmentConfig(random_resized_crop=0.9)},
        {"cache": "auto", "augment": AugmentConfig(flip=0.5)},
        {"cache": "none", "reader": "streaming"},
    ],
    ids=["mapped", "cropped", "cached whole", "cached small", "streamed"],
)
def test_batches_are_those_of_upright_pictures(folders: dict[str, pathlib.Path], changes: dict) -> None:
    turned, upright = (load(folders[name], **changes) for name in ("turned", "upright"))
    same(turned[1], upright[1])
    if changes.get("reader") != "streaming":  # whose order depends on the order of the shards
        same(turned[0], upright[0])


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["jpeg", "jpeg:32:98", "raw:32"])
def test_prepared_pictures_are_those_of_upright_pictures(
    folders: dict[str, pathlib.Path], tier: str, tmp_path: pathlib.Path
) -> None:
    for name, folder in folders.items():
        prepare(PrepareConfig(source=str(folder), tier=tier), str(tmp_path / name))
    turned, upright = (load(tmp_path / name, cache="none")[1] for name in ("turned", "upright"))
    same(turned, upright)


@pytest.mark.slow
def test_a_served_model_sees_what_evaluation_sees(folders: dict[str, pathlib.Path]) -> None:
    paths = sorted((folders["turned"] / "validation").rglob("*.*"), key=lambda path: str(path))
    read = serving.image_reader(DataConfig(image_size=SIZE))
    images, errors = read(tf.constant([path.read_bytes() for path in paths]))
    assert set(errors.numpy()) == {b""}
    np.testing.assert_array_equal(images, load(folders["turned"], cache="none")[1])
