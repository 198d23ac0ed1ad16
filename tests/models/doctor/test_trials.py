"""How many steps the trials of many changes take, and the flags of several changes together."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from evenkeel.models.config import TrainConfig
from evenkeel.models.doctor.interventions import PRIOR_UNUSUAL, Intervention
from evenkeel.models.doctor.trials import PARTS, Trial, Trials, merge_flags

IMAGES = 1000


def test_merged_flags_keep_every_patch() -> None:
    together = merge_flags(
        [
            Intervention("saturating_activation", {"model.patch": "relu"}),
            Intervention("learning_rate_high", {"optimizer.learning_rate": 0.01}),
            Intervention("initialization", {"model.patch": "relu,he_normal"}),
        ]
    )
    assert together == {"model.patch": "relu,he_normal", "optimizer.learning_rate": 0.01}


class CountedTrials(Trials):
    """Trials without training: the accuracy is a function of the flags and the steps; the steps are counted."""

    def __init__(self, accuracy: Callable[[dict[str, Any], int], float], steps: int) -> None:
        self._accuracy, self._steps, self._config = accuracy, steps, TrainConfig()
        self._train_images = IMAGES
        self.tried: list[Trial] = []
        self.unchanged = self._start(Intervention("", {}))
        for _ in range(PARTS):
            self._advance(self.unchanged, steps // PARTS)

    def _start(self, intervention: Intervention) -> Trial:
        data = types.SimpleNamespace(classes=range(10), train=range(IMAGES))
        run = types.SimpleNamespace(config=self._config, data=data, validated=[], step=0, first_step=0)
        return Trial(intervention, run)

    def _advance(self, trial: Trial, steps: int) -> None:
        trial.run.step += steps
        accuracy = self._accuracy(trial.intervention.flags, trial.run.step)
        trial.run.validated.append((trial.run.step, accuracy, 1.0))
        trial.run.correct, trial.run.losses = np.full(IMAGES, accuracy), np.ones(IMAGES)


def changes(count: int) -> list[Intervention]:
    generic = Intervention("learning_rate_high", {"optimizer.clip_norm": 1.0}, generic=True)
    return [generic, *(Intervention("dropout", {"model.patch": f"change{number}"}) for number in range(count))]


def steps_of(trials: list[Trial]) -> list[int]:
    return sorted(trial.steps for trial in trials)


def test_changes_of_a_sound_run_stop_after_their_first_part_unless_they_are_ahead() -> None:
    trials = CountedTrials(lambda flags, steps: 0.5 + steps / 1000, 200)
    assert steps_of(trials.successive_halving(changes(10), is_suspicious=False)) == [50] * 8 + [200] * 3

    def accuracy(flags: dict[str, Any], steps: int) -> float:
        return 0.5 + steps / 1000 + (0.04 if flags.get("model.patch") == "change9" and steps < 200 else 0)

    trials = CountedTrials(accuracy, 200)
    tried = trials.successive_halving(changes(10), is_suspicious=False)
    assert next(trial for trial in tried if trial.intervention.flags == {"model.patch": "change9"}).steps == 200


def test_a_change_that_helps_late_is_found_if_an_alarm_speaks() -> None:
    def accuracy(flags: dict[str, Any], steps: int) -> float:
        return 0.6 if flags.get("model.patch") == "change9" and steps >= 100 else 0.1

    trials = CountedTrials(accuracy, 200)
    tried = trials.successive_halving(changes(10), is_suspicious=True)
    assert max(tried, key=lambda trial: trial.utility).intervention.flags == {"model.patch": "change9"}
    assert steps_of(tried) == [100] * 5 + [200] * 6


def test_no_other_change_is_finished_once_a_specific_one_has_helped() -> None:
    trials = CountedTrials(lambda flags, steps: 0.6 if flags.get("model.patch") == "change3" else 0.1, 200)
    assert steps_of(trials.successive_halving(changes(10), is_suspicious=True)) == [50] * 8 + [200] * 3


def test_the_rate_is_tried_together_with_a_change_that_does_not_cure_alone() -> None:
    rate = Intervention("learning_rate_high", {"optimizer.learning_rate": 0.01})
    relu = Intervention("saturating_activation", {"model.patch": "relu"}, PRIOR_UNUSUAL)

    def run(alone: float) -> tuple[Trial | None, list[Trial]]:
        def accuracy(flags: dict[str, Any], steps: int) -> float:
            return 0.7 if len(flags) == 2 else alone if flags == relu.flags else 0.1

        trials = CountedTrials(accuracy, 200)
        return trials.try_together(trials.successive_halving([rate, relu]))

    joint, ablations = run(0.12)
    assert joint is not None
    assert joint.accuracy == 0.7
    assert [trial.intervention.cause for trial in ablations] == ["saturating_activation", "learning_rate_high"]
    assert run(0.6) == (None, []), "it cures alone, and nothing speaks for the rate"


@pytest.mark.parametrize(("together", "expected"), [(0.48, False), (0.56, True)])
def test_what_adds_little_to_a_cure_is_no_second_fault(together: float, expected: bool) -> None:
    """Too high a rate: a tenth of it recovers 35 points; a warm-up and no dropout would add three."""
    interventions = [
        Intervention("learning_rate_high", {"optimizer.learning_rate": 0.01}, PRIOR_UNUSUAL),
        Intervention("dropout", {"model.patch": "no_dropout"}, PRIOR_UNUSUAL),
    ]

    def accuracy(flags: dict[str, Any], steps: int) -> float:
        return together if len(flags) == 2 else 0.45 if "optimizer.learning_rate" in flags else 0.1

    trials = CountedTrials(accuracy, 200)
    joint, _ = trials.try_together(trials.successive_halving(interventions))
    assert bool(joint) == expected
