"""Runs that take turns on compiled models: each goes its own way, bit for bit as if it were alone."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from evenkeel.models import callbacks
from evenkeel.models import train as training
from evenkeel.models.config import (
    ModelConfig,
    OptimizerConfig,
    StrategyConfig,
    TrainConfig,
)
from evenkeel.models.doctor.replay import HOPELESS, Bench, changed
from evenkeel.models.telemetry import step_row
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError

STEPS = 15  # steps in an epoch of `small`: 300 images in batches of 20


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench()


@pytest.fixture
def config(small: DataConfig) -> TrainConfig:
    optimizer = OptimizerConfig(learning_rate=0.05, schedule="constant")
    model = ModelConfig(name="cnn", width=4, dropout=0.2)
    return TrainConfig(epochs=2, data=small, model=model, optimizer=optimizer, precision="float32")


def test_changed_reaches_every_depth_and_leaves_the_rest() -> None:
    config = TrainConfig()
    new = changed(config, {"epochs": 3, "optimizer.learning_rate": 2.0, "data.augment.flip": 0.25})
    assert (new.epochs, new.optimizer.learning_rate, new.data.augment.flip) == (3, 2.0, 0.25)
    assert changed(new, {"epochs": 10, "optimizer.learning_rate": 0.1, "data.augment.flip": 0.0}) == config
    with pytest.raises(UsageError, match=r"^model\.dropout \(7\.0\) is a share"):
        changed(config, {"model.dropout": 7.0})


@pytest.mark.slow
def test_it_is_the_run_that_train_makes(bench: Bench, config: TrainConfig, tmp_path) -> None:
    seen: list[np.ndarray] = []

    class Meter(callbacks.Meter):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(self.model.rows)
            super().on_train_batch_end(batch, logs)

    with pytest.MonkeyPatch.context() as patching:
        patching.setattr(callbacks, "Meter", Meter)
        summary = training.train(config, str(tmp_path / "run"))
    run = bench.begin(config)
    bench.advance(run, 2 * STEPS)
    rows = np.concatenate(seen)
    for name in ("loss", "accuracy", "gradient_norm"):
        np.testing.assert_allclose(
            step_row.column(run.rows, name), step_row.column(rows, name), rtol=2e-3, err_msg=name
        )
    assert bench.validate(run)[0] == pytest.approx(summary["final"]["accuracy"], abs=0.05)


def test_runs_that_take_turns_do_not_touch_each_other(bench: Bench, config: TrainConfig) -> None:
    alone = bench.begin(config)
    bench.advance(alone, 20)
    first, second = bench.begin(config), bench.begin(changed(config, {"optimizer.learning_rate": 0.5}))
    assert bench._compiled(first.config, first.data) is bench._compiled(second.config, second.data)
    for run in (first, second, first, second):
        bench.advance(run, 10)
    np.testing.assert_array_equal(first.loss, alone.loss)
    assert first.loss[0] == second.loss[0]
    assert not np.array_equal(first.loss, second.loss)
    np.testing.assert_allclose(step_row.column(second.rows, "learning_rate"), 0.5)


def test_another_momentum_is_another_function(bench: Bench, config: TrainConfig) -> None:
    first, second = bench.begin(config), bench.begin(changed(config, {"optimizer.momentum": 0.5}))
    assert bench._compiled(first.config, first.data) is not bench._compiled(second.config, second.data)


def test_seeds_differ(bench: Bench, config: TrainConfig) -> None:
    first, second = bench.begin(config), bench.begin(dataclasses.replace(config, seed=1))
    for run in (first, second):
        bench.advance(run, 5)
    assert first.loss[0] != second.loss[0]


def test_a_trace_holds_what_detectors_want(bench: Bench, config: TrainConfig) -> None:
    run = bench.begin(config)
    bench.advance(run, 25)
    bench.validate(run)
    bench.advance(run, 5)
    trace = bench.trace(run)
    np.testing.assert_array_equal(trace.steps, np.arange(30))
    np.testing.assert_array_equal(trace.due, [0, 20])
    np.testing.assert_array_equal(trace.validated, [25])
    assert trace.training_loss[0] == pytest.approx(np.median(run.loss[:25]))
    assert trace.layers["gradient_norm"].shape == (2, len(bench.places(run)))
    assert trace.began == pytest.approx(np.median(run.loss[:10]))


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint(bench: Bench, config: TrainConfig, tmp_path) -> None:
    training.train(config, str(tmp_path / "run"))
    run = bench.begin(config, os.path.join(tmp_path, "run", "checkpoints", "step-00000015"))
    assert (run.first_step, run.step) == (15, 15)
    bench.advance(run, 15)
    whole = bench.begin(config)
    bench.advance(whole, 30)
    np.testing.assert_allclose(run.loss, whole.loss[15:], rtol=2e-3)


def test_a_run_whose_weights_cannot_change_ends(bench: Bench, config: TrainConfig) -> None:
    run = bench.begin(changed(config, {"optimizer.learning_rate": 1e30}))
    bench.advance(run, 200)
    assert HOPELESS <= len(run.loss) < 200
    assert not np.isfinite(run.loss[-1])


@pytest.mark.slow
def test_replicas_agree_with_one(config: TrainConfig) -> None:
    bench = Bench(StrategyConfig(name="mirrored", logical_cpus=2))
    assert bench.replicas == 2
    config = changed(config, {"model.dropout": 0.0, "model.norm": "group"})
    runs = [each.begin(config) for each in (bench, Bench())]
    for each, run in zip((bench, Bench()), runs, strict=True):
        each.advance(run, 10)
        each.validate(run)
    np.testing.assert_allclose(runs[0].loss, runs[1].loss, rtol=1e-3)
    assert runs[0].validated[0][1] == pytest.approx(runs[1].validated[0][1], abs=0.04)
