"""Runs that take turns on compiled models: each is bit for bit as if it were alone."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import pytest

from evenkeel.models import train as training
from evenkeel.models.config import (
    ModelConfig,
    OptimizerConfig,
    StrategyConfig,
    TrainConfig,
    with_options,
)
from evenkeel.models.doctor.replay import MAX_SKIPPED_UPDATES, ReplayEngine
from evenkeel.models.telemetry import step_row
from evenkeel.pipeline.config import DataConfig
from tests import factories

STEPS = 15  # steps in an epoch of `small`: 300 images in batches of 20


@pytest.fixture(scope="module")
def engine() -> ReplayEngine:
    return ReplayEngine()


@pytest.fixture(scope="module")
def config(small: DataConfig) -> TrainConfig:
    optimizer = OptimizerConfig(learning_rate=0.05, schedule="constant")
    model = ModelConfig(name=f"{factories.FILE}:normed")  # with BatchNorm and Dropout
    return TrainConfig(epochs=2, data=small, model=model, optimizer=optimizer, precision="float32")


@pytest.fixture(scope="module")
def trained(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], np.ndarray]:
    """A run of `train`: its directory, its summary, and the telemetry of its steps."""
    model_dir, seen = str(tmp_path_factory.mktemp("trained") / "run"), factories.Rows()
    summary = training.train(config, model_dir, callbacks=[seen])
    return model_dir, summary, np.concatenate(seen.blocks)


@pytest.mark.slow
def test_a_replay_equals_the_run_of_train(engine: ReplayEngine, config: TrainConfig, trained) -> None:
    _, summary, rows = trained
    run = engine.begin(config)
    engine.advance(run, 2 * STEPS)
    for name in ("loss", "accuracy", "gradient_norm"):
        np.testing.assert_allclose(
            step_row.column(run.rows, name), step_row.column(rows, name), rtol=2e-3, err_msg=name
        )
    assert engine.validate(run)[0] == pytest.approx(summary["final"]["accuracy"], abs=0.05)


@pytest.mark.slow
def test_runs_that_take_turns_do_not_affect_each_other(engine: ReplayEngine, config: TrainConfig) -> None:
    alone = engine.begin(config)
    engine.advance(alone, 20)
    first, second = engine.begin(config), engine.begin(with_options(config, {"optimizer.learning_rate": 0.5}))
    assert engine._compiled_model(first.config, first.data) is engine._compiled_model(second.config, second.data)
    for run in (first, second, first, second):
        engine.advance(run, 10)
    np.testing.assert_array_equal(first.loss, alone.loss)
    assert first.loss[0] == second.loss[0]
    assert not np.array_equal(first.loss, second.loss)
    np.testing.assert_allclose(step_row.column(second.rows, "learning_rate"), 0.5)


def test_another_momentum_needs_another_model(engine: ReplayEngine, config: TrainConfig) -> None:
    first, second = engine.begin(config), engine.begin(with_options(config, {"optimizer.momentum": 0.5}))
    assert engine._compiled_model(first.config, first.data) is not engine._compiled_model(second.config, second.data)


def test_runs_with_different_seeds_differ(engine: ReplayEngine, config: TrainConfig) -> None:
    first, second = engine.begin(config), engine.begin(dataclasses.replace(config, seed=1))
    for run in (first, second):
        engine.advance(run, 5)
    assert first.loss[0] != second.loss[0]


def test_a_trace_has_what_detectors_need(engine: ReplayEngine, config: TrainConfig) -> None:
    run = engine.begin(config)
    engine.advance(run, 25)
    engine.validate(run)
    engine.advance(run, 5)
    trace = engine.trace(run)
    np.testing.assert_array_equal(trace.steps, np.arange(30))
    np.testing.assert_array_equal(trace.due, [0, 20])
    np.testing.assert_array_equal(trace.validated, [25])
    assert trace.training_loss[0] == pytest.approx(np.median(run.loss[:25]))
    assert trace.layers["gradient_norm"].shape == (2, len(engine.layer_names(run)))
    assert trace.began == pytest.approx(np.median(run.loss[:10]))


@pytest.mark.slow
def test_a_run_continues_from_a_checkpoint(engine: ReplayEngine, config: TrainConfig, trained) -> None:
    model_dir, _, _ = trained
    run = engine.begin(config, os.path.join(model_dir, "checkpoints", "step-00000015"))
    assert (run.first_step, run.step) == (15, 15)
    engine.advance(run, 15)
    whole = engine.begin(config)
    engine.advance(whole, 30)
    np.testing.assert_allclose(run.loss, whole.loss[15:], rtol=2e-3)


def test_a_run_that_is_stuck_ends(engine: ReplayEngine, config: TrainConfig) -> None:
    run = engine.begin(with_options(config, {"optimizer.learning_rate": 1e30}))
    engine.advance(run, 200)
    assert MAX_SKIPPED_UPDATES <= len(run.loss) < 200
    assert not np.isfinite(run.loss[-1])


@pytest.mark.slow
def test_replicas_agree_with_one(config: TrainConfig) -> None:
    engine = ReplayEngine(StrategyConfig(name="mirrored", logical_cpus=2))
    assert engine.replicas == 2
    config = with_options(config, {"model.name": f"{factories.FILE}:plain"})  # without BatchNorm and Dropout
    runs = []
    for each in (engine, ReplayEngine()):
        runs.append(each.begin(config))
        each.advance(runs[-1], 10)
        each.validate(runs[-1])
    np.testing.assert_allclose(runs[0].loss, runs[1].loss, rtol=1e-3)
    assert runs[0].validated[0][1] == pytest.approx(runs[1].validated[0][1], abs=0.04)
