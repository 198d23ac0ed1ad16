"""The picture of augmentations: what stands in it, and what is refused before anything is read."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
from PIL import Image

from evenkeel.pipeline.build import training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from tests import forked
from tests.command_line import refused

ROOT = pathlib.Path(__file__).parents[2]
TINY = ("--data.shapes.size=16", "--data.shapes.count=300", "--data.image_size=16")
TILE, GAP, LABEL = 96, 4, 170  # as the tool lays them out


def drawn_rows(path: pathlib.Path, count: int) -> np.ndarray:
    """uint8 [rows, count, 16, 16, 3]: the images of the picture, scaled back."""
    picture = np.asarray(Image.open(path))
    pitch = TILE + GAP
    rows, rest = divmod(picture.shape[0] - GAP, pitch)
    assert rest == 0
    assert picture.shape[1] == LABEL + count * pitch
    tiles = np.array(
        [
            [picture[GAP + row * pitch :, LABEL + column * pitch :][:TILE:6, :TILE:6] for column in range(count)]
            for row in range(rows)
        ]
    )
    for row in range(rows):
        label = picture[GAP + row * pitch : GAP + row * pitch + TILE, :LABEL]
        assert (label < 128).any(), "a row without its name"
    return tiles


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "rows"), [(3, 19), (1, 17)])  # gray images have neither saturation nor hue
def test_a_row_each_between_the_images_as_they_are_and_as_the_configuration_changes_them(
    small: DataConfig, data: Dataset, tmp_path: pathlib.Path, channels: int, rows: int
) -> None:
    path = tmp_path / "grid.png"
    flags = ["--images=5", "--data.augment.flip=0.5", "--data.augment.cutout=0.5", f"--data.channels={channels}"]
    done = forked.run("tools.show_augmentations", *TINY, *flags, f"--output={path}", "--seed=3")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{path}\n"
    tiles = drawn_rows(path, 5)
    assert len(tiles) == rows
    config = dataclasses.replace(small, batch_size=5, channels=channels)
    for row, augment in ((0, AugmentConfig()), (1, AugmentConfig(flip=1)), (-1, AugmentConfig(flip=0.5, cutout=0.5))):
        batches = training_batches(data, dataclasses.replace(config, augment=augment), 3, ReplicaShard(5))
        np.testing.assert_array_equal(tiles[row], np.broadcast_to(next(iter(batches))[0], tiles[row].shape))
    for row in range(1, rows):
        assert (tiles[row] != tiles[0]).any(), f"row {row} shows nothing"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["--output is missing"]),
        (["--output=grid.jpg"], ["grid.jpg", ".png"]),
        (["--output=no/such/grid.png"], ["no/such/grid.png", "create no/such first"]),
        (["--output=grid.png", "--images=0"], ["--images (0)", "1 to 64"]),
        (["--output=grid.png", "--data.augment.rotation=200"], ["rotation (200.0)", "[0, 180]"]),
        (["--output=grid.png", "--data.channels=1", "--data.augment.hue=0.1"], ["hue (0.1)", "colour"]),
        (["--output=grid.png", "--data.source=shaeps"], ["shaeps", "directory"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(flags: list[str], words: list[str]) -> None:
    line = refused(forked.run("tools.show_augmentations", *flags))
    for word in words:
        assert word in line
    assert not (ROOT / "grid.png").exists()
