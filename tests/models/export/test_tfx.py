"""The run function of TFX's Trainer, with an object that has the fields of its FnArgs, on records like ExampleGen's."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.models.export.tfx import build_config, run_fn
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.errors import UsageError
from tests import factories
from tests.models.export.record_files import encode_example, write_records

SMALL_DATA = {"data.image_size": 16, "data.batch_size": 20}
SMALL_NETWORK = {"model.name": f"{factories.FILE}:plain", "precision": "float32", "preflight": "off"}


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


def write_fn_args(pictures: dict[str, list[tuple[bytes, int]]], directory: pathlib.Path) -> FnArgs:
    """Writes two files per split, named as ExampleGen names them: Split-NAME/data_tfrecord-00000-of-00002.gz."""
    for split, name in (("train", "Split-train"), ("validation", "Split-eval")):
        examples = [encode_example(*picture) for picture in pictures[split]]
        for shard in range(2):
            write_records(directory / name / f"data_tfrecord-{shard:05d}-of-00002.gz", examples[shard::2])
    return FnArgs(
        train_files=[str(directory / "Split-train" / "*")],
        eval_files=[str(directory / "Split-eval" / "*")],
        train_steps=20,
        eval_steps=2,
        serving_model_dir=str(directory / "model" / "Format-Serving"),
        model_run_dir=str(directory / "run"),
        custom_config={"options": {**SMALL_DATA, **SMALL_NETWORK}},
    )


@pytest.mark.slow
def test_run_fn_trains_and_exports_a_model_for_serving(pictures: Any, tmp_path: pathlib.Path) -> None:
    fn_args = write_fn_args(pictures, tmp_path)
    run_fn(fn_args)
    summary = json.loads((tmp_path / "run" / "run" / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("completed", 20), "10 steps are an epoch"
    loaded = tf.saved_model.load(fn_args.serving_model_dir)
    images = [image for image, _ in pictures["validation"]]
    outputs = loaded.signatures["serving_default"](images=tf.constant(images))
    assert set(outputs["error"].numpy()) == {b""}
    assert set(outputs["class"].numpy()) <= {str(label).encode() for label in range(10)}
    evaluation = json.loads((tmp_path / "model" / "Format-Serving" / "evaluation.json").read_text())
    assert evaluation["images"] == 40, "2 steps of 20 images"
    run_fn(fn_args)
    assert json.loads((tmp_path / "run" / "run" / "summary.json").read_text())["steps"] == 20, (
        "the run was complete already"
    )


def test_records_are_converted_and_steps_become_epochs(pictures: Any, tmp_path: pathlib.Path) -> None:
    fn_args = write_fn_args(pictures, tmp_path)
    config = build_config(fn_args)
    data = load_dataset(config.data)
    assert (config.epochs, config.data.validation_split) == (2, "validation[:40]")
    assert (len(data.train), len(data.validation)) == (200, 40)
    assert data.classes == tuple(map(str, range(10)))
    expected = np.bincount([label for _, label in pictures["train"]], minlength=10)
    np.testing.assert_array_equal(data.class_counts, expected)


def test_unusable_options_are_named(pictures: Any, tmp_path: pathlib.Path) -> None:
    (image, label), *_ = pictures["train"]
    records = write_records(tmp_path / "good.gz", [encode_example(image, label), encode_example(image, label + 1)])
    for custom, fields, message in (
        ({"options": {"epochs": 3}}, {}, r"option epochs cannot be set in custom_config"),
        ({"options": {"strategy.name": "multiworker"}}, {}, r"option strategy.name cannot be set"),
        ({"options": None}, {"hyperparameters": {"a": 1}}, r"hyperparameters is not supported"),
        ({"options": {"modle.name": "cnn"}}, {}, r"modle"),
        ({"options": {"seed.x": 1}}, {}, r"seed.x is not an option: seed is not a group of options"),
        ({"options": {"model.dropout": 7.0}, "ai_platform_training_args": {}}, {}, r"model.dropout \(7.0\) is a share"),
    ):
        fn_args = FnArgs(
            train_files=[records], eval_files=[records], model_run_dir=str(tmp_path), custom_config=custom, **fields
        )
        with pytest.raises(UsageError, match=message):
            build_config(fn_args)
