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
        (["Pets/cat/1.png", "Pets/dog/1.png", "logo.png"], ["train/cat", "train/dog", None]),
        (
            ["x/train/a/1.png", "x/train/b/1.png", "x/dev/a/1.png", "x/cover.png"],
            ["train/a", "train/b", "validation/a", None],
        ),
        (["test/train/a/1.png", "test/train/b/1.png"], ["train/a", "train/b"]),
        (
            ["train/caf\u00e9/1.png", "train/tea/1.png", "val/cafe\u0301/1.png"],
            ["train/café", "train/tea", "validation/café"],
        ),
        ([" dog/1.png", "dog /2.png", "dog/3.png"], ["train/\\x20dog", "train/dog\\x20", "train/dog"]),
    ],
)
def test_only_the_usual_names_are_splits_and_all_below_a_class_belongs_to_it(
    paths: list[str], expected: list[str | None], tmp_path: pathlib.Path
) -> None:
    found = split_of(scan_folder(make_folder(tmp_path / "pets", *paths)))
    assert [found.get(path) for path in paths] == expected


def test_other_folders_beside_the_splits_are_named(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_folder(tmp_path / "pets", "train/cat/1.png", "train/dog/1.png", "test/cat/2.png", "extra/cat/3.png")
    assert sorted(split_of(scan_folder(root))) == ["test/cat/2.png", "train/cat/1.png", "train/dog/1.png"]
    assert caplog.messages == [
        f"1 images of {root} are ignored, because they lie outside of the folders of classes: extra/cat/3.png"
    ]


@pytest.mark.parametrize(
    ("names", "splits", "folder"), [(("val", "test"), "test, validation", "test"), (("x/val",), "validation", "x/val")]
)
def test_a_folder_without_a_training_split_is_an_error_with_a_remedy_that_works(
    names: tuple[str, ...], splits: str, folder: str, tmp_path: pathlib.Path
) -> None:
    root = make_folder(tmp_path / "pets", *(f"{name}/{kind}/1.png" for name in names for kind in ("cat", "dog")))
    assert source_error(root) == (
        f"data.source ({root}) has only the splits {splits} and no training images: add a folder named train, or give"
        f" {root}/{folder} to divide its images into training and validation."
    )
    assert split_of(scan_folder(f"{root}/{folder}")) == {"cat/1.png": "train/cat", "dog/1.png": "train/dog"}


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


def test_cyclic_links_are_not_followed_and_named(pets: str, caplog: pytest.LogCaptureFixture) -> None:
    before = scan_folder(pets)
    os.symlink("..", f"{pets}/train/cat/again")
    assert scan_folder(pets) == before
    assert caplog.messages == [
        f"1 links of {pets} are ignored, because they lead to a folder around them: train/cat/again"
    ]


def test_images_of_kinds_that_are_not_read_are_named(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_folder(tmp_path / "pets", "train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg")
    (tmp_path / "pets/train/cat/1.NEF").write_bytes(b"MM\0*a thumbnail and a raw image")  # it would be read as a TIFF
    assert scan_folder(root)["train"] == {"train/cat/1.jpg": "cat", "train/dog/1.jpg": "dog"}
    reason = "they are of kinds that are not read: convert them to PNG or JPEG"
    assert caplog.messages == [f"1 images of {root} are ignored, because {reason}: train/cat/1.NEF"]
    (tmp_path / "pets/train/bird").mkdir()
    (tmp_path / "pets/train/bird/1.svg").write_text("<svg/>")
    assert source_error(root) == (
        f"data.source ({root}): all 1 images of class bird are of kinds that are not read, such as train/bird/1.svg:"
        " convert them to PNG or JPEG, or remove the class."
    )


def test_two_links_to_a_folder_are_two_folders(tmp_path: pathlib.Path) -> None:
    make_folder(tmp_path, "images/cat/1.png", "images/dog/1.png")
    (tmp_path / "pets").mkdir()
    for split in ("train", "val"):
        (tmp_path / "pets" / split).symlink_to(tmp_path / "images")
    assert split_of(scan_folder(str(tmp_path / "pets"))) == {
        f"{folder}/{kind}/1.png": f"{split}/{kind}"
        for folder, split in (("train", "train"), ("val", "validation"))
        for kind in ("cat", "dog")
    }


def test_what_cannot_be_read_as_a_file_is_named_and_not_opened(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_folder(tmp_path / "pets", "cat/1.png", "dog/1.png")
    os.mkfifo(f"{root}/cat/pipe.jpg")  # opening one waits for a writer
    os.symlink("/dev/zero", f"{root}/cat/endless.jpg")
    os.symlink("nowhere", f"{root}/bird")
    os.symlink("itself.png", f"{root}/cat/itself.png")  # an image that cannot be read
    assert sorted(scan_folder(root)["train"]) == ["cat/1.png", "cat/itself.png", "dog/1.png"]
    assert caplog.messages == [
        f"1 links of {root} are ignored, because they lead nowhere: bird",
        f"2 files of {root} are ignored, because they are pipes, sockets or devices: cat/endless.jpg, cat/pipe.jpg",
    ]


@pytest.mark.parametrize("cache", ["none", "raw:8"])
def test_a_link_that_leads_nowhere_is_one_image_that_is_skipped(cache: str, tmp_path: pathlib.Path) -> None:
    root = make_folder(tmp_path / "pets", "cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
    os.symlink("nowhere", f"{root}/cat/3.png")
    data = load_dataset(DataConfig(source=root, image_size=8, cache=cache, max_corrupt_fraction=0.5))
    assert len(data.train) + len(data.validation) == 4


def test_folders_of_the_system_are_passed_over(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_folder(
        tmp_path / "pets",
        "cat/1.png",
        "dog/1.png",
        "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg",
        "cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg",
        "$RECYCLE.BIN/1.png",
        "__MACOSX/cat/1.png",
    )
    assert split_of(scan_folder(root)) == {"cat/1.png": "train/cat", "dog/1.png": "train/dog"}
    assert caplog.messages == []


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
