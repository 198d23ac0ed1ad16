"""From a name or a folder to a prepared data set: what is found, what is held out, what is refused and how."""

from __future__ import annotations

import io
import logging
import os
import pathlib
import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from evenkeel.pipeline.config import DataConfig, ShapesConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.sources import resolve as sources
from evenkeel.pipeline.sources.resolve import resolve, scan, validation_split

ENDINGS = ".jpg, .jpeg, .png, .webp, .bmp"


def picture(seed: int, file_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)).save(file, file_format)
    return file.getvalue()


def folder(root: pathlib.Path, *paths: str) -> str:
    """A folder of pictures, no two alike."""
    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        formats = {".png": "PNG", ".bmp": "BMP", ".webp": "WEBP"}
        (root / path).write_bytes(picture(seed, formats.get(pathlib.Path(path).suffix.lower(), "JPEG")))
    return str(root)


def files(builder: Any, split: str) -> dict[str, tuple[bytes, str]]:
    """{file name: its bytes and its class} as any TFDS reader sees them."""
    ds = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    name = builder.info.features["label"].int2str
    return {e["filename"].decode(): (e["image"], name(e["label"])) for e in ds.as_numpy_iterator()}


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pets(tmp_path: pathlib.Path) -> str:
    """Two splits of two classes, six pictures."""
    names = [
        "train/dog/1.jpg",
        "train/dog/2.png",
        "train/cat/1.webp",
        "train/cat/3.bmp",
        "val/cat/4.JPEG",
        "val/dog/1.jpg",
    ]
    return folder(tmp_path / "pets", *names)


def many(count: int) -> list[str]:
    return [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(count)]


def refused(source: str) -> str:
    """The one line with which a source is refused."""
    with pytest.raises(UsageError) as raised:
        resolve(DataConfig(source=source))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_split_class_image_is_taken_as_it_lies(pets: str) -> None:
    builder = resolve(DataConfig(source=pets))
    assert {name: info.num_examples for name, info in builder.info.splits.items()} == {"train": 4, "val": 2}
    assert builder.info.features["label"].names == ["cat", "dog"]
    assert builder.info.file_format == tfds.core.FileFormat.TFRECORD


def test_files_are_stored_byte_for_byte_with_class_and_name(pets: str) -> None:
    builder = resolve(DataConfig(source=pets))
    found = files(builder, "train") | files(builder, "val")
    paths = sorted(pathlib.Path(pets).rglob("*.*"))
    assert found == {
        path.relative_to(pets).as_posix(): (path.read_bytes(), path.parent.name) for path in paths if path.is_file()
    }
    assert len(found) == 6


def test_class_image_is_split_by_the_hash_of_the_names(tmp_path: pathlib.Path) -> None:
    root = folder(tmp_path / "pets", *many(100))
    found = scan(root)
    assert sorted(found) == ["train", "validation"]
    assert sorted(found["train"] + found["validation"]) == sorted(many(100))
    assert 8 <= len(found["validation"]) <= 35  # one in ten of 200
    assert scan(root) == found


def test_the_held_out_images_stay_the_same_when_files_are_added(tmp_path: pathlib.Path) -> None:
    before = scan(folder(tmp_path / "pets", *many(40)))
    after = scan(folder(tmp_path / "pets", *many(80), "eel/1.png", "cat/a.png"))
    assert before["validation"]
    for split, paths in before.items():
        assert set(paths) <= set(after[split])


def test_the_held_out_images_do_not_depend_on_where_the_folder_lies(tmp_path: pathlib.Path) -> None:
    assert scan(folder(tmp_path / "here", *many(30))) == scan(folder(tmp_path / "elsewhere" / "deep", *many(30)))


def test_a_class_may_lack_images_in_one_split(tmp_path: pathlib.Path) -> None:
    root = folder(tmp_path / "pets", "train/cat/1.png", "train/dog/1.png", "test/cat/2.png")
    builder = resolve(DataConfig(source=root))
    assert builder.info.features["label"].names == ["cat", "dog"]
    assert files(builder, "test")["test/cat/2.png"][1] == "cat"


