"""From trials to causes: how probable each is, and which flags are the fix.

suspects, fix = verdict(case, trials.unchanged, tried, joint, without)

Odds multiply: exp(prior) for what speaks for a cause beforehand, exp(WEIGHT * share) for the share of all that can be
gained which its change alone gains. Causes exclude each other, unless only their changes together were enough.
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

from evenkeel.models.config import TrainConfig
from evenkeel.models.doctor import interventions
from evenkeel.models.doctor.interventions import Case
from evenkeel.models.doctor.replay import changed
from evenkeel.models.doctor.trials import GAIN, Trial
from evenkeel.models.networks import surgery
from evenkeel.models.stability.causes import CAUSES
from evenkeel.models.stability.diagnosis import Replay, Suspect

WEIGHT = 4.0  # log odds of a change that gains all there is to gain, against one that gains nothing
EVEN = 0.02  # utility by which a specific change may be behind the control arm
BEHIND = 0.5  # what the share of one that is farther behind counts
REPORTED = 0.02  # least probability
OTHERWISE = 1.0  # the odds of what is not known here
OF_RATE = ("learning_rate_high", "learning_rate_low", "no_warmup")


class _Score(NamedTuple):
    log_odds: float
    share: float
    why: tuple[str, ...]
    trial: Trial | None
    together: bool = False


def verdict(
    case: Case, unchanged: Trial, tried: list[Trial], joint: Trial | None, without: list[Trial]
) -> tuple[tuple[Suspect, ...], dict[str, Any]]:
    """(suspects, the most probable first; the flags of the fix, none where nothing helps)."""
    curing = [trial for trial in tried if trial.change.cures]
    best = max([unchanged, *curing, *([joint] if joint else [])], key=lambda trial: trial.utility)
    gain = best.utility - unchanged.utility
    scores: dict[str, _Score] = {}
    for trial in tried:
        share = _share(trial, unchanged, gain)
        if _behind(trial, tried, unchanged):
            share *= BEHIND
        needed = _needed(trial.change.cause, joint, without, unchanged) if joint else 0.0
        together, share = needed > share, max(share, needed)
        score = _Score(trial.change.prior + WEIGHT * share, share, trial.change.why, trial, together)
        known = scores.get(trial.change.cause)
        if share > 0 or trial.change.prior >= interventions.SHOWN:
            scores[trial.change.cause] = _of_one_cause(score, known) if known else score
    for change in interventions.unchangeable(case, [trial.change for trial in tried]):
        scores[change.cause] = _Score(change.prior, 0.0, change.why, None)
    total = sum(math.exp(score.log_odds) for score in scores.values()) + OTHERWISE
    suspects = []
    for cause, score in scores.items():
        probability = math.exp(score.log_odds) / total
        if any(trial.change.cause == cause for trial in without):
            probability = math.exp(score.log_odds) / (math.exp(score.log_odds) + OTHERWISE)
        if probability >= REPORTED:
            suspects.append(_suspect(case, cause, probability, score, unchanged, joint, without))
    suspects.sort(key=lambda suspect: -suspect.probability)
    return tuple(suspects), _fix(suspects, scores, best, gain, joint)


def _of_one_cause(score: _Score, other: _Score) -> _Score:
    """The more probable one; a cure that gains lends it what it did, where the other only shows the cause."""
    likelier, rarer = (score, other) if score.log_odds >= other.log_odds else (other, score)
    shows_only = likelier.trial and not likelier.trial.change.cures
    if shows_only and rarer.trial and rarer.trial.change.cures and rarer.share > 0:
        return rarer._replace(log_odds=likelier.log_odds)
    return likelier


def _fix(
    suspects: list[Suspect], scores: dict[str, _Score], best: Trial, gain: float, joint: Trial | None
) -> dict[str, Any]:
    """Flags: against the most probable cause alone where that does as well as anything, else of what did best."""
    if gain < GAIN:
        return {}
    trial = scores[suspects[0].cause].trial if suspects else None
    if trial and trial.change.cures and not joint and trial.utility >= best.utility - GAIN:
        return dict(trial.change.flags)
    return dict(best.change.flags)


def replay(trial: Trial, name: str = "") -> Replay:
    """What is told of a trial, under the words of its flags unless it has another `name`."""
    _, accuracy, loss = trial.run.validated[-1]
    return Replay(
        name=name or in_words(trial.change.flags),
        flags=trial.change.flags,
        loss=trial.run.loss,
        gradient_norm=trial.run.gradient_norm,
        accuracy=accuracy,
        validation_loss=loss,
        generic=trial.change.generic,
        seconds=trial.seconds,
    )


def in_words(flags: dict[str, Any]) -> str:
    """As a person would say it: learning rate 0.003, normalize on."""
    own = {"optimizer.name": "optimizer", "data.drop": "leave out"}
    named = {name: own.get(name, name.rpartition(".")[2].replace("_", " ")) for name in flags}
    return ", ".join(f"{named[name]} {_plain(value)}" for name, value in flags.items())


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(os.path.basename(each) for each in str(value).split(","))


def _share(trial: Trial, unchanged: Trial, gain: float) -> float:
    return min(max(0.0, (trial.utility - unchanged.utility) / gain), 1.0) if gain >= GAIN else 0.0


def _behind(trial: Trial, tried: list[Trial], unchanged: Trial) -> bool:
    """Whether a specific change does worse than what calms any run."""
    calming = [each.utility for each in tried if each.change.generic and each.change.cause in OF_RATE]
    control = max(calming, default=-math.inf)
    specific = trial.change.cause not in OF_RATE
    return specific and control - unchanged.utility > GAIN and trial.utility < control - EVEN


def _needed(cause: str, joint: Trial, without: list[Trial], unchanged: Trial) -> float:
    """The share of all that the changes gain together which is lost when that of `cause` is left out."""
    losses = [joint.utility - trial.utility for trial in without if trial.change.cause == cause]
    return min(max(0.0, max(losses, default=0.0) / (joint.utility - unchanged.utility)), 1.0)


def _suspect(
    case: Case,
    cause: str,
    probability: float,
    score: _Score,
    unchanged: Trial,
    joint: Trial | None,
    without: list[Trial],
) -> Suspect:
    evidence, trial = list(score.why), score.trial
    if trial:
        told = f"with this one change, accuracy after {trial.length} steps is {trial.accuracy:.1%} instead of"
        evidence.append(f"{told} {unchanged.accuracy:.1%}")
    for other in without:
        if joint and other.change.cause == cause and joint.utility - other.utility > GAIN:
            told = f"with all other changes but this one, accuracy is {other.accuracy:.1%} instead of"
            evidence.append(f"{told} {joint.accuracy:.1%}")
    edit = "\n".join(surgery.edits(case.network, new_patches(case.config, trial.change.flags))) if trial else ""
    proof = replay(trial) if trial and trial.change.cures else None
    return Suspect(cause, CAUSES[cause].title, probability, tuple(evidence), proof, score.share, edit, score.together)


def new_patches(config: TrainConfig, flags: dict[str, Any]) -> list[str]:
    """What `flags` change in the architecture that `config` does not."""
    return [name for name in changed(config, flags).model.patches if name not in config.model.patches]
