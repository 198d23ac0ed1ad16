"""Refinement of a fix, with accuracies from a formula and with a real network."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from evenkeel.models.config import ModelConfig, OptimizerConfig, TrainConfig, with_options
from evenkeel.models.doctor.interventions import (
    PRIOR_POSSIBLE,
    PRIOR_UNLIKELY,
    PRIOR_UNUSUAL,
    Intervention,
)
from evenkeel.models.doctor.refine_fix import MAX_ADDITIONS, MIN_ADDED_UTILITY, refine_fix
from evenkeel.models.doctor.replay import ReplayEngine
from evenkeel.models.doctor.trials import Trial, Trials
from evenkeel.pipeline.config import DataConfig
from tests.models.doctor import cases

IMAGES = 1000
RATE, PATCH = "optimizer.learning_rate", "model.patch"


class FunctionTrials(Trials):
    """Trials whose accuracy is a function of their flags."""

    def __init__(self, accuracy: Callable[[dict[str, Any]], float]) -> None:
        self._accuracy = accuracy
        self._config = TrainConfig(optimizer=OptimizerConfig(learning_rate=1.0))

    def _start(self, change: Intervention) -> Trial:
        accuracy = self._accuracy(change.flags)
        run = types.SimpleNamespace(
            config=with_options(self._config, change.flags),
            validated=[(100, accuracy, 1.0)],
            correct=np.full(IMAGES, accuracy),  # the accuracies go beyond 0 and 1
            losses=np.ones(IMAGES),
            data=types.SimpleNamespace(classes=range(10)),
        )
        return Trial(change, run)

    def finish(self, trial: Trial) -> None:
        pass


def accuracy_of(best: float, **worth: float) -> Callable[[dict[str, Any]], float]:
    """0.8 at the `best` learning rate, 0.1 less for each factor of 2 from it, plus `worth` of the patches."""

    def accuracy(flags: dict[str, Any]) -> float:
        patches = filter(None, flags.get(PATCH, "").split(","))
        return 0.8 - 0.1 * abs(math.log2(flags.get(RATE, 1.0) / best)) + sum(worth.get(name, 0.0) for name in patches)

    return accuracy


def flag_values(trials: list[Trial], name: str) -> list[Any]:
    return [trial.intervention.flags.get(name) for trial in trials]


@pytest.mark.parametrize(
    ("best", "expected", "rates"),
    [(1.0, 1.0, [0.5, 2.0]), (0.5, 0.5, [0.5, 2.0, 0.25]), (2.0, 2.0, [0.5, 2.0, 4.0]), (5.0, 4.0, [0.5, 2.0, 4.0])],
)
def test_the_learning_rate_of_a_fix_is_refined(best: float, expected: float, rates: list[float]) -> None:
    trials, fix = FunctionTrials(accuracy_of(best)), {RATE: 1.0, "optimizer.momentum": 0.9}
    known = [trials.run_in_full(Intervention("learning_rate_high", flags)) for flags in ({**fix, "epochs": 2}, fix)]
    refined, refinements = refine_fix(trials, fix, known)
    assert refined == {**fix, RATE: expected}
    assert flag_values(refinements, RATE) == rates


@pytest.mark.parametrize(("best", "expected"), [(1.12, None), (2.0, 2.0)])
def test_a_fix_without_learning_rate_gets_one_if_it_helps(best: float, expected: float | None) -> None:
    trials, fix = FunctionTrials(accuracy_of(best)), {"optimizer.momentum": 0.9}
    refined, refinements = refine_fix(trials, fix, [trials.run_in_full(Intervention("momentum", fix))])
    assert refined == ({**fix, RATE: expected} if expected else fix)
    assert set(flag_values(refinements, RATE)) >= {0.5, 2.0}


@pytest.mark.parametrize(("worth", "kept"), [(MIN_ADDED_UTILITY / 2, False), (2 * MIN_ADDED_UTILITY, True)])
def test_a_further_change_is_kept_if_it_helps(worth: float, kept: bool) -> None:
    trials, fix = FunctionTrials(accuracy_of(1.0, batch_norm=worth)), {PATCH: "relu"}
    known = [trials.run_in_full(Intervention("saturating_activation", fix)), trials.run_in_full(NORM)]
    assert refine_fix(trials, fix, known)[0] == {PATCH: "relu,batch_norm" if kept else "relu"}


NORM = Intervention("no_normalization", {PATCH: "batch_norm"}, PRIOR_UNLIKELY, generic=True)


def test_the_most_promising_independent_changes_are_added() -> None:
    trials, fix = FunctionTrials(accuracy_of(1.0)), {"optimizer.momentum": 0.9}
    others = [
        Intervention("momentum", {**fix, "epochs": 9}, PRIOR_UNUSUAL),  # another momentum
        Intervention("train_validation_skew", {"data.train_split": "train[:80%]"}, PRIOR_UNUSUAL, cures=False),
        Intervention("learning_rate_high", {RATE: 0.25}, PRIOR_UNUSUAL),
        Intervention("initialization", {PATCH: "he_normal"}, PRIOR_POSSIBLE),
        Intervention("learning_rate_high", {"optimizer.clip_norm": 1.0}, PRIOR_UNUSUAL),
        Intervention("learning_rate_high", {"optimizer.clip_norm": 0.1}, PRIOR_POSSIBLE),
        NORM,
    ]
    known = [trials.run_in_full(change) for change in (Intervention("momentum", fix), *others)]
    _, more = refine_fix(trials, fix, known)
    additions = [trial.intervention.flags for trial in more if RATE not in trial.intervention.flags]
    assert additions == [{**fix, "optimizer.clip_norm": 1.0}, {**fix, PATCH: "he_normal"}]
    assert len(additions) == MAX_ADDITIONS


def test_an_invalid_change_is_no_trial(caplog: pytest.LogCaptureFixture) -> None:
    trials, fix = FunctionTrials(accuracy_of(1.0)), {"optimizer.momentum": 0.9}
    impossible = Intervention("dropout", {"model.dropout": 7.0})
    known = [trials.run_in_full(Intervention("momentum", fix)), Trial(impossible, trials.run_in_full(NORM).run)]
    refined, more = refine_fix(trials, fix, known)
    assert refined == fix
    assert "model.dropout" not in {name for trial in more for name in trial.intervention.flags}
    assert "not tried" in caplog.text


def test_without_a_fix_nothing_is_tried() -> None:
    trials = FunctionTrials(accuracy_of(1.0))
    assert refine_fix(trials, {}, [trials.run_in_full(NORM)]) == ({}, [])


@pytest.mark.slow
def test_a_trial_that_was_stopped_early_is_finished_first(small: DataConfig) -> None:
    model = ModelConfig(name=f"{cases.FILE}:bare")
    config = TrainConfig(epochs=4, data=small, model=model, precision="float32")
    trials, fix = Trials(ReplayEngine(), config, steps=60), {"optimizer.momentum": 0.5}
    trial = trials._start(Intervention("momentum", fix))
    trials._advance(trial, 15)
    refined, more = refine_fix(trials, fix, [trial])
    assert trial.steps == 60
    assert {each.steps for each in more} == {60}
    assert refined["optimizer.momentum"] == 0.5
