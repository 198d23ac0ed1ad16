"""The drop list: outliers, duplicates and listed images, each with its reason."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from PIL import Image

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.selection import drop_list
from tests.indexes import images, index_of, render_images


def test_later_copies_and_copies_of_validation_images_are_dropped() -> None:
    a, b, c, d = images(4)
    train, validation = index_of([a, b, a, c, b, d]), index_of([d])
    assert drop_list("duplicates", train, validation, train) == {
        2: "duplicate of image_0.png",
        4: "duplicate of image_1.png",
        5: "duplicate of image_0.png in validation",
    }


def test_outliers_of_the_training_split_are_dropped() -> None:
    train = index_of([*render_images(60), np.zeros((24, 24, 3), np.uint8)])
    reasons = drop_list("outliers", train, train, train)
    assert reasons[60].startswith("outlier: ")
    assert len(reasons) <= 3


def test_listed_images_are_dropped(tmp_path: pathlib.Path) -> None:
    train = index_of(images(4))
    (tmp_path / "bad.txt").write_text("image_2.png\n\nimage_0.png\n")
    reasons = drop_list(f"{tmp_path}/bad.txt", train.take(np.array([0, 1, 2])), train, train)
    assert reasons == {0: "named in bad.txt", 2: "named in bad.txt"}


def test_several_criteria_are_combined(tmp_path: pathlib.Path) -> None:
    a, b, _, _ = images(4)
    train = index_of([a, b, a])
    (tmp_path / "bad.txt").write_text("image_1.png")
    empty = train.take(np.array([], np.int64))
    assert sorted(drop_list(f"duplicates,{tmp_path}/bad.txt", train, empty, train)) == [1, 2]


def test_an_unknown_name_and_a_missing_file_are_errors(tmp_path: pathlib.Path) -> None:
    train = index_of(images(2))
    (tmp_path / "bad.txt").write_text("image_0.png\nimage_7.png\nimage_8.png\n")
    with pytest.raises(
        UsageError, match=r"bad.txt \(data.drop\) names 'image_7.png', but the data set has no such image"
    ):
        drop_list(f"{tmp_path}/bad.txt", train, train, train)
    with pytest.raises(
        UsageError, match=r"^data.drop \(outlier\) is neither outliers, nor duplicates, nor a text file"
    ):
        drop_list("outlier", train, train, train)


@pytest.fixture
def pets(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """40 training images, the first of them stored three times and once in `test`; one black and one corrupt image."""
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path / "cache"))
    pictures = [
        *render_images(40, size=16),
        render_images(1, size=16)[0],
        render_images(1, size=16)[0],
        np.zeros((16, 16, 3), np.uint8),
    ]
    for number, pixels in enumerate(pictures):
        path = tmp_path / f"pets/train/{'cat' if number % 2 else 'dog'}/{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (tmp_path / "pets/train/cat/corrupt.png").write_bytes(b"no image")
    for number, pixels in enumerate(render_images(3, size=16)[:1] + render_images(60, size=16)[50:]):
        path = tmp_path / f"pets/test/{'cat' if number % 2 else 'dog'}/{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return str(tmp_path / "pets")


def test_dropped_images_are_not_in_the_training_split_and_have_a_reason(
    pets: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = DataConfig(source=pets, image_size=16, max_corrupt_fraction=0.1)
    assert len(load_dataset(config).train) == 43
    data = load_dataset(DataConfig(source=pets, image_size=16, max_corrupt_fraction=0.1, drop="duplicates"))
    assert len(data.train) == 40
    assert len(data.validation) == 11
    assert "3 of 43 training images are dropped (data.drop=duplicates)" in caplog.messages
    reason = "duplicate of test/dog/00.png in validation"
    assert set(data.skipped) == {
        "train: train/cat/corrupt.png: cannot be decoded as an image: it is a text file",
        *(f"train: train/{path}: {reason}" for path in ("dog/00.png", "dog/40.png", "cat/41.png")),
    }
    assert not set(data.train.names) & {
        "train/dog/00.png",
        "train/dog/40.png",
        "train/cat/41.png",
        "train/cat/corrupt.png",
    }


def test_dropped_images_count_neither_as_corrupt_nor_for_normalization(pets: str) -> None:
    """One of 44 images is corrupt; a limit just above that must hold regardless of the drop list."""
    whole = load_dataset(DataConfig(source=pets, image_size=16, max_corrupt_fraction=0.03))
    data = load_dataset(DataConfig(source=pets, image_size=16, max_corrupt_fraction=0.03, drop="outliers,duplicates"))
    assert any("train/dog/42.png: outlier: " in line for line in data.skipped)
    assert "train/dog/42.png" not in data.train.names
    assert data.mean[0] > whole.mean[0]
    assert data.class_counts.sum() == len(data.train)


def test_dropping_everything_is_refused(pets: str, tmp_path: pathlib.Path) -> None:
    names = load_dataset(DataConfig(source=pets, image_size=16, max_corrupt_fraction=0.1)).train.names
    (tmp_path / "all.txt").write_text("\n".join(names))
    with pytest.raises(
        UsageError,
        match=r"^data.drop \(.*all.txt\) leaves no training image: shorten the drop list, or leave data.drop out\.$",
    ):
        load_dataset(DataConfig(source=pets, image_size=16, max_corrupt_fraction=0.1, drop=f"{tmp_path}/all.txt"))
