"""The event files of a run, read back as TensorBoard reads them."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_ndarray

from evenkeel.benchmarks.documentation import browser
from evenkeel.models import train
from evenkeel.models.config import ProfileConfig, config_json, flatten
from evenkeel.models.evaluation import evaluate_run
from evenkeel.models.optim.schedules import Schedule
from evenkeel.models.telemetry import pictures, step_row
from evenkeel.models.telemetry.tensorboard import GRID_IMAGES, Profiler, scalar_summary, write_summary
from evenkeel.models.training import build_model
from evenkeel.pipeline import build, dataset
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from tests.runs import PLAIN, STEPS, TINY, events, finished, scalars


def test_every_step_has_its_scalars() -> None:
    model_dir, _ = finished()
    read = events(model_dir)
    for name in step_row.COLUMNS:
        assert [step for step, _ in scalars(read, f"step/{name}")] == list(range(2 * STEPS)), name
    columns = {name: np.array(scalars(read, f"step/{name}"))[:, 1] for name in step_row.COLUMNS}
    assert columns["loss"][-5:].mean() < columns["loss"][:5].mean()
    assert len(set(columns["loss"])) == 2 * STEPS
    assert (columns["gradient_norm"] > 0).all()
    assert (columns["input_wait"] > 0).all()
    assert not columns["nonfinite"].any()
    schedule = Schedule(TINY.optimizer, TINY.data.batch_size, STEPS, 2)
    np.testing.assert_allclose(columns["learning_rate"], [schedule(step) for step in range(2 * STEPS)], rtol=1e-5)
    speeds = scalars(read, "step/images_per_second")
    assert [step for step, _ in speeds] == [3, 7, 11, 15, 18, 22, 26, 30, 34, 37], "the last step of each call"
    assert all(speed > 0 for _, speed in speeds)


def last_scores(model_dir: str) -> dict[str, float]:
    scores = evaluate_run(model_dir, "last").scores
    assert set(scores) == {"macro_f1", "kappa", "matthews", "top_5", "calibration_error"}
    return scores


def test_every_epoch_has_its_scalars_in_training_and_validation() -> None:
    model_dir, summary = finished()
    training, validation = events(model_dir), events(model_dir, "validation")
    per_step = np.array(scalars(training, "step/loss"))[:, 1].reshape(2, STEPS)
    epochs = scalars(training, "epoch/loss")
    assert [step for step, _ in epochs] == [STEPS - 1, 2 * STEPS - 1]
    np.testing.assert_allclose([value for _, value in epochs], per_step.mean(axis=1), rtol=1e-5)
    for name, value in last_scores(model_dir).items():
        written = scalars(validation, f"epoch/{name}")
        assert [step for step, _ in written] == [STEPS - 1, 2 * STEPS - 1]
        assert written[-1][1] == pytest.approx(value, rel=1e-5)
    for name in ("loss", "accuracy"):
        written = scalars(validation, f"epoch/{name}")
        assert [step for step, _ in written] == [STEPS - 1, 2 * STEPS - 1]
        assert written[-1][1] == pytest.approx(summary["final"][name], rel=1e-6)
        assert [step for step, _ in scalars(training, f"epoch/{name}")] == [STEPS - 1, 2 * STEPS - 1]


def pixels(encoded: np.ndarray) -> np.ndarray:
    """The picture of an image event, whose tensor holds width, height and PNGs."""
    image = tf.io.decode_png(encoded[2]).numpy()
    assert image.shape[:2] == (int(encoded[1]), int(encoded[0]))
    return image


def test_the_augmented_training_images_are_shown() -> None:
    model_dir, _ = finished()
    (event,) = events(model_dir).Tensors("augmented training images")
    data = dataset.load_dataset(TINY.data)
    images, _ = next(iter(build.training_batches(data, TINY.data, TINY.seed, ReplicaShard(TINY.data.batch_size))))
    assert event.step == 0
    np.testing.assert_array_equal(
        pixels(make_ndarray(event.tensor_proto)), pictures.draw_grid(images[:GRID_IMAGES].numpy())
    )


def test_every_evaluation_has_its_confusion_matrix() -> None:
    model_dir, _ = finished()
    written = events(model_dir, "validation").Tensors("confusion matrix")
    assert [event.step for event in written] == [STEPS - 1, 2 * STEPS - 1]
    evaluation = evaluate_run(model_dir, "last")
    expected = pictures.draw_confusion_matrix(evaluation.matrix, evaluation.classes)
    np.testing.assert_array_equal(pixels(make_ndarray(written[-1].tensor_proto)), expected)


def test_the_configuration_is_written_as_text_and_as_hyperparameters() -> None:
    model_dir, _ = finished()
    read = events(model_dir)
    (event,) = read.Tensors("config")
    text = make_ndarray(event.tensor_proto).item().decode()
    assert json.loads(text.strip("`\n")) == json.loads(config_json(TINY))
    content = read.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    shown = HParamsPluginData.FromString(content).session_start_info.hparams
    assert shown.keys() == flatten(TINY).keys()
    assert shown["optimizer.learning_rate"].number_value == TINY.optimizer.learning_rate
    assert shown["data.source"].string_value == "shapes"
    assert shown["deterministic"].bool_value is False


def test_every_weight_has_its_histograms() -> None:
    model_dir, _ = finished()
    read = events(model_dir)
    tags = [tag for tag in read.Tags()["tensors"] if tag.startswith(("weights/", "gradients/"))]
    assert len(tags) == 2 * 7
    for tag in tags:
        assert [event.step for event in read.Tensors(tag)] == [0, 10, 20, 30], tag


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM_MISSING, reason="no Chromium with its driver is installed")
def test_the_page_draws_the_gradient_histograms(tmp_path: pathlib.Path) -> None:
    model_dir, _ = finished()
    tags = browser.capture_gradient_histograms(model_dir, tmp_path / "page.png")
    assert tags
    assert all(tag.startswith("gradients/") and "kernel" in tag for tag in tags)
    page = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    assert page.shape[1] >= 1200
    assert len(np.unique(page.reshape(-1, 3), axis=0)) > 100, "the page is blank"


def test_layer_statistics_are_written_at_their_steps() -> None:
    model_dir, _ = finished()
    read = events(model_dir)
    tags = [tag for tag in read.Tags()["tensors"] if tag.startswith("layers/")]
    assert {tag.split("/")[1] for tag in tags} >= {"gradient_norm", "update_norm", "dead", "deviation", "training_loss"}
    for tag in tags:
        steps = [event.step for event in read.Tensors(tag)]
        assert steps == list(range(0, 2 * STEPS, build_model.LAYER_STATS_EVERY)), tag


def traces(directory: pathlib.Path) -> list[pathlib.Path]:
    return list(directory.glob("plugins/profile/*/*.xplane.pb"))


@pytest.mark.slow
def test_a_run_writes_a_profiler_trace_of_the_requested_steps(tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(PLAIN, epochs=1, profile=ProfileConfig(steps="8:12"))
    assert train.train(config, str(tmp_path))["status"] == "completed"
    (trace,) = traces(tmp_path / "train")
    content = trace.read_bytes()
    assert content.count(b"train_function") > 0
    assert b"Conv2D" in content


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (5, 10, ["start at 5", "stop at 10"]),
        (4, 6, ["start at 0", "stop at 10"]),
        (12, 90, ["start at 10", "stop at 20"]),
        (90, 95, []),
    ],
)
def test_the_profiler_runs_over_the_calls_that_contain_its_steps(
    first: int, last: int, expected: list[str], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    model = types.SimpleNamespace(step=0, _steps_per_execution=5)
    monkeypatch.setattr(tf.profiler.experimental, "start", lambda directory: calls.append(f"start at {model.step}"))
    monkeypatch.setattr(tf.profiler.experimental, "stop", lambda: calls.append(f"stop at {model.step}"))
    profiler = Profiler(str(tmp_path), first, last)
    profiler.set_model(model)
    for call in range(4):
        profiler.on_train_batch_begin(5 * call)
        model.step += 5
        profiler.on_train_batch_end(5 * call)
    profiler.close()
    assert calls == expected


def test_writing_does_not_leave_the_step_in_tensorflows_cache(tmp_path: pathlib.Path) -> None:
    """TensorFlow caches a tensor of every Python number that it gets, and keeps the number with it."""
    step = int("1000000")
    references = sys.getrefcount(step)
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        write_summary(scalar_summary({"a": 1.0}), step)
        assert sys.getrefcount(step) == references
        tf.summary.experimental.write_raw_pb(scalar_summary({"a": 1.0}), step)
        assert sys.getrefcount(step) > references, "otherwise this test could not fail"