def test_classes_are_sorted_by_name_and_numbers_are_names(tmp_path: pathlib.Path) -> None:
    root = folder(tmp_path / "digits", *(f"train/{digit}/{digit}.png" for digit in (10, 9, 1, 0)))
    builder = resolve(DataConfig(source=root))
    assert builder.info.features["label"].names == ["0", "1", "10", "9"]
    assert {path: kind for path, (_, kind) in files(builder, "train").items()} == {
        f"train/{digit}/{digit}.png": str(digit) for digit in (0, 1, 9, 10)
    }


def test_names_in_any_language_and_with_blanks_are_kept(tmp_path: pathlib.Path) -> None:
    root = folder(tmp_path / "tiere", "train/große katze/ä b.png", "train/犬/1.png")
    builder = resolve(DataConfig(source=root))
    assert sorted(files(builder, "train")) == ["train/große katze/ä b.png", "train/犬/1.png"]
    assert builder.info.features["label"].names == ["große katze", "犬"]


def test_hidden_files_and_folders_are_passed_over_in_silence(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path / "pets", "train/cat/1.png", "train/dog/1.png", "train/cat/.hidden.png", ".git/cat/2.png")
    folder(tmp_path / "pets", "train/.ipynb_checkpoints/1.png", ".DS_Store")
    with caplog.at_level(logging.WARNING):
        assert scan(root) == {"train": ["train/cat/1.png", "train/dog/1.png"]}
    assert caplog.messages == []


