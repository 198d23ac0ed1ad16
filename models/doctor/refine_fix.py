"""Refines a fix: tunes its learning rate, and adds further changes.

fix, trials_made = refine_fix(trials, fix, known_trials)
"""

from __future__ import annotations

import dataclasses
from typing import Any

from evenkeel.models.doctor.interventions import Intervention
from evenkeel.models.doctor.trials import Trial, Trials, merge_flags
from evenkeel.models.stability.diagnosis import LEARNING_RATE_FLAG, PATCH_FLAG

MIN_ADDED_UTILITY = 0.02  # utility that a further flag must gain
MAX_ADDITIONS = 2  # further changes that are tried


def refine_fix(trials: Trials, fix: dict[str, Any], known_trials: list[Trial]) -> tuple[dict[str, Any], list[Trial]]:
    """Returns (`fix` or better flags, the trials made here). `known_trials` are all earlier trials, with that of `fix`.

    Interventions try learning rates that are a factor of 10 apart, or keep the rate of the faulty run. So this function
    tries half and twice the rate, then another factor of 2 on the better side. Then it adds each of the most promising
    interventions that change no flag of the fix, one at a time.
    """
    start = next((trial for trial in known_trials if trial.intervention.flags == fix), None)
    if not fix or start is None:
        return fix, []
    trials.finish(start)
    rate_trials = _try_learning_rates(trials, start)
    best = _best_trial(start, rate_trials, 0.0 if LEARNING_RATE_FLAG in fix else MIN_ADDED_UTILITY)
    additions = _combine_with_others(best.intervention, known_trials)[:MAX_ADDITIONS]
    addition_trials = [trial for addition in additions if (trial := trials.run_in_full(addition))]
    refined = _best_trial(best, addition_trials, MIN_ADDED_UTILITY)
    return refined.intervention.flags, rate_trials + addition_trials


def _try_learning_rates(trials: Trials, start: Trial) -> list[Trial]:
    def scale_learning_rate(factor: float) -> list[Trial]:
        learning_rate = factor * start.run.config.optimizer.learning_rate
        flags = {**start.intervention.flags, LEARNING_RATE_FLAG: learning_rate}
        trial = trials.run_in_full(dataclasses.replace(start.intervention, flags=flags))
        return [trial] if trial else []

    lower, higher = scale_learning_rate(0.5), scale_learning_rate(2.0)
    best = max([start, *lower, *higher], key=lambda trial: trial.utility)
    farther = scale_learning_rate(0.25) if best in lower else scale_learning_rate(4.0) if best in higher else []
    return [*lower, *higher, *farther]


def _best_trial(start: Trial, others: list[Trial], min_gain: float) -> Trial:
    """The best of `others` if it exceeds `start` by more than `min_gain`, else `start`."""
    best = max([start, *others], key=lambda trial: trial.utility)
    return best if best.utility > start.utility + min_gain else start


def _combine_with_others(fix: Intervention, known_trials: list[Trial]) -> list[Intervention]:
    """Combines `fix` with each intervention that changes none of its flags; returns the most promising first.

    Only one intervention per cause is combined, because interventions with the same cause differ only in strength.
    """
    combined: dict[str, Intervention] = {}
    for trial in sorted(known_trials, key=lambda trial: -trial.priority):
        other = trial.intervention
        independent = not {LEARNING_RATE_FLAG, *fix.flags} & set(other.flags) - {PATCH_FLAG}
        flags = merge_flags([fix, other])
        if other.cures and independent and flags != fix.flags:
            combined.setdefault(other.cause, dataclasses.replace(fix, flags=flags))
    return list(combined.values())
