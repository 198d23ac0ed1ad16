"""Folders of images: what is found, what is held out, and which folders are refused."""

from __future__ import annotations

import logging
import os
import pathlib

import pytest

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.sources.image_folder import FolderFiles, class_names, scan_folder
from evenkeel.pipeline.system.printable import printable
from tests.pipeline.sources.folders import (
    encode_picture,
    make_folder,
    open_pictures,
    png_paths,
    read_files,
    source_error,
)


def split_of(files: FolderFiles) -> dict[str, str]:
    """{path: split/class}."""
    return {path: f"{split}/{name}" for split, paths in files.items() for path, name in paths.items()}


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["cat/1.png", "dog/1.png"], ["train/cat", "train/dog"]),
        (["cat/2023/1.png", "cat/2024/2.png", "dog/1.png"], ["train/cat", "train/cat", "train/dog"]),
        (["train/cat/1.png", "train/dog/kaggle/x.png"], ["train/cat", "train/dog"]),
        (["Training/cat/1.png", "Training/dog/1.png", "Testing/cat/1.png"], ["train/cat", "train/dog", "test/cat"]),
        (["TRAIN/a/1.png", "TRAIN/b/1.png", "Validation/a/1.png"], ["train/a", "train/b", "validation/a"]),
        (["train/a/1.png", "train/b/1.png", "eval/a/1.png"], ["train/a", "train/b", "validation/a"]),
        (["train_set/a/1.png", "train_set/b/1.png", "test_set/a/1.png"], ["train/a", "train/b", "test/a"]),
        (["trainset/a/1.png", "trainset/b/1.png", "dev/a/1.png"], ["train/a", "train/b", "validation/a"]),
        (["PetImages/Cat/1.png", "PetImages/Dog/1.png"], ["train/Cat", "train/Dog"]),
        (["data/x/train/a/1.png", "data/x/train/b/1.png", "data/x/test/a/1.png"], ["train/a", "train/b", "test/a"]),
        (["train/1.png", "car/1.png", "plane/1.png"], ["train/train", "train/car", "train/plane"]),
        (["train/steam/1.png", "car/1.png", "plane/1.png"], ["train/train", "train/car", "train/plane"]),
        (["holdout/1.png", "kept/1.png"], ["train/holdout", "train/kept"]),
        (["a\nb/1.png", "c/1.png"], ["train/a\\nb", "train/c"]),
        ([" dog/1.png", "dog /2.png", "dog/3.png"], ["train/\\x20dog", "train/dog\\x20", "train/dog"]),
    ],
)
def test_only_the_usual_names_are_splits_and_all_below_a_class_belongs_to_it(
    paths: list[str], expected: list[str], tmp_path: pathlib.Path
) -> None:
    found = split_of(scan_folder(make_folder(tmp_path / "pets", *paths)))
    assert [found[path] for path in paths] == expected