def test_other_files_are_counted_and_warned_of(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder(tmp_path / "pets", "train/cat/1.png", "train/dog/1.png")
    folder(tmp_path / "pets", "train/cat/labels.txt", "top.png", "a/b/c/deep.png")
    with caplog.at_level(logging.WARNING):
        assert scan(root) == {"train": ["train/cat/1.png", "train/dog/1.png"]}
    (message,) = caplog.messages
    assert re.fullmatch(rf"3 files of {root} are no CLASS/IMAGE by place and ending, the first \S+", message)


def test_a_folder_without_images_is_refused(tmp_path: pathlib.Path) -> None:
    root = folder(tmp_path / "pets", "cat/notes.txt", "top.png")
    expected = f"data.source ({root}) holds no images: it needs SPLIT/CLASS/IMAGE or CLASS/IMAGE with IMAGE ending in"
    assert refused(root) == f"{expected} {ENDINGS}."


def test_images_at_both_depths_are_refused_with_an_example_of_each(tmp_path: pathlib.Path) -> None:
    root = folder(tmp_path / "pets", "cat/1.png", "dog/2.png", "train/cat/1.png")
    message = refused(root)
    assert message.startswith(f"data.source ({root}) has images both as CLASS/IMAGE (")
    assert "(train/cat/1.png)" in message
    assert "(cat/1.png)" in message or "(dog/2.png)" in message


@pytest.mark.parametrize("paths", [("cat/1.png", "cat/2.png"), ("train/cat/1.png", "test/cat/2.png")])
def test_a_single_class_is_refused(tmp_path: pathlib.Path, paths: tuple[str, ...]) -> None:
    root = folder(tmp_path / "pets", *paths)
    assert refused(root) == f"data.source ({root}) has one class only (cat): classification needs at least two."


@pytest.mark.parametrize("name", ["nowhere", "shpaes"])
def test_a_missing_directory_is_named(tmp_path: pathlib.Path, name: str) -> None:
    source = str(tmp_path / name)
    assert refused(source) == (
        f"data.source ({source}) is neither shapes, nor tfds:NAME, nor an existing directory: check the spelling."
    )


def test_a_file_is_no_directory(pets: str) -> None:
    assert "nor an existing directory" in refused(f"{pets}/train/dog/1.jpg")


def test_a_link_into_the_void_is_named(pets: str) -> None:
    os.symlink("/nowhere", f"{pets}/train/cat/9.jpg")
    message = refused(pets)
    assert message.startswith(f"data.source ({pets}) cannot be used: ")
    assert "train/cat/9.jpg" in message


def test_links_that_go_round_in_circles_are_not_followed(pets: str) -> None:
    before = scan(pets)
    os.symlink("..", f"{pets}/train/cat/again")
    assert scan(pets) == before


def test_an_empty_folder_is_no_class_and_is_told_of(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    root = folder(tmp_path / "pets", "cat/1.png", "dog/1.png")
    (tmp_path / "pets" / "bird").mkdir()
    with caplog.at_level(logging.WARNING):
        assert sources.class_names(scan(root)) == ["cat", "dog"]
    assert caplog.messages == [f"1 folders of {root} are empty, and no class, the first bird"]


@pytest.mark.parametrize("name", ["new\nline.jpg", "sp ace.jpg", "\u00fcml\u00e4ut.jpg", "-flag.jpg", "a'b\"c$d.jpg"])
def test_names_may_be_odd(name: str, pets: str) -> None:
    pathlib.Path(f"{pets}/train/cat/{name}").write_bytes(picture(0))
    data = load_dataset(DataConfig(source=pets, image_size=8))
    assert f"train/cat/{name}" in data.train.names


def test_a_name_that_is_no_utf_8_is_refused_in_one_line(pets: str) -> None:
    pathlib.Path(os.fsdecode(os.fsencode(pets) + b"/train/cat/\xff.jpg")).write_bytes(picture(0))
    assert refused(pets).startswith(f"data.source ({pets}) cannot be used: 'utf-8' codec can't decode byte 0xff")


def test_a_split_that_tfds_reserves_is_refused_in_one_line(tmp_path: pathlib.Path) -> None:
    assert "`all` is a reserved keyword" in refused(folder(tmp_path / "pets", "all/cat/1.png", "all/dog/1.png"))


def test_an_unchanged_folder_is_prepared_once(pets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve(DataConfig(source=pets))

    def forbid(*_: object) -> None:
        raise AssertionError("prepared again")

    monkeypatch.setattr(sources.ImageFolders, "_generate_examples", forbid)
    assert str(resolve(DataConfig(source=pets)).data_dir) == str(first.data_dir)


@pytest.mark.parametrize("change", ["rewritten", "touched", "added", "removed", "renamed"])
def test_a_changed_folder_is_prepared_anew(pets: str, change: str) -> None:
    path = pathlib.Path(pets) / "train/cat/1.webp"
    before = resolve(DataConfig(source=pets))
    expected = files(before, "train")
    if change == "rewritten":
        path.write_bytes(picture(99, "WEBP"))
        os.utime(path, ns=(0, 0))  # as it may have the same length, within the same second
        expected["train/cat/1.webp"] = (path.read_bytes(), "cat")
    elif change == "touched":
        os.utime(path, ns=(0, 0))
    elif change == "added":
        folder(pathlib.Path(pets), "train/eel/1.jpg")
        expected["train/eel/1.jpg"] = ((path.parent.parent / "eel/1.jpg").read_bytes(), "eel")
    elif change == "removed":
        path.unlink()
        del expected["train/cat/1.webp"]
    else:
        path.rename(path.with_name("2.webp"))
        expected["train/cat/2.webp"] = expected.pop("train/cat/1.webp")
    after = resolve(DataConfig(source=pets))
    assert str(after.data_dir) != str(before.data_dir)
    assert files(after, "train") == expected


def test_the_folder_itself_stays_untouched(pets: str, cache: pathlib.Path) -> None:
    before = sorted(pathlib.Path(pets).rglob("*"))
    builder = resolve(DataConfig(source=pets))
    assert sorted(pathlib.Path(pets).rglob("*")) == before
    assert cache in pathlib.Path(builder.data_dir).parents


def test_a_corrupt_image_of_a_folder_is_named_by_its_path(tmp_path: pathlib.Path) -> None:
    root = folder(tmp_path / "pets", *(f"train/{path}" for path in many(10)), "val/cat/1.png", "val/dog/1.png")
    (tmp_path / "pets/train/dog/3.png").write_bytes(b"no picture")
    found = load_dataset(DataConfig(source=root, image_size=8, max_corrupt_fraction=0.1))
    assert found.skipped == ("train: train/dog/3.png: cannot be decoded as an image",)
    assert len(found.train) == 19
    assert len(found.validation) == 2
    assert found.classes == ("cat", "dog")


FEATURES = {"image": tfds.features.Image(shape=(8, 9, 3)), "label": tfds.features.ClassLabel(names=["cat", "dog"])}


def tfds_directory(data_dir: pathlib.Path, *splits: str, name: str = "tiny") -> str:
    rows = [(number, {"image": picture(number), "label": number % 2}) for number in range(4)]
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(FEATURES),
        split_datasets=dict.fromkeys(splits, rows),
        data_dir=data_dir,
        file_format="tfrecord",
    )
    return str(builder.data_dir)


def test_a_tfds_directory_is_opened_as_it_is(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    directory = tfds_directory(tmp_path, "train", "test")
    builder = resolve(DataConfig(source=directory))
    assert str(builder.data_dir) == directory
    assert builder.info.splits["train"].num_examples == 4
    assert not cache.exists()


@pytest.mark.parametrize("contents", ["{", "{}", ""])
def test_a_damaged_tfds_directory_is_refused_in_one_line(tmp_path: pathlib.Path, contents: str) -> None:
    directory = tfds_directory(tmp_path, "train")
    (pathlib.Path(directory) / "dataset_info.json").write_text(contents)
    assert refused(directory).startswith(f"data.source ({directory}) cannot be used: ")


def test_a_name_of_the_catalogue_is_found_in_data_dir(tmp_path: pathlib.Path) -> None:
    directory = tfds_directory(tmp_path, "train", "test", name="tiny_pets")
    builder = resolve(DataConfig(source="tfds:tiny_pets", data_dir=str(tmp_path)))
    assert str(builder.data_dir) == directory
    assert builder.info.splits["test"].num_examples == 4


def test_a_name_that_the_catalogue_does_not_have_is_refused_in_one_line(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        UsageError, match=r"^data\.source \(tfds:no_such_pets\) cannot be opened: .*not found"
    ) as raised:
        resolve(DataConfig(source="tfds:no_such_pets", data_dir=str(tmp_path)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no route"),
        tf.errors.UnavailableError(None, None, "no route"),
        tfds.download.DownloadError("no route"),
    ],
    ids=["network", "storage", "server"],
)
def test_a_failed_download_is_told_in_one_line_with_the_remedy(
    error: Exception, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Builder:
        data_dir = str(tmp_path / "mnist" / "3.0.1")

        def download_and_prepare(self, **_: object) -> None:
            raise error

    monkeypatch.setattr(tfds, "builder", lambda *_, **__: Builder())
    message = refused("tfds:mnist")
    assert message.startswith("data.source (tfds:mnist) could not be downloaded and prepared (")
    assert "no route" in message
    assert message.endswith("): check the network, or prepare it elsewhere and pass its directory.")


def test_shapes_are_rendered_into_the_cache(cache: pathlib.Path) -> None:
    builder = resolve(DataConfig(shapes=ShapesConfig(size=8, count=20)))
    assert builder.info.splits["train"].num_examples == 20
    assert cache in pathlib.Path(builder.data_dir).parents


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sources.cache_dir() == os.environ["EVENKEEL_CACHE"]
    monkeypatch.delenv("EVENKEEL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert sources.cache_dir() == "/somewhere/evenkeel"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert sources.cache_dir() == "/home/me/.cache/evenkeel"


class Splits:
    """As much of a builder as `validation_split` looks at."""

    def __init__(self, *names: str) -> None:
        self.info = self
        self.full_name, self.splits = "pets/1.0.0", dict.fromkeys(names)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (("train", "test", "validation"), "validation"),
        (("train", "val", "valid", "test"), "test"),
        (("train", "val", "valid"), "valid"),
        (("train", "val"), "val"),
    ],
)
def test_the_validation_split_is_the_first_of_the_usual_names(names: tuple[str, ...], chosen: str) -> None:
    assert validation_split(Splits(*names), DataConfig()) == chosen


def test_a_validation_split_that_is_given_is_taken_as_it_is() -> None:
    config = DataConfig(validation_split="train[90%:]")
    assert validation_split(Splits("train", "test"), config) == "train[90%:]"


def test_without_a_split_of_a_usual_name_the_error_says_how_to_hold_some_out() -> None:
    with pytest.raises(UsageError) as raised:
        validation_split(Splits("train", "extra"), DataConfig())
    assert str(raised.value) == (
        "pets/1.0.0 has only the splits train, extra: say what to hold out,"
        " for example --data.train_split=train[:90%] --data.validation_split=train[90%:]."
    )
