"""A whole run: the files it leaves, how it can be stopped, and that resuming it changes no result."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import tempfile
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from evenkeel.models import train
from evenkeel.models.config import (
    AveragingConfig,
    CheckpointConfig,
    MixingConfig,
    ModelConfig,
    OptimizerConfig,
    StrategyConfig,
    config_hash,
    config_json,
)
from evenkeel.models.run import run_directory
from evenkeel.models.telemetry import step_row
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.errors import UsageError
from tests import factories, forked
from tests.factories import needs_addons
from tests.runs import PLAIN, STEPS, TINY, events, finished, fresh, scalars

SHORT = dataclasses.replace(PLAIN, epochs=1)


@functools.cache
def short() -> tuple[str, dict[str, Any]]:
    """The same of SHORT."""
    model_dir = tempfile.mkdtemp(dir=os.environ["EVENKEEL_CACHE"])
    return model_dir, train.train(SHORT, model_dir)


def read_json(*parts: str) -> dict[str, Any]:
    return json.loads(pathlib.Path(*parts).read_text())


def variables(model_dir: str | pathlib.Path, step: int) -> dict[str, np.ndarray]:
    """All that a checkpoint holds."""
    reader = tf.train.load_checkpoint(os.path.join(model_dir, "checkpoints", f"step-{step:08d}", "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if "CHECKPOINTABLE" not in name]
    return {name: reader.get_tensor(name) for name in names}


@pytest.mark.slow
def test_a_run_leaves_its_configuration_and_summary() -> None:
    model_dir, summary = finished()
    assert read_json(model_dir, "config.json") == json.loads(config_json(TINY))
    assert read_json(model_dir, "summary.json") == summary
    assert (summary["status"], summary["steps"], summary["epochs"]) == ("completed", 2 * STEPS, 2.0)
    assert summary["config_hash"] == config_hash(TINY)
    for result in (summary["final"], summary["best"]):
        assert result["loss"] > 0
        assert 0 <= result["accuracy"] <= 1
    assert summary["best"]["accuracy"] >= summary["final"]["accuracy"]
    assert summary["best"]["step"] in (STEPS, 2 * STEPS)
    assert summary["images_per_second"] > 0
    assert 0 < summary["input_stall_fraction"] < 1
    assert (summary["incidents"], summary["skipped_images"]) == ({}, 0)
    assert summary["cpu_seconds"] > summary["first_call"]["cpu_seconds"] > 0
    assert summary["first_call"]["wall_seconds"] > 0
    assert summary["wall_seconds"] > 0
    assert summary["peak_rss_bytes"] > 50 * 2**20
    assert summary["versions"]["tensorflow"] == tf.__version__
    assert "CPU:0" in " ".join(summary["devices"])
    expected = {"config.json", "data.json", "data.npz", "summary.json", "checkpoints", "train", "validation"}
    assert set(os.listdir(model_dir)) == expected


def test_resuming_a_finished_run_changes_nothing(tmp_path: pathlib.Path) -> None:
    model_dir, summary = finished()
    copied = shutil.copytree(model_dir, tmp_path / "run")
    again = train.train(TINY, str(copied), resume=True)
    assert (again["status"], again["steps"]) == ("completed", 2 * STEPS)
    assert again["final"] == pytest.approx(summary["final"], rel=1e-5)
    assert again["best"] == summary["best"]


class RaiseSignal(keras.callbacks.Callback):
    """Sends this process a SIGTERM after the call that ends at `step`."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._step = step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model.step == self._step:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.usefixtures("determinism")
