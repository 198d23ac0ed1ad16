"""A fix made better: what is repaired may want another learning rate than what was broken, and something beside.

fix, tried = improved(trials, fix, known)
"""

from __future__ import annotations

import dataclasses
from typing import Any

from evenkeel.models.doctor.interventions import Change
from evenkeel.models.doctor.trials import Trial, Trials, union
from evenkeel.models.stability.diagnosis import PATCH, RATE

WORTH = 0.02  # of utility: what a fix must gain by a flag that it did without so far
BESIDE = 2  # changes that are tried in addition


def improved(trials: Trials, fix: dict[str, Any], known: list[Trial]) -> tuple[dict[str, Any], list[Trial]]:
    """(`fix`, or what does better; what was tried for that). `known` are the trials so far, that of the fix among them.

    The rates that changes are tried with lie a factor of 8 apart, and those that do not set it keep one that the faulty
    run was given: half and twice the rate is tried, and once more what is as much farther on the better side. Then, one
    at a time, the changes that promise most of those that leave the fix in place.
    """
    start = next((trial for trial in known if trial.change.flags == fix), None)
    if not fix or start is None:
        return fix, []
    trials.finish(start)
    rates = _rates(trials, start)
    best = _better(start, rates, 0.0 if RATE in fix else WORTH)
    more = [trial for change in _beside(best.change, known)[:BESIDE] if (trial := trials.whole(change))]
    return _better(best, more, WORTH).change.flags, rates + more


def _rates(trials: Trials, start: Trial) -> list[Trial]:
    def at(factor: float) -> list[Trial]:
        flags = {**start.change.flags, RATE: factor * start.run.config.optimizer.learning_rate}
        trial = trials.whole(dataclasses.replace(start.change, flags=flags))
        return [trial] if trial else []

    lower, higher = at(0.5), at(2.0)
    best = max([start, *lower, *higher], key=lambda trial: trial.utility)
    return [*lower, *higher, *(at(0.25) if best in lower else at(4.0) if best in higher else [])]


def _better(start: Trial, others: list[Trial], least: float) -> Trial:
    """The best of the `others`, if it is by more than `least` better than `start`."""
    best = max([start, *others], key=lambda trial: trial.utility)
    return best if best.utility > start.utility + least else start


def _beside(fix: Change, known: list[Trial]) -> list[Change]:
    """`fix` and another change in one, for every other that goes with it; those that promise most come first.

    Of those with one cause only the first: they are strengths of one change.
    """
    found: dict[str, Change] = {}
    for trial in sorted(known, key=lambda trial: -trial.promise):
        flags = trial.change.flags
        apart = not {RATE, *fix.flags} & set(flags) - {PATCH}
        both = union([fix, trial.change])
        if trial.change.cures and apart and both != fix.flags:
            found.setdefault(trial.change.cause, dataclasses.replace(fix, flags=both))
    return list(found.values())
