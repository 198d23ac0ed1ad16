"""Folders of images: what is found, what is held out, and which folders are refused."""

from __future__ import annotations

import logging
import os
import pathlib
import re

import pytest
import tensorflow_datasets as tfds

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.sources.image_folder import ImageFolders, class_names, scan_folder
from evenkeel.pipeline.sources.resolve import resolve
from tests.pipeline.sources.folders import encode_picture, make_folder, png_paths, read_files, source_error

ENDINGS = ".jpg, .jpeg, .png, .webp, .bmp"


def test_split_class_image_keeps_its_splits_and_classes(pets: str) -> None:
    builder = resolve(DataConfig(source=pets))
    assert {name: info.num_examples for name, info in builder.info.splits.items()} == {"train": 4, "val": 2}
    assert builder.info.features["label"].names == ["cat", "dog"]
    assert builder.info.file_format == tfds.core.FileFormat.TFRECORD


def test_files_are_stored_byte_for_byte_with_class_and_name(pets: str) -> None:
    builder = resolve(DataConfig(source=pets))
    found = read_files(builder, "train") | read_files(builder, "val")
    paths = sorted(pathlib.Path(pets).rglob("*.*"))
    assert found == {
        path.relative_to(pets).as_posix(): (path.read_bytes(), path.parent.name) for path in paths if path.is_file()
    }
    assert len(found) == 6


def test_class_image_is_split_by_the_hash_of_the_file_names(tmp_path: pathlib.Path) -> None:
    root = make_folder(tmp_path / "pets", *png_paths(100))
    found = scan_folder(root)
    assert sorted(found) == ["train", "validation"]
    assert sorted(found["train"] + found["validation"]) == sorted(png_paths(100))
    assert 8 <= len(found["validation"]) <= 35  # one in ten of 200
    assert scan_folder(root) == found


def test_held_out_images_stay_the_same_when_files_are_added(tmp_path: pathlib.Path) -> None:
    before = scan_folder(make_folder(tmp_path / "pets", *png_paths(40)))
    after = scan_folder(make_folder(tmp_path / "pets", *png_paths(80), "eel/1.png", "cat/a.png"))
    assert before["validation"]
    for split, paths in before.items():
        assert set(paths) <= set(after[split])


def test_held_out_images_do_not_depend_on_the_path_of_the_folder(tmp_path: pathlib.Path) -> None:
    assert scan_folder(make_folder(tmp_path / "here", *png_paths(30))) == scan_folder(
        make_folder(tmp_path / "elsewhere" / "deep", *png_paths(30))
    )


def test_a_class_may_lack_images_in_one_split(tmp_path: pathlib.Path) -> None:
    root = make_folder(tmp_path / "pets", "train/cat/1.png", "train/dog/1.png", "test/cat/2.png")
    builder = resolve(DataConfig(source=root))
    assert builder.info.features["label"].names == ["cat", "dog"]
    assert read_files(builder, "test")["test/cat/2.png"][1] == "cat"


def test_classes_are_sorted_by_name_even_if_they_are_numbers(tmp_path: pathlib.Path) -> None:
    root = make_folder(tmp_path / "digits", *(f"train/{digit}/{digit}.png" for digit in (10, 9, 1, 0)))
    builder = resolve(DataConfig(source=root))
    assert builder.info.features["label"].names == ["0", "1", "10", "9"]
    assert {path: kind for path, (_, kind) in read_files(builder, "train").items()} == {
        f"train/{digit}/{digit}.png": str(digit) for digit in (0, 1, 9, 10)
    }


def test_names_in_any_language_and_with_spaces_are_kept(tmp_path: pathlib.Path) -> None:
    root = make_folder(tmp_path / "tiere", "train/große katze/ä b.png", "train/犬/1.png")
    builder = resolve(DataConfig(source=root))
    assert sorted(read_files(builder, "train")) == ["train/große katze/ä b.png", "train/犬/1.png"]
    assert builder.info.features["label"].names == ["große katze", "犬"]