def test_a_run_resumed_on_two_replicas_equals_the_uninterrupted_run_bit_for_bit(tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(
        TINY,
        deterministic=True,
        histograms_every=0,
        strategy=StrategyConfig(name="mirrored", logical_cpus=2),
        averaging=AveragingConfig("ema", decay=0.9),
        mixing=MixingConfig(mixup=0.2, cutmix=1.0),
    )
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train.train(config, str(straight))
    middle = STEPS + 8
    summary = train.train(config, str(resumed), callbacks=[RaiseSignal(middle)])
    assert (summary["status"], summary["signal"], summary["steps"]) == ("preempted", "SIGTERM", middle)
    assert read_json(str(resumed), "summary.json") == summary
    before = variables(resumed, middle)
    assert train.train(config, str(resumed), resume=True)["status"] == "completed"
    assert_equal_checkpoints(straight, resumed, before)
    assert scalars(events(resumed), "step/loss") == scalars(events(straight), "step/loss")


def assert_equal_checkpoints(straight: pathlib.Path, resumed: pathlib.Path, before: dict[str, np.ndarray]) -> None:
    """The last checkpoints of both runs are equal, and the steps since the checkpoint `before` have trained."""
    expected, found = variables(straight, 2 * STEPS), variables(resumed, 2 * STEPS)
    assert expected.keys() == found.keys()
    assert len(expected) > 25, "weights, statistics, slots, counters"
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    moved = [name for name in before if not np.array_equal(before[name], found[name])]
    assert len(moved) > 20, "the steps after the interruption have trained"


class Killed(BaseException):
    """Stands for SIGKILL, which benchmarks.endurance.chaos sends: nothing in the code catches it."""


class Kill(keras.callbacks.Callback):
    """Ends the run after the call that ends at `step`, or in the validation after it."""

    def __init__(self, step: int, validating: bool) -> None:
        super().__init__()
        self._step, self._validating = step, validating

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model.step == self._step and not self._validating:
            raise Killed

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model.step == self._step and self._validating:
            raise Killed


def curves(model_dir: str | pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """All curves of a run except those that measure time."""
    found = {}
    for part in ("train", "validation"):
        read = events(model_dir, part)
        for tag in read.Tags()["tensors"]:
            if (
                tag.startswith(("step/", "epoch/", "layers/", "incidents/"))
                and "input_wait" not in tag
                and "per_second" not in tag
            ):
                found[f"{part}/{tag}"] = scalars(read, tag)
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("determinism")
def test_a_run_killed_and_stopped_several_times_equals_the_uninterrupted_run_bit_for_bit(
    tmp_path: pathlib.Path,
) -> None:
    config = dataclasses.replace(
        TINY,
        deterministic=True,
        guard="act",
        averaging=AveragingConfig("ema", decay=0.9),
        mixing=MixingConfig(mixup=0.2, cutmix=1.0),
        checkpoint=CheckpointConfig(every_steps=8, keep=1),
        early_stopping=5,
    )
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    fresh(config, straight)
    # The third one before the first checkpoint after the restart.
    kills = [(12, False), (STEPS, True), (STEPS + 4, False)]
    for number, (step, validating) in enumerate(kills):
        with pytest.raises(Killed):
            fresh(config, resumed, number > 0, [Kill(step, validating)])
    middle = STEPS + 12
    summary = fresh(config, resumed, True, [RaiseSignal(middle)])
    assert (summary["status"], summary["signal"], summary["steps"]) == ("preempted", "SIGTERM", middle)
    assert read_json(str(resumed), "summary.json") == summary
    before = variables(resumed, middle)
    with pytest.raises(Killed):
        fresh(config, resumed, True, [Kill(2 * STEPS, True)])
    summary = fresh(config, resumed, resume=True)
    assert summary["status"] == "completed"
    assert_equal_checkpoints(straight, resumed, before)
    assert curves(resumed) == curves(straight)
    assert len(curves(resumed)) > 10
    assert summary["best"] == read_json(str(straight), "summary.json")["best"]
    of_resumed, of_straight = (
        read_json(str(run), "checkpoints", f"step-{2 * STEPS:08d}", "state.json") for run in (resumed, straight)
    )
    seen, expected_to_be_seen = (state["guard"].pop("history") for state in (of_resumed, of_straight))
    assert of_resumed == of_straight
    for name in ("steps", "layers", "validated"):
        np.testing.assert_array_equal(seen[name], expected_to_be_seen[name], err_msg=name)
    timed = step_row.COLUMNS.index("input_wait")
    rows = [np.delete(history["rows"], timed, axis=1) for history in (seen, expected_to_be_seen)]
    np.testing.assert_array_equal(*rows)


@pytest.mark.slow
def test_a_signal_in_a_validation_or_before_it_loses_neither_its_result_nor_a_step(tmp_path: pathlib.Path) -> None:
    resumed, config = tmp_path / "resumed", dataclasses.replace(TINY, early_stopping=5)

    class RaiseSignalInValidation(keras.callbacks.Callback):
        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            signal.raise_signal(signal.SIGTERM)

    summary = fresh(config, resumed, callbacks=[RaiseSignalInValidation()])
    assert (summary["status"], summary["steps"]) == ("preempted", STEPS)
    # The last call before the second validation.
    summary = fresh(config, resumed, resume=True, callbacks=[RaiseSignal(2 * STEPS)])
    assert (summary["status"], summary["steps"]) == ("preempted", 2 * STEPS)
    summary = fresh(config, resumed, resume=True)
    assert (summary["status"], summary["steps"]) == ("completed", 2 * STEPS)
    found, expected = curves(resumed), curves(finished()[0])
    assert found.keys() == expected.keys()
    for tag, curve in expected.items():
        assert [step for step, _ in found[tag]] == [step for step, _ in curve], tag
        np.testing.assert_allclose([v for _, v in found[tag]], [v for _, v in curve], rtol=1e-4, err_msg=tag)


@pytest.mark.slow
def test_a_run_is_resumed_with_other_flags_only_if_that_is_allowed_and_loses_only_a_truncated_record(
    tmp_path: pathlib.Path, caplog: Any
) -> None:
    """The event file of the run that is resumed has been cut short in its last record."""
    run = shutil.copytree(short()[0], tmp_path / "run")
    with pytest.raises(
        UsageError, match=r"epochs is 1 in the run, 2 now.*--allow_config_change goes on with the new one"
    ):
        train.train(PLAIN, str(run), resume=True)
    written = max((run / "train").glob("events*"), key=lambda path: path.stat().st_size)
    os.truncate(written, written.stat().st_size - 10)
    summary = train.train(PLAIN, str(run), resume=True, allow_config_change=True)
    assert (summary["status"], summary["steps"]) == ("completed", 2 * STEPS)
    assert "resuming with another configuration: epochs is 1 in the run, 2 now" in caplog.text
    assert read_json(str(run), "config.json")["epochs"] == 2
    steps = [step for step, _ in scalars(events(run), "step/loss")]
    assert steps == sorted(set(steps)), "no step appears twice"
    assert steps[-1] == 2 * STEPS - 1
    assert len(steps) >= 2 * STEPS - 10, "a record holds the steps of one call"


def test_a_run_is_resumed_with_another_number_of_replicas(tmp_path: pathlib.Path) -> None:
    run = shutil.copytree(short()[0], tmp_path / "run")
    two = StrategyConfig(name="mirrored", logical_cpus=2)
    summary = train.train(dataclasses.replace(SHORT, strategy=two), str(run), resume=True)
    assert (summary["status"], summary["steps"]) == ("completed", STEPS)


@pytest.mark.slow
def test_a_run_that_stopped_early_is_not_trained_further(tmp_path: pathlib.Path) -> None:
    optimizer = OptimizerConfig(name="adam", learning_rate=1e-12)
    config = dataclasses.replace(PLAIN, epochs=5, early_stopping=1, optimizer=optimizer)
    first = train.train(config, str(tmp_path))
    assert (first["status"], first["steps"], first["epochs"]) == ("stopped_early", 2 * STEPS, 2.0)
    again = train.train(config, str(tmp_path), resume=True)
    assert (again["status"], again["steps"]) == ("stopped_early", 2 * STEPS)


@keras.utils.register_keras_serializable("tests")
class Fails(keras.layers.Layer):
    """Makes its inputs infinite at some steps of training."""

    def __init__(self, first: int, last: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first, self.last = first, last

    def build(self, input_shape: Any) -> None:
        self.count = self.add_weight("count", [], tf.int64, "zeros", trainable=False)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training:
            return inputs
        step = self.count.assign_add(1) - 1
        return inputs * tf.where((self.first <= step) & (step < self.last), np.inf, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "first": self.first, "last": self.last}


def failing(input_shape: tuple[int, int, int], classes: int, first: int, last: int) -> keras.Model:
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, factories.plain(input_shape, classes)(Fails(first, last)(inputs)))


fails_a_while = functools.partial(failing, first=5, last=9)
fails_for_good = functools.partial(failing, first=5, last=10**6)


@pytest.mark.slow
def test_skipped_updates_are_recorded_and_training_goes_on(tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(PLAIN, epochs=1, model=ModelConfig(name=f"{__file__}:fails_a_while"))
    summary = train.train(config, str(tmp_path))
    assert (summary["status"], summary["steps"]) == ("completed", STEPS)
    assert summary["incidents"] == {"nonfinite_gradient": 4, "nonfinite": 1}
    incidents = [json.loads(line) for line in (tmp_path / "incidents.jsonl").read_text().splitlines()]
    skipped = [incident for incident in incidents if incident["kind"] == "nonfinite_gradient"]
    assert [incident["step"] for incident in skipped] == [5, 6, 7, 8]
    for incident in skipped:
        assert incident["action"] == "skipped the update"
        assert incident["cause"] is None
        assert incident["evidence"]["gradient_norm"] in ("nan", "inf")
        assert incident["evidence"]["nonfinite"] == 1
        assert incident["evidence"]["loss_scale"] == 1
    assert np.isfinite(summary["final"]["loss"])
    # The guard tells of the third one in a row.
    (told,) = [incident for incident in incidents if incident["kind"] == "nonfinite"]
    assert (told["step"], told["action"]) == (7, "none")
    read = EventAccumulator(str(tmp_path / "train"), size_guidance={"tensors": 0}).Reload()
    assert [event.step for event in read.Tensors("incidents/nonfinite")] == [7]
    assert [event.step for event in read.Tensors("incidents/nonfinite_gradient")] == [5, 6, 7, 8]
    assert b"nonfinite" in b"".join(bytes(e.tensor_proto.string_val[0]) for e in read.Tensors("incidents"))


@pytest.mark.slow
def test_a_guard_that_has_used_up_its_rollbacks_ends_the_run(tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(PLAIN, epochs=10, guard="act", model=ModelConfig(name=f"{__file__}:fails_for_good"))
    summary = train.train(config, str(tmp_path))
    assert summary["status"] == "failed"
    assert "after 5 rollbacks within 1000 steps" in summary["reason"]
    assert summary["incidents"]["nonfinite"] == 6


@pytest.mark.slow
def test_a_guard_changes_nothing_in_a_run_without_incidents(tmp_path: pathlib.Path) -> None:
    """SHORT has the guard that watches; a run below, that was killed before its first checkpoint, has none."""
    watched, other = short()[1], train.train(dataclasses.replace(SHORT, guard="act"), str(tmp_path))
    assert other["final"] == watched["final"]


def test_resume_without_a_run_or_an_undamaged_checkpoint_is_an_error(tmp_path: pathlib.Path) -> None:
    absent = tmp_path / "absent"
    with pytest.raises(UsageError, match=r"--resume: model_dir \(.*absent\) holds no run; leave --resume out"):
        train.train(TINY, str(absent), resume=True)
    assert not absent.exists()
    run_directory.create(str(tmp_path / "begun"), PLAIN, load_dataset(PLAIN.data), resume=False)
    (tmp_path / "begun/checkpoints/damaged-step-00000010").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"--resume: every checkpoint in .* is damaged: start over with --overwrite"):
        train.train(PLAIN, str(tmp_path / "begun"), resume=True)


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_starts_from_the_beginning(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = dataclasses.replace(SHORT, guard="off")
    run_directory.create(str(tmp_path / "begun"), config, load_dataset(config.data), resume=False)
    summary = train.train(config, str(tmp_path / "begun"), resume=True)
    assert (summary["status"], summary["steps"]) == ("completed", STEPS)
    assert summary["final"] == short()[1]["final"], "neither does a guard change anything"
    assert "yet: starting from the beginning" in caplog.text


@pytest.mark.slow
def test_a_run_that_skips_every_update_fails_with_exit_code_3(tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(PLAIN, epochs=10, model=ModelConfig(name=f"{__file__}:fails_for_good"))
    (tmp_path / "given.json").write_text(config_json(config))
    flags = [f"--config={tmp_path / 'given.json'}", f"--model_dir={tmp_path / 'run'}"]
    done = forked.run("tools.train", *flags)
    assert done.returncode == 3, done.stderr
    reason = (
        r"the last 10[0-3] updates were all skipped for a non-finite gradient: lower --optimizer.learning_rate,"
        r" set --optimizer.clip_norm=1, or use --precision=float32\."
    )
    assert re.fullmatch(f"error: {reason}", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr
    summary = read_json(str(tmp_path), "run", "summary.json")
    assert summary["status"] == "failed"
    assert re.fullmatch(reason, summary["reason"])
    assert 105 <= summary["steps"] < 110, "it ends after the call that reaches the limit"
    told = {"nonfinite_gradient": summary["steps"] - 5, "nonfinite": 1}
    assert summary["incidents"] == told
    assert len((tmp_path / "run" / "incidents.jsonl").read_text().splitlines()) == sum(told.values())


@pytest.mark.slow
@needs_addons
def test_options_for_imbalanced_classes_work_together(tmp_path: pathlib.Path) -> None:
    shapes = dataclasses.replace(PLAIN.data.shapes, imbalance=8.0)
    data = dataclasses.replace(PLAIN.data, shapes=shapes, balance="classes")
    config = dataclasses.replace(PLAIN, loss="focal", class_weights="balanced", data=data)
    summary = train.train(config, str(tmp_path / "run"))
    assert summary["status"] == "completed"
    losses = [value for _, value in scalars(events(tmp_path / "run"), "step/loss")]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
