"""Preflight as a whole: all findings, their report, the background thread, and runs that it must not change."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import signal
import threading
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models import train
from evenkeel.models.config import MixingConfig, OptimizerConfig, StrategyConfig, TrainConfig
from evenkeel.models.distribute import strategy
from evenkeel.models.preflight import image_checks
from evenkeel.models.preflight import preflight as module
from evenkeel.models.preflight.preflight import BackgroundPreflight, isolate_keras_state, report_findings, run_checks
from evenkeel.models.stability.causes import CAUSES
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.models.telemetry.incidents import Incidents
from evenkeel.pipeline.config import AugmentConfig, ShapesConfig
from evenkeel.pipeline.dataset import Dataset, load_dataset
from tests.models.preflight.cases import by_check, failed, train_config

ROOT = pathlib.Path(__file__).parents[3]
layers = keras.layers


@pytest.mark.slow
def test_the_quick_preset_passes_all_checks() -> None:
    from evenkeel.models.config import from_dict
    from evenkeel.models.presets import PRESETS

    config = from_dict(TrainConfig, PRESETS["quick"])
    small = dataclasses.replace(config.data, shapes=ShapesConfig(count=1200))
    config = dataclasses.replace(config, data=small)
    findings = run_checks(config, load_dataset(small), tf.distribute.get_strategy())
    assert [finding.line for finding in findings if not finding.ok] == []
    assert len(findings) == 42


@pytest.mark.slow
def test_every_finding_is_complete_and_names_known_causes(data: Dataset) -> None:
    findings = run_checks(train_config(), data, tf.distribute.get_strategy())
    for finding in findings:
        assert set(finding.causes) <= set(CAUSES), finding.check
        assert type(finding.ok) is bool
        assert finding.seen
        assert finding.rule
        assert finding.remedy
    json.dumps([dataclasses.asdict(finding) for finding in findings])


def test_layer_names_and_seeds_are_restored() -> None:
    def state() -> tuple[Any, ...]:
        keras.utils.set_random_seed(7)
        before = layers.Dense(1).name
        with isolate_keras_state(7):
            keras.Sequential([layers.Input((3,)), layers.Dense(5), layers.Conv1D(1, 1)][:2])
            np.random.random(3)
        after = layers.Dense(1).name
        return before, after, np.random.random(), layers.Dense(2)(tf.ones([1, 2])).numpy().tolist()

    keras.backend.clear_session()
    before, after, draw, output = state()
    assert (before, after) == ("dense", "dense_1")
    keras.utils.set_random_seed(7)
    assert draw == np.random.random()
    assert output == layers.Dense(2)(tf.ones([1, 2])).numpy().tolist()


def test_only_failed_checks_are_reported(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    incidents = Incidents(str(tmp_path / "incidents.jsonl"))
    report_findings(
        [Finding("sound", True, "a", "b"), Finding("odd", False, "one", "two", "Three.", {"four": 4.0})], incidents
    )
    (line,) = (tmp_path / "incidents.jsonl").read_text().splitlines()
    incident = json.loads(line)
    expected = {"step": 0, "kind": "preflight_odd", "evidence": {"four": 4}, "action": "none"}
    assert {name: incident[name] for name in expected} == expected
    assert incidents.counts == {"preflight_odd": 1}


def test_on_several_workers_only_configuration_and_index_are_checked(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_checks, "training_batches", None)
    monkeypatch.setattr(module, "FirstBatchPass", None)

    class Workers(tf.distribute.MultiWorkerMirroredStrategy):
        num_replicas_in_sync = 2

        def __init__(self) -> None:
            """Without a cluster to join."""

    findings = by_check(run_checks(train_config(), data, Workers()))
    assert failed(findings) == set()
    assert {"steps", "image_skew", "network"} <= set(findings)
    assert "images and labels were not checked" in findings["network"].seen


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_run_is_bit_for_bit_the_same_with_and_without_preflight(replicas: int, tmp_path: pathlib.Path) -> None:
    devices = StrategyConfig(name="mirrored", logical_cpus=2) if replicas == 2 else StrategyConfig(name="one")
    config = train_config(
        "shallow_and_halved",
        epochs=2,
        strategy=devices,
        augment=AugmentConfig(flip=0.5, pad_crop=2),
        mixing=MixingConfig(mixup=0.2),
        optimizer=OptimizerConfig(name="adam", learning_rate=0.01),
    )
    finals = {}
    for preflight in ("on", "off"):
        run = dataclasses.replace(config, preflight=preflight)
        summary = train.train(run, str(tmp_path / preflight))
        finals[preflight] = summary["final"]
        kinds = {kind for kind in summary["incidents"] if kind.startswith("preflight_")}
        assert kinds == ({"preflight_steps"} if preflight == "on" else set()), "30 updates are few"
    assert finals["on"] == finals["off"]


def test_findings_of_images_are_reported_once_the_thread_ends() -> None:
    started, released, incidents = threading.Event(), threading.Event(), Incidents()
    findings = [Finding("odd", False, "four", "three", "take one away"), Finding("even", True, "two", "two")]

    def check_images() -> list[Finding]:
        started.set()
        assert released.wait(100)
        return findings

    background = BackgroundPreflight(check_images, incidents)
    assert not started.is_set(), "nothing is checked before the first steps"
    background.on_train_batch_end(0)
    assert started.wait(100)
    assert not incidents.counts
    released.set()
    for _ in range(2):
        background.finish()
        background.on_train_batch_end(1)
        assert incidents.counts == {"preflight_odd": 1}
    assert background.state() == {"told": True}


def test_finish_waits_for_the_checks_of_images() -> None:
    incidents = Incidents()
    BackgroundPreflight(lambda: [Finding("odd", False, "four", "three")], incidents).finish()
    assert incidents.counts == {"preflight_odd": 1}


@pytest.mark.slow
def test_an_exception_in_the_checks_of_images_is_logged(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> list[Finding]:
        raise MemoryError("no more")

    monkeypatch.setattr(image_checks, "check_images", broken)
    assert train.train(train_config("shallow", epochs=1), str(tmp_path / "run"))["status"] == "completed"
    assert "the images could not be checked: MemoryError: no more" in caplog.text


@pytest.mark.slow
def test_a_signal_skips_the_checks_of_images_and_the_resumed_run_repeats_them(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, odd = threading.Event(), [Finding("odd", False, "four", "three")]
    check_images = lambda *_: released.wait(100) and odd  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(image_checks, "check_images", check_images)
        send_sigterm = lambda *_: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
        patch.setattr(BackgroundPreflight, "on_train_batch_end", send_sigterm)
        summary = train.train(train_config("shallow", epochs=2), str(tmp_path / "run"))
    assert (summary["status"], summary["incidents"]) == ("preempted", {"preflight_steps": 1})
    released.set()
    monkeypatch.setattr(image_checks, "check_images", check_images)
    summary = train.train(train_config("shallow", epochs=2), str(tmp_path / "run"), resume=True)
    assert summary["status"] == "completed"
    assert summary["incidents"] == {"preflight_steps": 1, "preflight_odd": 1}


@pytest.mark.slow
def test_a_resumed_run_reports_nothing_twice(tmp_path: pathlib.Path) -> None:
    noise = AugmentConfig(noise=255.0)
    config = train_config(
        "shallow", epochs=1, augment=noise, optimizer=OptimizerConfig(name="adam", learning_rate=0.01)
    )
    expected = {"preflight_steps": 1, "preflight_augmentation": 1}
    assert train.train(config, str(tmp_path / "run"))["incidents"] == expected
    lines = (tmp_path / "run/incidents.jsonl").read_text()
    assert train.train(config, str(tmp_path / "run"), resume=True)["incidents"] == expected
    assert (tmp_path / "run/incidents.jsonl").read_text() == lines


def test_the_network_of_several_replicas_is_checked_on_one(data: Dataset) -> None:
    devices = strategy.create_strategy(StrategyConfig(name="mirrored", logical_cpus=2))
    findings = by_check(run_checks(train_config(batch_size=8), data, devices))
    assert findings["batch_norm_batch"].evidence["images"] == 4
    assert failed(findings) == {"batch_norm_batch"}


@pytest.mark.slow
def test_full_adds_the_slow_checks(data: Dataset) -> None:
    range_tests: list[Any] = []
    config = train_config("shallow", preflight="full", optimizer=OptimizerConfig(learning_rate=0.02))
    findings = by_check(run_checks(config, data, tf.distribute.get_strategy(), range_tests.append))
    assert {"one_batch", "label_noise", "learning_rate_range"} <= set(findings)
    assert failed(findings) == set()
    assert len(range_tests) == 1
