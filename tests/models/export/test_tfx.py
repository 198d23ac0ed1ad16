"""TFX's Trainer contract, with a stand-in that has the fields of its FnArgs; records as its ExampleGen writes them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.models.export import tfrecords, tfx
from evenkeel.models.export.export import run_fn
from evenkeel.pipeline.config import DataConfig, ShapesConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.sources import shapes

SMALL = {"data.image_size": 16, "data.batch_size": 20}
NETWORK = {"model.name": "cnn", "model.width": 4, "precision": "float32", "preflight": "off"}


@dataclasses.dataclass
class FnArgs:
    """The fields of tfx.components.trainer.fn_args_utils.FnArgs, TFX 1.16."""

    working_dir: str | None = None
    train_files: list[str] = dataclasses.field(default_factory=list)
    eval_files: list[str] = dataclasses.field(default_factory=list)
    train_steps: int | None = None
    eval_steps: int | None = None
    schema_path: str | None = None
    schema_file: str | None = None
    transform_graph_path: str | None = None
    transform_output: str | None = None
    data_accessor: Any = None
    serving_model_dir: str = ""
    eval_model_dir: str | None = None
    model_run_dir: str = ""
    base_model: str | None = None
    hyperparameters: dict[str, Any] | None = None
    custom_config: dict[str, Any] | None = None


def example(image: bytes, label: int | str, names: tuple[str, str] = (tfrecords.IMAGE, tfrecords.LABEL)) -> bytes:
    as_bytes = lambda value: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))  # noqa: E731
    number = tf.train.Feature(int64_list=tf.train.Int64List(value=[label])) if isinstance(label, int) else None
    feature = {names[0]: as_bytes(image), names[1]: number or as_bytes(str(label).encode())}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write(path: pathlib.Path, examples: list[bytes], compression: str = "GZIP") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for each in examples:
            writer.write(each)
    return str(path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[bytes, int]]]:
    """Encoded images and labels of shapes, by split."""
    directory = shapes.prepare(ShapesConfig(size=16, count=200), str(tmp_path_factory.mktemp("shapes")))
    found = {}
    for split in ("train", "validation"):
        paths = sorted(map(str, pathlib.Path(directory).glob(f"shapes-{split}.tfrecord*")))
        found[split] = []
        for record in tf.data.TFRecordDataset(paths).as_numpy_iterator():
            feature = tf.train.Example.FromString(record).features.feature
            found[split].append((feature["image"].bytes_list.value[0], int(feature["label"].int64_list.value[0])))
    return found


def written(pictures: dict[str, list[tuple[bytes, int]]], to: pathlib.Path) -> FnArgs:
    """As ExampleGen lays them out: Split-NAME/data_tfrecord-00000-of-00002.gz."""
    for split, name in (("train", "Split-train"), ("validation", "Split-eval")):
        examples = [example(*picture) for picture in pictures[split]]
        for shard in range(2):
            write(to / name / f"data_tfrecord-{shard:05d}-of-00002.gz", examples[shard::2])
    return FnArgs(
        train_files=[str(to / "Split-train" / "*")],
        eval_files=[str(to / "Split-eval" / "*")],
        train_steps=20,
        eval_steps=2,
        serving_model_dir=str(to / "model" / "Format-Serving"),
        model_run_dir=str(to / "run"),
        custom_config={"options": {**SMALL, **NETWORK}},
    )


@pytest.mark.slow
def test_run_fn_trains_and_leaves_what_serving_loads(pictures: Any, tmp_path: pathlib.Path) -> None:
    fn_args = written(pictures, tmp_path)
    run_fn(fn_args)
    summary = json.loads((tmp_path / "run" / "run" / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("completed", 20), "10 steps are a pass"
    loaded = tf.saved_model.load(fn_args.serving_model_dir)
    images = [image for image, _ in pictures["validation"]]
    told = loaded.signatures["serving_default"](images=tf.constant(images))
    assert set(told["error"].numpy()) == {b""}
    assert set(told["class"].numpy()) <= {str(label).encode() for label in range(10)}
    evaluation = json.loads((tmp_path / "model" / "Format-Serving" / "evaluation.json").read_text())
    assert evaluation["images"] == 40, "two steps of 20"
    run_fn(fn_args)
    assert json.loads((tmp_path / "run" / "run" / "summary.json").read_text())["steps"] == 20, "it had come to its end"


def test_records_become_the_images_and_labels_that_they_are(pictures: Any, tmp_path: pathlib.Path) -> None:
    fn_args = written(pictures, tmp_path)
    config = tfx.configured(fn_args)
    data = load_dataset(config.data)
    assert (config.epochs, config.data.validation_split) == (2, "validation[:40]")
    assert (len(data.train), len(data.validation)) == (200, 40)
    assert data.classes == tuple(map(str, range(10)))
    expected = np.bincount([label for _, label in pictures["train"]], minlength=10)
    np.testing.assert_array_equal(data.class_counts, expected)


def test_classes_may_have_names_and_features_others(pictures: Any, tmp_path: pathlib.Path) -> None:
    names = ("picture", "kind")
    examples = [example(image, "cat" if label % 2 else "dog", names) for image, label in pictures["train"]]
    path = write(tmp_path / "plain.tfrecord", examples, "")
    directory = tfrecords.prepare({"train": [path], "validation": [path]}, str(tmp_path / "ours"), *names)
    data = load_dataset(DataConfig(source=directory, image_size=16))
    assert data.classes == ("cat", "dog")
    assert data.train.names[0].startswith("00000-plain.tfrecord-")
    assert tfrecords.prepare({"train": [path], "validation": [path]}, str(tmp_path / "ours"), *names) == directory


def test_what_cannot_be_used_is_named(pictures: Any, tmp_path: pathlib.Path) -> None:
    (image, label), *_ = pictures["train"]
    good = write(tmp_path / "good.gz", [example(image, label), example(image, label + 1)])
    cases = [
        ([str(tmp_path / "none-*")], r"there is no file like .*none-\*: check the path"),
        (
            [write(tmp_path / "other.gz", [example(image, label, ("a", "b"))])],
            r"record 0 must hold one encoded image.*a, b",
        ),
        ([write(tmp_path / "text.gz", [b"no example"])], r"text.gz does not hold tf.Examples"),
        ([write(tmp_path / "one.gz", [example(image, "cat")])], r"holds one class only"),
        ([write(tmp_path / "minus.gz", [example(image, -1)])], r"holds -1: a class's number lies in 0 to"),
        (
            [write(tmp_path / "far.gz", [example(image, 0), example(image, 2**40)])],
            r"a class's number lies in 0 to 99999",
        ),
        ([write(tmp_path / "both.gz", [example(image, 0), example(image, "cat")])], r"holds numbers and names"),
    ]
    cut = tmp_path / "cut.gz"
    cut.write_bytes(pathlib.Path(good).read_bytes()[:60])
    cases.append(([str(cut)], r"cut.gz does not hold tf.Examples"))
    for patterns, words in cases:
        with pytest.raises(UsageError, match=words):
            tfrecords.prepare({"train": patterns}, str(tmp_path / "ours"))
    for custom, more, words in (
        ({"options": {"epochs": 3}}, {}, r"\['epochs'\] of custom_config cannot be set"),
        ({"options": {"strategy.name": "multiworker"}}, {}, r"'strategy.name'"),
        ({"options": None}, {"hyperparameters": {"a": 1}}, r"hyperparameters is given, and cannot be used"),
        ({"options": {"modle.name": "cnn"}}, {}, r"modle"),
        ({"options": {"seed.x": 1}}, {}, r"seed.x is no option: seed has none of its own"),
        ({"options": {"model.dropout": 7.0}, "ai_platform_training_args": {}}, {}, r"model.dropout \(7.0\) is a share"),
    ):
        fn_args = FnArgs(
            train_files=[good], eval_files=[good], model_run_dir=str(tmp_path), custom_config=custom, **more
        )
        with pytest.raises(UsageError, match=words):
            tfx.configured(fn_args)


def test_files_of_the_same_name_in_two_directories_are_two(pictures: Any, tmp_path: pathlib.Path) -> None:
    examples = [example(*picture) for picture in pictures["train"]]
    paths = [write(tmp_path / place / "data-00000.gz", examples[at::2]) for at, place in enumerate("ab")]
    directory = tfrecords.prepare({"train": paths, "validation": paths[:1]}, str(tmp_path / "ours"))
    data = load_dataset(DataConfig(source=directory, image_size=16))
    assert (len(data.train), len(data.validation)) == (200, 100)
