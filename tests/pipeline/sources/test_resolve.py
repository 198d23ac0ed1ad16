"""Resolving names and directories to prepared data sets, and the errors for other sources."""

from __future__ import annotations

import pathlib

import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from evenkeel.pipeline.config import DataConfig, ShapesConfig
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.sources.resolve import resolve
from tests.pipeline.sources.folders import encode_picture, source_error


@pytest.mark.parametrize("name", ["nowhere", "shpaes"])
def test_a_missing_directory_is_an_error(tmp_path: pathlib.Path, name: str) -> None:
    source = str(tmp_path / name)
    assert source_error(source) == (
        f"data.source ({source}) is neither shapes, nor tfds:NAME, nor an existing directory: check the spelling."
    )


def test_a_file_is_not_accepted_as_a_directory(pets: str) -> None:
    assert "nor an existing directory" in source_error(f"{pets}/train/dog/1.jpg")


FEATURES = {"image": tfds.features.Image(shape=(8, 9, 3)), "label": tfds.features.ClassLabel(names=["cat", "dog"])}


def tfds_directory(data_dir: pathlib.Path, *splits: str, name: str = "tiny") -> str:
    rows = [(number, {"image": encode_picture(number), "label": number % 2}) for number in range(4)]
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(FEATURES),
        split_datasets=dict.fromkeys(splits, rows),
        data_dir=data_dir,
        file_format="tfrecord",
    )
    return str(builder.data_dir)


def test_a_tfds_directory_is_opened_without_a_copy(tmp_path: pathlib.Path, cache: pathlib.Path) -> None:
    directory = tfds_directory(tmp_path, "train", "test")
    builder = resolve(DataConfig(source=directory))
    assert str(builder.data_dir) == directory
    assert builder.info.splits["train"].num_examples == 4
    assert not cache.exists()


@pytest.mark.parametrize("contents", ["{", "{}", ""])
def test_a_damaged_tfds_directory_is_a_one_line_error(tmp_path: pathlib.Path, contents: str) -> None:
    directory = tfds_directory(tmp_path, "train")
    (pathlib.Path(directory) / "dataset_info.json").write_text(contents)
    assert source_error(directory).startswith(f"data.source ({directory}) cannot be used: ")


def test_a_catalogue_name_is_found_in_data_dir(tmp_path: pathlib.Path) -> None:
    directory = tfds_directory(tmp_path, "train", "test", name="tiny_pets")
    builder = resolve(DataConfig(source="tfds:tiny_pets", data_dir=str(tmp_path)))
    assert str(builder.data_dir) == directory
    assert builder.info.splits["test"].num_examples == 4


def test_an_unknown_catalogue_name_is_a_one_line_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"^data\.source \(tfds:no_such_pets\) cannot be opened: .*not found.*; check the name, or prepare ",
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
def test_a_failed_download_is_a_one_line_error_with_a_remedy(
    error: Exception, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Builder:
        data_dir = str(tmp_path / "mnist" / "3.0.1")

        def download_and_prepare(self, **_: object) -> None:
            raise error

    monkeypatch.setattr(tfds, "builder", lambda *_, **__: Builder())
    message = source_error("tfds:mnist")
    assert message.startswith("data.source (tfds:mnist) could not be downloaded and prepared (")
    assert "no route" in message
    assert message.endswith("): check the network, or prepare the data set elsewhere and give its directory.")


def test_shapes_are_rendered_into_the_cache(cache: pathlib.Path) -> None:
    builder = resolve(DataConfig(shapes=ShapesConfig(size=8, count=20)))
    assert builder.info.splits["train"].num_examples == 20
    assert cache in pathlib.Path(builder.data_dir).parents
