"""The model that a configuration describes: steps in a call, and options that replicas do not support."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest

from evenkeel.models import train
from evenkeel.models.config import ModelConfig, OptimizerConfig, StrategyConfig, TrainConfig
from evenkeel.models.training import build_model
from evenkeel.pipeline.errors import UsageError
from tests.runs import TINY


@pytest.mark.parametrize(
    ("given", "every", "per_epoch", "expected"), [(0, 100, 500, 20), (0, 100, 7, 7), (0, 5, 500, 5), (0, 0, 500, 20)]
)
def test_a_call_ends_with_the_epoch_and_before_the_next_histograms(
    given: int, every: int, per_epoch: int, expected: int
) -> None:
    config = TrainConfig(steps_per_execution=given, histograms_every=every)
    assert build_model.automatic_steps_per_execution(config, per_epoch) == expected


TWO_REPLICAS = StrategyConfig(name="mirrored", logical_cpus=2)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"optimizer": OptimizerConfig(name="nadam")},
            "optimizer.name=nadam runs on one replica, and there are 2",
        ),
        (
            {"optimizer": OptimizerConfig(name="lookahead")},
            "optimizer.name=lookahead runs on one replica, and there are 2",
        ),
        (
            {"optimizer": OptimizerConfig(accumulate=3)},
            r"optimizer.accumulate \(3\) must divide a replica's batch \(8\)",
        ),
        ({"model": ModelConfig("cnn", norm="sync_batch"), "xla": "on"}, "which XLA does not support: add --xla=off"),
        (
            {"model": ModelConfig("cnn", norm="sync_batch"), "optimizer": OptimizerConfig(accumulate=2)},
            r"which gradient accumulation \(optimizer.accumulate=2\) does not support: set optimizer.accumulate to 1",
        ),
        ({"model": ModelConfig("cnn", spectral_norm=True)}, "add --strategy.name=one or --nomodel.spectral_norm"),
    ],
)
def test_options_that_two_replicas_do_not_support_are_errors(
    changes: dict[str, Any], error: str, tmp_path: pathlib.Path
) -> None:
    config = dataclasses.replace(TINY, strategy=TWO_REPLICAS, **changes)
    with pytest.raises(UsageError, match=error):
        train.train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
