"""Encoded images in an exported graph: the pixels that evaluation shows; a bad image affects no other."""

from __future__ import annotations

import io
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from evenkeel.pipeline.build import evaluation_batches
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.images.convert import needs_conversion
from evenkeel.pipeline.images.header import read_header
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.reading import serving
from evenkeel.pipeline.reading.pixel_count import pixel_count
from tests import mutations
from tests.mutations import undecodable

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")


def encode(kind: str, height: int, width: int, seed: int = 0, mode: str = "RGB", **options: object) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).convert(mode).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*FORMATS, "lossless WEBP", "transparent WEBP"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 61), (256, 300)])
def test_pixels_are_counted_from_the_header(kind: str, height: int, width: int) -> None:
    options = {"lossless": True} if kind.startswith("lossless") else {}
    mode = "RGBA" if kind.startswith("transparent") else "RGB"
    contents = encode(kind.split()[-1], height, width, mode=mode, **options)
    assert int(pixel_count(tf.constant(contents))) == height * width


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 16},
        {"image_size": 24, "channels": 1, "eval_crop": 0.875},
        {"image_size": "20x36", "view": "stretch"},
        {"image_size": "36x20", "view": "pad", "background": "20,200,90", "eval_crop": 0.9},
    ],
    ids=["center", "gray", "stretch", "pad"],
)
def test_served_images_equal_those_of_evaluation(options: dict, tmp_path: pathlib.Path) -> None:
    """Images of every format, of sizes that are downscaled while they are decoded, gray and with alpha."""
    (tmp_path / "test/one").mkdir(parents=True)
    for name in ("one", "two"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "0.png").write_bytes(encode("PNG", 16, 16))
    for number, (kind, height, width) in enumerate(
        (kind, *sides) for kind in FORMATS for sides in ((16, 16), (40, 90), (129, 65), (301, 200))
    ):
        for mode in ("RGB", "L", *(("RGBA",) if kind == "PNG" else ())):
            name = f"test/one/{number:02d}-{mode}.{kind.lower().replace('jpeg', 'jpg')}"
            (tmp_path / name).write_bytes(encode(kind, height, width, number, mode))
    config = DataConfig(source=str(tmp_path), validation_split="test", batch_size=1, **options)
    shown = np.concatenate(
        [images for images, *_ in evaluation_batches(load_dataset(config).validation, config, ReplicaShard(1))]
    )
    files = sorted((tmp_path / "test/one").iterdir())
    read = tf.function(serving.image_reader(config))
    images, errors = read(tf.constant([file.read_bytes() for file in files]))
    assert set(errors.numpy()) == {b""}
    assert len(shown) == len(files) == 44

    def sort(images: np.ndarray) -> np.ndarray:  # the index has another order
        return images[np.lexsort(images.reshape(len(images), -1).T)]

    np.testing.assert_array_equal(sort(images.numpy()), sort(shown))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_a_transparent_colour_is_refused(kind: str) -> None:
    """The decoder would show it black; training converts such files."""
    image = Image.new("L", (16, 16), 0)
    image.paste(90, (5, 0, 16, 16))
    contents = []
    for options in ({}, {"transparency": 0}):
        file = io.BytesIO()
        image.save(file, kind, **options)
        contents.append(file.getvalue())
    assert [needs_conversion(image) for image in contents] == [False, True]
    read = tf.function(serving.image_reader(DataConfig(image_size=8)))
    _, errors = read(tf.constant(contents))
    assert errors.numpy().tolist() == [b"", serving.UNREADABLE.encode()]


@pytest.mark.slow
def test_a_bad_image_leaves_the_others_intact() -> None:
    good = encode("JPEG", 40, 60)
    bomb = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + (60_000).to_bytes(4, "big") * 2 + b"\x08\2\0\0\0"
    animated = encode("WEBP", 9, 9, save_all=True, append_images=[Image.new("RGB", (9, 9))])
    assert read_header(animated).refusal
    large = encode("PNG", 1200, 1200)
    batch = [good, good[:300], b"", b"no image", large, bomb, b"\xff\xd8\xff", animated, encode("BMP", 9, 9)[:-9], good]
    images, errors = tf.function(serving.image_reader(DataConfig(image_size=16, max_pixels=10**6)))(tf.constant(batch))
    assert images.shape == (10, 16, 16, 3)
    messages = [error.decode() for error in errors.numpy()]
    assert messages == ["", *[serving.UNREADABLE] * 3, "it has more than 1000000 pixels", *[serving.UNREADABLE] * 4, ""]
    np.testing.assert_array_equal(images[0], images[-1])
    assert images[0].numpy().std() > 0
    assert not images[1:9].numpy().any()


@pytest.mark.slow
def test_mutated_images_are_read_or_refused(tmp_path: pathlib.Path) -> None:
    """The graph refuses what the pipeline refuses or converts when it is stored, except for damage outside the crop."""
    files = mutations.folder(tmp_path, range(300))
    read = tf.function(serving.image_reader(DataConfig(image_size=16)))
    _, errors = read(tf.constant(list(files.values())))
    refused = {name for name, error in zip(files, errors.numpy(), strict=True) if error}
    bad = {name for name in files if undecodable(files[name])}
    assert refused <= bad | {name for name, contents in files.items() if needs_conversion(contents)}
    assert len(bad - refused) <= 0.05 * len(bad)
    assert 20 < len(bad) < len(files) - 20