def test_other_folders_beside_the_splits_are_named(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_folder(tmp_path / "pets", "train/cat/1.png", "train/dog/1.png", "test/cat/2.png", "extra/cat/3.png")
    assert sorted(split_of(scan_folder(root))) == ["test/cat/2.png", "train/cat/1.png", "train/dog/1.png"]
    assert caplog.messages == [
        f"1 images of {root} are ignored, because they lie outside of the folders of classes: extra/cat/3.png"
    ]


def test_a_folder_of_one_split_that_is_not_training_is_an_error(tmp_path: pathlib.Path) -> None:
    root = make_folder(tmp_path / "pets", "val/cat/1.png", "val/dog/1.png", "test/cat/1.png", "test/dog/1.png")
    expected = f"data.source ({root}) has only the splits test, validation and no training images: add a folder named"
    assert source_error(root) == f"{expected} train."


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG", ".gif", "", ".dat"])
def test_the_contents_of_a_file_decide_not_its_ending(suffix: str, tmp_path: pathlib.Path) -> None:
    root = make_folder(tmp_path / "pets", "cat/1.png", "dog/1.png")
    kind = "GIF" if suffix == ".gif" else "JPEG"
    (tmp_path / "pets" / "cat" / f"2{suffix}").write_bytes(encode_picture(7, kind))
    assert f"cat/2{suffix}" in scan_folder(root)["train"]


def test_a_class_may_lack_images_in_one_split(tmp_path: pathlib.Path) -> None:
    root = make_folder(tmp_path / "pets", "train/cat/1.png", "train/dog/1.png", "test/cat/2.png")
    opened = open_pictures(root)
    assert list(opened.index.features.classes) == ["cat", "dog"]
    assert read_files(opened, "test")["test/cat/2.png"][1] == "cat"


def test_classes_are_sorted_by_name_even_if_they_are_numbers(tmp_path: pathlib.Path) -> None:
    root = make_folder(tmp_path / "digits", *(f"train/{digit}/{digit}.png" for digit in (10, 9, 1, 0)))
    opened = open_pictures(root)
    assert list(opened.index.features.classes) == ["0", "1", "10", "9"]
    assert {path: kind for path, (_, kind) in read_files(opened, "train").items()} == {
        f"train/{digit}/{digit}.png": str(digit) for digit in (0, 1, 9, 10)
    }


def test_names_in_any_language_and_with_spaces_are_kept(tmp_path: pathlib.Path) -> None:
    root = make_folder(tmp_path / "tiere", "train/große katze/ä b.png", "train/犬/1.png")
    opened = open_pictures(root)
    assert sorted(read_files(opened, "train")) == ["train/große katze/ä b.png", "train/犬/1.png"]
    assert list(opened.index.features.classes) == ["große katze", "犬"]


def test_hidden_files_and_folders_are_ignored_without_a_warning(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_folder(
        tmp_path / "pets", "train/cat/1.png", "train/dog/1.png", "train/cat/.hidden.png", ".git/cat/2.png"
    )
    make_folder(tmp_path / "pets", "train/.ipynb_checkpoints/1.png", ".DS_Store")
    with caplog.at_level(logging.WARNING):
        assert scan_folder(root) == {"train": {"train/cat/1.png": "cat", "train/dog/1.png": "dog"}}
    assert caplog.messages == []


def test_a_warning_counts_files_that_are_no_images(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_folder(tmp_path / "pets", "train/cat/1.png", "train/dog/1.png", "top.png")
    for name in ("train/cat/labels.txt", "train/cat/notes"):
        (tmp_path / "pets" / name).write_text("text")
    with caplog.at_level(logging.WARNING):
        assert scan_folder(root) == {"train": {"train/cat/1.png": "cat", "train/dog/1.png": "dog"}}
    assert caplog.messages == [
        f"2 files of {root} are ignored, because they are no images: train/cat/labels.txt, train/cat/notes",
        f"1 images of {root} are ignored, because they lie outside of the folders of classes: top.png",
    ]


def test_a_folder_without_images_is_an_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("text")
    root = str(tmp_path / "pets")
    assert source_error(root) == (
        f"data.source ({root}) holds no images: it needs SPLIT/CLASS/IMAGE or CLASS/IMAGE; it holds 1 other files, such"
        " as cat/notes.txt."
    )


def test_a_flat_folder_of_images_says_what_to_do(tmp_path: pathlib.Path) -> None:
    root = make_folder(tmp_path / "pets", *(f"{number}.png" for number in range(3)))
    assert source_error(root) == (
        f"data.source ({root}) holds 3 images, but no folders of classes: put the images of each class into a folder"
        " that has the name of the class."
    )


@pytest.mark.parametrize("paths", [("cat/1.png", "cat/2.png"), ("train/cat/1.png", "test/cat/2.png")])
def test_a_single_class_is_an_error(tmp_path: pathlib.Path, paths: tuple[str, ...]) -> None:
    root = make_folder(tmp_path / "pets", *paths)
    assert source_error(root) == (
        f"data.source ({root}) has only one class (cat): classification needs at least two, each in a folder of its"
        " own."
    )


def test_cyclic_links_are_not_followed(pets: str) -> None:
    before = scan_folder(pets)
    os.symlink("..", f"{pets}/train/cat/again")
    assert scan_folder(pets) == before


def test_an_empty_folder_is_no_class_and_logged_as_a_warning(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_folder(tmp_path / "pets", "cat/1.png", "dog/1.png")
    (tmp_path / "pets" / "bird").mkdir()
    with caplog.at_level(logging.WARNING):
        assert class_names(scan_folder(root)) == ["cat", "dog"]
    assert caplog.messages == [f"1 folders of {root} are ignored, because they are empty: bird"]


@pytest.mark.parametrize("name", ["new\nline.jpg", "sp ace.jpg", "\u00fcml\u00e4ut.jpg", "-flag.jpg", "a'b\"c$d.jpg"])
def test_unusual_file_names_are_accepted(name: str, pets: str) -> None:
    pathlib.Path(f"{pets}/train/cat/{name}").write_bytes(encode_picture(0))
    data = load_dataset(DataConfig(source=pets, image_size=8))
    assert f"train/cat/{printable(name)}" in data.train.names


def test_a_file_name_that_is_not_utf_8_is_read_and_shown_with_escapes(pets: str) -> None:
    pathlib.Path(os.fsdecode(os.fsencode(pets) + b"/train/cat/\xff.jpg")).write_bytes(encode_picture(0, "JPEG"))
    data = load_dataset(DataConfig(source=pets, image_size=8))
    assert "train/cat/\\xff.jpg" in data.train.names


def test_a_corrupt_image_of_a_folder_is_named_by_its_path(tmp_path: pathlib.Path) -> None:
    root = make_folder(
        tmp_path / "pets", *(f"train/{path}" for path in png_paths(10)), "val/cat/1.png", "val/dog/1.png"
    )
    (tmp_path / "pets/train/dog/3.png").write_bytes(b"no picture")
    found = load_dataset(DataConfig(source=root, image_size=8, max_corrupt_fraction=0.1))
    assert found.skipped == ("train: train/dog/3.png: cannot be decoded as an image: it is a text file",)
    assert len(found.train) == 19
    assert len(found.validation) == 2
    assert found.classes == ("cat", "dog")
