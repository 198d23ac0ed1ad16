"""Record files of other pipelines become a data set with the same images and classes, or a clear error."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from evenkeel.models.export.tfrecords import convert_records
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.errors import UsageError
from tests.models.export.record_files import encode_example, write_records


def test_classes_and_features_can_have_any_names(pictures: Any, tmp_path: pathlib.Path) -> None:
    names = ("picture", "kind")
    examples = [encode_example(image, "cat" if label % 2 else "dog", names) for image, label in pictures["train"]]
    path = write_records(tmp_path / "plain.tfrecord", examples, "")
    directory = convert_records({"train": [path], "validation": [path]}, str(tmp_path / "converted"), *names)
    data = load_dataset(DataConfig(source=directory, image_size=16))
    assert data.classes == ("cat", "dog")
    assert data.train.names[0].startswith("00000-plain.tfrecord-")
    again = convert_records({"train": [path], "validation": [path]}, str(tmp_path / "converted"), *names)
    assert again == directory


def test_files_of_the_same_name_in_two_directories_are_both_read(pictures: Any, tmp_path: pathlib.Path) -> None:
    examples = [encode_example(*picture) for picture in pictures["train"]]
    paths = [
        write_records(tmp_path / directory / "data-00000.gz", examples[start::2])
        for start, directory in enumerate("ab")
    ]
    directory = convert_records({"train": paths, "validation": paths[:1]}, str(tmp_path / "converted"))
    data = load_dataset(DataConfig(source=directory, image_size=16))
    assert (len(data.train), len(data.validation)) == (200, 100)


def test_unusable_files_and_labels_are_named(pictures: Any, tmp_path: pathlib.Path) -> None:
    (image, label), *_ = pictures["train"]

    def write(name: str, *labels: int | str) -> str:
        return write_records(tmp_path / name, [encode_example(image, label) for label in labels])

    other = write_records(tmp_path / "other.gz", [encode_example(image, label, ("a", "b"))])
    text = write_records(tmp_path / "text.gz", [b"no example"])
    truncated = tmp_path / "truncated.gz"
    truncated.write_bytes(pathlib.Path(write("good.gz", label, label + 1)).read_bytes()[:60])
    cases = [
        (str(tmp_path / "none-*"), r"no file matches .*none-\*: check the path"),
        (other, r"feature image/encoded of record 0 must be one encoded image.*a, b"),
        (text, r"text.gz does not contain tf.Examples"),
        (write("one.gz", "cat"), r"has only one class"),
        (write("minus.gz", -1), r"has -1: class numbers must be from 0 to"),
        (write("far.gz", 0, 2**40), r"class numbers must be from 0 to 99999"),
        (write("both.gz", 0, "cat"), r"has both numbers and names"),
        (str(truncated), r"truncated.gz does not contain tf.Examples"),
    ]
    for pattern, message in cases:
        with pytest.raises(UsageError, match=message):
            convert_records({"train": [pattern]}, str(tmp_path / "converted"))