def test_hidden_files_and_folders_are_ignored_without_a_warning(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_folder(
        tmp_path / "pets", "train/cat/1.png", "train/dog/1.png", "train/cat/.hidden.png", ".git/cat/2.png"
    )
    make_folder(tmp_path / "pets", "train/.ipynb_checkpoints/1.png", ".DS_Store")
    with caplog.at_level(logging.WARNING):
        assert scan_folder(root) == {"train": ["train/cat/1.png", "train/dog/1.png"]}
    assert caplog.messages == []


def test_a_warning_counts_files_that_are_no_images(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_folder(tmp_path / "pets", "train/cat/1.png", "train/dog/1.png")
    make_folder(tmp_path / "pets", "train/cat/labels.txt", "top.png", "a/b/c/deep.png")
    with caplog.at_level(logging.WARNING):
        assert scan_folder(root) == {"train": ["train/cat/1.png", "train/dog/1.png"]}
    (message,) = caplog.messages
    assert re.fullmatch(
        rf"3 files of {root} are ignored, because they are not \[SPLIT/\]CLASS/IMAGE; the first is \S+", message
    )


def test_a_folder_without_images_is_an_error(tmp_path: pathlib.Path) -> None:
    root = make_folder(tmp_path / "pets", "cat/notes.txt", "top.png")
    expected = f"data.source ({root}) holds no images: it needs SPLIT/CLASS/IMAGE or CLASS/IMAGE with IMAGE ending in"
    assert source_error(root) == f"{expected} {ENDINGS}."


def test_images_at_both_depths_are_an_error_with_an_example_of_each(tmp_path: pathlib.Path) -> None:
    root = make_folder(tmp_path / "pets", "cat/1.png", "dog/2.png", "train/cat/1.png")
    message = source_error(root)
    assert message.startswith(f"data.source ({root}) has images both as CLASS/IMAGE (")
    assert "(train/cat/1.png)" in message
    assert "(cat/1.png)" in message or "(dog/2.png)" in message


@pytest.mark.parametrize("paths", [("cat/1.png", "cat/2.png"), ("train/cat/1.png", "test/cat/2.png")])
def test_a_single_class_is_an_error(tmp_path: pathlib.Path, paths: tuple[str, ...]) -> None:
    root = make_folder(tmp_path / "pets", *paths)
    assert source_error(root) == f"data.source ({root}) has only one class (cat): classification needs at least two."


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
    assert caplog.messages == [f"1 folders of {root} are ignored as classes, because they are empty; the first is bird"]


@pytest.mark.parametrize("name", ["new\nline.jpg", "sp ace.jpg", "\u00fcml\u00e4ut.jpg", "-flag.jpg", "a'b\"c$d.jpg"])
def test_unusual_file_names_are_accepted(name: str, pets: str) -> None:
    pathlib.Path(f"{pets}/train/cat/{name}").write_bytes(encode_picture(0))
    data = load_dataset(DataConfig(source=pets, image_size=8))
    assert f"train/cat/{name}" in data.train.names


def test_a_file_name_that_is_not_utf_8_is_a_one_line_error(pets: str) -> None:
    pathlib.Path(os.fsdecode(os.fsencode(pets) + b"/train/cat/\xff.jpg")).write_bytes(encode_picture(0))
    assert source_error(pets).startswith(f"data.source ({pets}) cannot be used: 'utf-8' codec can't decode byte 0xff")


def test_a_split_name_that_tfds_reserves_is_a_one_line_error(tmp_path: pathlib.Path) -> None:
    assert "`all` is a reserved keyword" in source_error(
        make_folder(tmp_path / "pets", "all/cat/1.png", "all/dog/1.png")
    )


def test_an_unchanged_folder_is_prepared_once(pets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve(DataConfig(source=pets))

    def forbid(*_: object) -> None:
        raise AssertionError("prepared again")

    monkeypatch.setattr(ImageFolders, "_generate_examples", forbid)
    assert str(resolve(DataConfig(source=pets)).data_dir) == str(first.data_dir)


@pytest.mark.parametrize("change", ["rewritten", "touched", "added", "removed", "renamed"])
def test_a_changed_folder_is_prepared_anew(pets: str, change: str) -> None:
    path = pathlib.Path(pets) / "train/cat/1.webp"
    before = resolve(DataConfig(source=pets))
    expected = read_files(before, "train")
    if change == "rewritten":
        path.write_bytes(encode_picture(99, "WEBP"))
        os.utime(path, ns=(0, 0))  # as it may have the same length, within the same second
        expected["train/cat/1.webp"] = (path.read_bytes(), "cat")
    elif change == "touched":
        os.utime(path, ns=(0, 0))
    elif change == "added":
        make_folder(pathlib.Path(pets), "train/eel/1.jpg")
        expected["train/eel/1.jpg"] = ((path.parent.parent / "eel/1.jpg").read_bytes(), "eel")
    elif change == "removed":
        path.unlink()
        del expected["train/cat/1.webp"]
    else:
        path.rename(path.with_name("2.webp"))
        expected["train/cat/2.webp"] = expected.pop("train/cat/1.webp")
    after = resolve(DataConfig(source=pets))
    assert str(after.data_dir) != str(before.data_dir)
    assert read_files(after, "train") == expected


def test_the_folder_itself_is_not_changed(pets: str, cache: pathlib.Path) -> None:
    before = sorted(pathlib.Path(pets).rglob("*"))
    builder = resolve(DataConfig(source=pets))
    assert sorted(pathlib.Path(pets).rglob("*")) == before
    assert cache in pathlib.Path(builder.data_dir).parents


def test_a_corrupt_image_of_a_folder_is_named_by_its_path(tmp_path: pathlib.Path) -> None:
    root = make_folder(
        tmp_path / "pets", *(f"train/{path}" for path in png_paths(10)), "val/cat/1.png", "val/dog/1.png"
    )
    (tmp_path / "pets/train/dog/3.png").write_bytes(b"no picture")
    found = load_dataset(DataConfig(source=root, image_size=8, max_corrupt_fraction=0.1))
    assert found.skipped == ("train: train/dog/3.png: cannot be decoded as an image",)
    assert len(found.train) == 19
    assert len(found.validation) == 2
    assert found.classes == ("cat", "dog")
