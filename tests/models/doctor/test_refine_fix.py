"""What is tried on top of a fix, and what is kept of it: on made-up accuracies, and on a network for real."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

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

RATE, PATCH = "optimizer.learning_rate", "model.patch"


class FunctionTrials(Trials):
    """Trials whose accuracy is a function of their flags."""

    def __init__(self, accuracy: Callable[[dict[str, Any]], float]) -> None:
        self._accuracy = accuracy
        self._config = TrainConfig(optimizer=OptimizerConfig(learning_rate=1.0))

    def _start(self, change: Intervention) -> Trial:
        run = types.SimpleNamespace(
            config=with_options(self._config, change.flags),
            validated=[(100, self._accuracy(change.flags), 1.0)],
            data=types.SimpleNamespace(classes=range(10)),
        )
        return Trial(change, run)

    def finish(self, trial: Trial) -> None:
        pass


def on_a_curve(best: float, **worth: float) -> Callable[[dict[str, Any]], float]:
    """0.8 at the `best` learning rate, 0.1 less for each factor of 2 from it, and what patches are `worth`."""

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
def test_the_learning_rate_of_a_fix_is_set_finer(best: float, expected: float, rates: list[float]) -> None:
    trials, fix = FunctionTrials(on_a_curve(best)), {RATE: 1.0, "optimizer.momentum": 0.9}
    known = [trials.run_in_full(Intervention("learning_rate_high", flags)) for flags in ({**fix, "epochs": 2}, fix)]
    found, finer = refine_fix(trials, fix, known)
    assert found == {**fix, RATE: expected}
    assert flag_values(finer, RATE) == rates


@pytest.mark.parametrize(("best", "expected"), [(1.12, None), (2.0, 2.0)])
def test_a_fix_that_sets_none_gets_one_where_it_is_worth_it(best: float, expected: float | None) -> None:
    trials, fix = FunctionTrials(on_a_curve(best)), {"optimizer.momentum": 0.9}
    found, finer = refine_fix(trials, fix, [trials.run_in_full(Intervention("momentum", fix))])
    assert found == ({**fix, RATE: expected} if expected else fix)
    assert set(flag_values(finer, RATE)) >= {0.5, 2.0}


@pytest.mark.parametrize(("worth", "stays"), [(MIN_ADDED_UTILITY / 2, False), (2 * MIN_ADDED_UTILITY, True)])
def test_another_change_stays_where_it_is_worth_it(worth: float, stays: bool) -> None:
    trials, fix = FunctionTrials(on_a_curve(1.0, batch_norm=worth)), {PATCH: "relu"}
    known = [trials.run_in_full(Intervention("saturating_activation", fix)), trials.run_in_full(NORM)]
    assert refine_fix(trials, fix, known)[0] == {PATCH: "relu,batch_norm" if stays else "relu"}


NORM = Intervention("no_normalization", {PATCH: "batch_norm"}, PRIOR_UNLIKELY, generic=True)


def test_beside_goes_what_promises_most_and_leaves_the_fix_in_place() -> None:
    trials, fix = FunctionTrials(on_a_curve(1.0)), {"optimizer.momentum": 0.9}
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
    beside = [trial.intervention.flags for trial in more if RATE not in trial.intervention.flags]
    assert beside == [{**fix, "optimizer.clip_norm": 1.0}, {**fix, PATCH: "he_normal"}]
    assert len(beside) == MAX_ADDITIONS


def test_what_is_refused_is_no_trial(caplog: pytest.LogCaptureFixture) -> None:
    trials, fix = FunctionTrials(on_a_curve(1.0)), {"optimizer.momentum": 0.9}
    impossible = Intervention("dropout", {"model.dropout": 7.0})
    known = [trials.run_in_full(Intervention("momentum", fix)), Trial(impossible, trials.run_in_full(NORM).run)]
    found, more = refine_fix(trials, fix, known)
    assert found == fix
    assert "model.dropout" not in {name for trial in more for name in trial.intervention.flags}
    assert "not tried" in caplog.text


def test_without_a_fix_nothing_is_tried() -> None:
    trials = FunctionTrials(on_a_curve(1.0))
    assert refine_fix(trials, {}, [trials.run_in_full(NORM)]) == ({}, [])


@pytest.mark.slow
def test_a_fix_that_was_given_up_early_is_finished_first(small: DataConfig) -> None:
    model = ModelConfig(name="cnn", width=4)
    config = TrainConfig(epochs=4, data=small, model=model, precision="float32")
    trials, fix = Trials(ReplayEngine(), config, steps=60), {"optimizer.momentum": 0.5}
    trial = trials._start(Intervention("momentum", fix))
    trials._advance(trial, 15)
    found, more = refine_fix(trials, fix, [trial])
    assert trial.steps == 60
    assert {each.steps for each in more} == {60}
    assert found["optimizer.momentum"] == 0.5
