"""The GPU cases also run on a CPU, with a small network; without a GPU the suite is skipped with the reason."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from evenkeel.benchmarks import results
from evenkeel.benchmarks.speed import gpu_cases
from evenkeel.benchmarks.timing import Sample
from evenkeel.models.config import ModelConfig
from evenkeel.pipeline import build
from evenkeel.pipeline.config import DataConfig
from tests import factories, forked


def share_first_result(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which runs at its first call only: all cases have the same data."""
    results: list[Any] = []

    def sharing(*args: Any, **options: Any) -> Any:
        if not results:
            results.append(function(*args, **options))
        return results[0]

    return sharing


@pytest.mark.slow
def test_every_case_trains(small: DataConfig, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_cases, "STEPS_PER_CALL", 2)
    monkeypatch.setattr(build, "training_batches", share_first_result(build.training_batches))
    monkeypatch.setattr(gpu_cases, "STEPS_PER_TURN", 4)
    cases = gpu_cases.build_turns(
        dataclasses.replace(small, batch_size=4), ModelConfig(name=f"{factories.FILE}:plain"), str(tmp_path)
    )
    kinds = {"plain", "xla", "whole", "watched"}
    assert set(cases) == {
        *(f"{precision}/{kind}" for precision in ("bfloat16", "float16") for kind in kinds),
        "bfloat16/held",
        "bfloat16/fed",
    }
    for turn in cases.values():
        turn()
        turn()
    for precision in ("bfloat16", "float16"):
        tags = event_accumulator.EventAccumulator(str(tmp_path / precision / "train")).Reload().Tags()
        assert any(tag.startswith("gradients/") for tag in tags["tensors"])
        assert any(tag.startswith("layers/") for tag in tags["tensors"])


def test_ratios_are_between_turns_of_the_same_round() -> None:
    seconds = {
        "bfloat16/xla": (1.0, 2.0),
        "bfloat16/watched": (1.1, 2.1),
        "bfloat16/held": (1, 2),
        "bfloat16/fed": (2, 2),
    }
    samples = {name: [Sample(9.0, value) for value in walls] for name, walls in seconds.items()}
    measured = {
        (result.case, result.metric): result for result in gpu_cases.results_from_samples(samples, batch_size=10)
    }
    assert measured["bfloat16/xla", "images_per_second"].samples == (1000.0, 500.0)
    assert measured["bfloat16/watched", "added_wall_fraction"].samples == pytest.approx((0.1, 0.05))
    assert measured["bfloat16/fed", "throughput_share"].samples == (0.5, 1.0)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
def test_without_a_gpu_the_suite_is_skipped_with_the_reason(tmp_path: pathlib.Path) -> None:
    done = forked.run("evenkeel.benchmarks.speed.gpu", f"--output={tmp_path / 'result.json'}")
    assert done.returncode == 0, done.stderr
    assert "skipped: TensorFlow finds no GPU here" in done.stderr
    report = results.read(str(tmp_path / "result.json"))
    assert [(entry.case, entry.reason) for entry in report.skipped] == [("gpu", "TensorFlow finds no GPU here")]
    assert not report.results
