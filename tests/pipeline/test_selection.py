"""The drop list: outliers, duplicates and listed images, each with its reason."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
from PIL import Image

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.index import Index
from evenkeel.pipeline.prepare import near_duplicates
from evenkeel.pipeline.selection import Drop, drop_list
from tests.indexes import enlarge, images, index_of, render_images


def drop_reasons(drop: str, train: Index, validation: Index) -> dict[int, str]:
    dropped = drop_list(drop, train, {"validation": validation}, train)
    return {row: reason for row, (_, reason) in dropped.items()}


def test_later_copies_and_copies_of_validation_images_are_dropped() -> None:
    a, b, c, d = images(4)
    train, validation = index_of([a, b, a, b, c, d]), index_of([d])
    assert drop_reasons("duplicates", train, validation) == {
        2: "duplicate of image_0.png",
        3: "duplicate of image_1.png",
        5: "duplicate of image_0.png in validation",
    }


def test_copies_of_images_of_a_test_split_are_dropped() -> None:
    a, b, c = images(3)
    train = index_of([a, b, c])
    held_out = {"validation": index_of([b]), "split test": index_of([c])}
    assert drop_list("duplicates", train, held_out, train) == {
        1: Drop("equal to held-out images", "duplicate of image_0.png in validation"),
        2: Drop("equal to held-out images", "duplicate of image_0.png in split test"),
    }


def test_equal_images_with_two_labels_are_all_dropped() -> None:
    a, b, c = images(3)
    assert drop_reasons("duplicates", index_of([a, b, b, c]), index_of([c])) == {
        1: "equal to image_2.png of another class",
        2: "equal to image_1.png of another class",
        3: "duplicate of image_0.png in validation",
    }


def test_near_duplicates_of_one_class_or_of_held_out_images_are_dropped() -> None:
    a, b, c = render_images(3, size=40)
    train = index_of([a, b, enlarge(a), b[:, ::-1], a[:, ::-1], c])
    assert drop_reasons("duplicates", train, index_of([enlarge(c)])) == {
        2: "near duplicate of image_0.png",
        3: "near duplicate of image_1.png",
        4: "near duplicate of image_0.png",
        5: "near duplicate of image_0.png in validation",
    }


def test_near_duplicates_with_two_labels_are_kept() -> None:
    a, b = render_images(2, size=40)
    assert drop_reasons("duplicates", index_of([a, enlarge(a), b]), index_of([b[:8]])) == {}


def test_a_copy_of_a_dropped_image_is_kept_if_it_is_no_copy_of_a_kept_one() -> None:
    """The middle one of three images, each of which differs from the next by 30 bits of its hash."""
    train = index_of([image for image in images(3) for _ in range(2)])
    for number, row in enumerate((0, 2, 4)):
        train.columns["sums"][row] = train.columns["sums"][0]
        train.columns["perceptual_hash"][row] = [1, (1 << 30 * number) - 1, 0, 0]
    rows = train.take(np.array([0, 2, 4]))
    assert near_duplicates.find_near_duplicates(rows).pairs.tolist() == [[0, 1], [1, 2]]
    assert drop_reasons("duplicates", rows, rows.take(np.array([], np.int64))) == {1: "near duplicate of image_0.png"}


def test_outliers_of_the_training_split_are_dropped() -> None:
    train = index_of([*render_images(60), np.zeros((24, 24, 3), np.uint8)])
    reasons = drop_reasons("outliers", train, train)
    assert reasons[60].startswith("outlier: ")
    assert len(reasons) <= 3


def test_listed_images_are_dropped(tmp_path: pathlib.Path) -> None:
    train = index_of(images(4))
    (tmp_path / "bad.txt").write_text("image_2.png\n\nimage_0.png\n")
    dropped = drop_list(f"{tmp_path}/bad.txt", train.take(np.array([0, 1, 2])), {"validation": train}, train)
    assert dropped == {0: Drop("listed", "named in bad.txt"), 2: Drop("listed", "named in bad.txt")}


def test_several_criteria_are_combined(tmp_path: pathlib.Path) -> None:
    a, b, _, _ = images(4)
    train = index_of([a, b, a])
    (tmp_path / "bad.txt").write_text("image_1.png")
    empty = train.take(np.array([], np.int64))
    assert sorted(drop_reasons(f"duplicates,{tmp_path}/bad.txt", train, empty)) == [1, 2]


def test_an_unknown_name_and_a_missing_file_are_errors(tmp_path: pathlib.Path) -> None:
    train = index_of(images(2))
    (tmp_path / "bad.txt").write_text("image_0.png\nimage_7.png\nimage_8.png\n")
    with pytest.raises(
        UsageError, match=r"bad.txt \(data.drop\) names 'image_7.png', but the data set has no such image"
    ):
        drop_reasons(f"{tmp_path}/bad.txt", train, train)
    with pytest.raises(
        UsageError, match=r"^data.drop \(outlier\) is neither outliers, nor duplicates, nor a text file"
    ):
        drop_reasons("outlier", train, train)


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
    assert data.dropped == {"equal to held-out images": 3}
    assert "3 of 43 training images are dropped (data.drop=duplicates): 3 equal to held-out images" in caplog.messages
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


def test_near_duplicates_of_every_split_are_dropped(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path / "cache"))
    pictures = render_images(30, size=40)
    files = {f"train/{'cat' if number % 2 else 'dog'}/{number:02}.png": pictures[number] for number in range(20)}
    files |= {f"val/{'cat' if number % 2 else 'dog'}/{number:02}.png": pictures[number] for number in range(20, 25)}
    files |= {f"test/{'cat' if number % 2 else 'dog'}/{number:02}.png": pictures[number] for number in range(25, 30)}
    files |= {
        "train/dog/20.jpg": enlarge(pictures[20]),  # of validation
        "train/cat/25.jpg": pictures[25][:, ::-1],  # of test
        "train/cat/01b.jpg": enlarge(pictures[1]),
        "train/dog/03b.jpg": pictures[3],  # in another class
        "train/dog/02b.png": pictures[2],
    }
    for name, pixels in files.items():
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "pets" / name)
    config = DataConfig(source=str(tmp_path / "pets"), image_size=16, drop="duplicates")
    data = load_dataset(config)
    skipped = [line.removeprefix("train: ") for line in data.skipped]
    assert {line for line in skipped if " in " in line} == {
        "train/dog/20.jpg: near duplicate of val/dog/20.png in validation",
        "train/cat/25.jpg: near duplicate of test/cat/25.png in split test",
    }
    # Which one of two training images is kept depends on their order in the shards.
    assert {frozenset(line.split(f": {kind} of ")) for kind in ("duplicate", "near duplicate") for line in skipped} >= {
        frozenset(("train/cat/01b.jpg", "train/cat/01.png")),
        frozenset(("train/dog/02b.png", "train/dog/02.png")),
    }
    counts = {
        "equal to other training images": 1,
        "near duplicates of held-out images": 2,
        "near duplicates of other training images": 1,
    }
    assert data.dropped == counts
    assert (
        "4 of 25 training images are dropped (data.drop=duplicates): 1 equal to other training images, 2 near"
        " duplicates of held-out images, 1 near duplicates of other training images"
    ) in caplog.messages
    on_test = load_dataset(dataclasses.replace(config, validation_split="test"))
    assert on_test.train.names == data.train.names, "whatever split is evaluated, the training images are the same"


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
