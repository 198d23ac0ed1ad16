"""Attribution: from trials to the probability of each cause, and the flags of the fix.

suspects, fix = attribute_causes(evidence, trials.unchanged, single_trials, joint, ablations)

The odds of a cause are exp(prior) * exp(GAIN_LOG_ODDS * share). The prior comes from the evidence before the trials,
and the share is the part of the possible gain that the cause's intervention achieves alone. Causes exclude each other,
unless only several interventions together were enough.
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

from evenkeel.models.config import TrainConfig, with_options
from evenkeel.models.doctor.interventions import PRIOR_FOUND, RunEvidence, causes_without_intervention
from evenkeel.models.doctor.trials import MIN_GAIN, Trial
from evenkeel.models.networks import surgery
from evenkeel.models.stability.causes import CAUSES
from evenkeel.models.stability.diagnosis import Replay, Suspect

GAIN_LOG_ODDS = 4.0  # log odds of an intervention that achieves the whole gain, against one that achieves none
CONTROL_TOLERANCE = 0.02  # utility by which a specific intervention may be worse than the control arm
BEHIND_CONTROL_WEIGHT = 0.5  # factor on the share of a specific intervention that is even worse
MIN_PROBABILITY = 0.02  # suspects with a smaller probability are dropped
UNKNOWN_CAUSE_ODDS = 1.0  # odds that the cause is none of the known ones
LEARNING_RATE_CAUSES = ("learning_rate_high", "learning_rate_low", "no_warmup")


class _Score(NamedTuple):
    """Evidence for one cause.

    Attributes:
      log_odds: log odds of the cause.
      share: share of the possible gain that the intervention achieves.
      reasons: sentences that supported the cause before the trials.
      trial: trial of the intervention; None if there is none.
      together: whether `share` is the share of the joint gain that is lost without the intervention.
    """

    log_odds: float
    share: float
    reasons: tuple[str, ...]
    trial: Trial | None
    together: bool = False


def attribute_causes(
    evidence: RunEvidence,
    unchanged: Trial,
    single_trials: list[Trial],
    joint: Trial | None,
    ablations: list[Trial],
) -> tuple[tuple[Suspect, ...], dict[str, Any]]:
    """Returns (suspects, the most probable first; flags of the fix, empty if nothing helps)."""
    cures = [trial for trial in single_trials if trial.intervention.cures]
    best = max([unchanged, *cures, *([joint] if joint else [])], key=lambda trial: trial.utility)
    gain = best.utility - unchanged.utility
    scores = _score_causes(evidence, unchanged, single_trials, joint, ablations, gain)
    total = sum(math.exp(score.log_odds) for score in scores.values()) + UNKNOWN_CAUSE_ODDS
    suspects = []
    for cause, score in scores.items():
        probability = math.exp(score.log_odds) / total
        if any(trial.intervention.cause == cause for trial in ablations):
            probability = math.exp(score.log_odds) / (math.exp(score.log_odds) + UNKNOWN_CAUSE_ODDS)
        if probability >= MIN_PROBABILITY:
            suspects.append(_suspect(evidence, cause, probability, score, unchanged, joint, ablations))
    suspects.sort(key=lambda suspect: -suspect.probability)
    return tuple(suspects), _choose_fix(suspects, scores, best, gain, joint)


def to_replay(trial: Trial, name: str = "") -> Replay:
    """Returns the record of a trial for the report. `name` names the record; by default it is the changed flags."""
    _, accuracy, loss = trial.run.validated[-1]
    return Replay(
        name=name or describe_flags(trial.intervention.flags),
        flags=trial.intervention.flags,
        loss=trial.run.loss,
        gradient_norm=trial.run.gradient_norm,
        accuracy=accuracy,
        validation_loss=loss,
        generic=trial.intervention.generic,
        seconds=trial.seconds,
    )


def describe_flags(flags: dict[str, Any]) -> str:
    """Describes `flags` in words, such as "learning rate 0.003, normalize on"."""
    special = {"optimizer.name": "optimizer", "data.drop": "drop"}
    words = {name: special.get(name, name.rpartition(".")[2].replace("_", " ")) for name in flags}
    return ", ".join(f"{words[name]} {_describe_value(value)}" for name, value in flags.items())


def added_patches(config: TrainConfig, flags: dict[str, Any]) -> list[str]:
    """Returns the patches of the network that `flags` adds to `config`."""
    return [name for name in with_options(config, flags).model.patches if name not in config.model.patches]


def _score_causes(
    evidence: RunEvidence,
    unchanged: Trial,
    single_trials: list[Trial],
    joint: Trial | None,
    ablations: list[Trial],
    gain: float,
) -> dict[str, _Score]:
    scores: dict[str, _Score] = {}
    for trial in single_trials:
        intervention = trial.intervention
        share = _gain_share(trial, unchanged, gain)
        if _is_behind_control(trial, single_trials, unchanged):
            share *= BEHIND_CONTROL_WEIGHT
        lost_share = _lost_share(intervention.cause, joint, ablations, unchanged) if joint else 0.0
        together, share = lost_share > share, max(share, lost_share)
        log_odds = intervention.prior + GAIN_LOG_ODDS * share
        score = _Score(log_odds, share, intervention.reasons, trial, together)
        known = scores.get(intervention.cause)
        if share > 0 or intervention.prior >= PRIOR_FOUND:
            scores[intervention.cause] = _merge_scores(score, known) if known else score
    for intervention in causes_without_intervention(evidence, [trial.intervention for trial in single_trials]):
        scores[intervention.cause] = _Score(intervention.prior, 0.0, intervention.reasons, None)
    return scores


def _merge_scores(score: _Score, other: _Score) -> _Score:
    """Returns the more probable of two scores of a cause; if it only demonstrates the cause, a cure takes its odds."""
    likelier, rarer = (score, other) if score.log_odds >= other.log_odds else (other, score)
    only_demonstrates = likelier.trial and not likelier.trial.intervention.cures
    if only_demonstrates and rarer.trial and rarer.trial.intervention.cures and rarer.share > 0:
        return rarer._replace(log_odds=likelier.log_odds)
    return likelier


def _gain_share(trial: Trial, unchanged: Trial, gain: float) -> float:
    """Share of the possible `gain` that the trial achieves, 0 to 1."""
    return min(max(0.0, (trial.utility - unchanged.utility) / gain), 1.0) if gain >= MIN_GAIN else 0.0


def _lost_share(cause: str, joint: Trial, ablations: list[Trial], unchanged: Trial) -> float:
    """Share of the joint trial's gain that is lost without the intervention against `cause`, 0 to 1."""
    losses = [joint.utility - trial.utility for trial in ablations if trial.intervention.cause == cause]
    return min(max(0.0, max(losses, default=0.0) / (joint.utility - unchanged.utility)), 1.0)


def _is_behind_control(trial: Trial, single_trials: list[Trial], unchanged: Trial) -> bool:
    """Whether a specific intervention does worse than a learning-rate change that calms any run."""
    control_arm = [
        other.utility
        for other in single_trials
        if other.intervention.generic and other.intervention.cause in LEARNING_RATE_CAUSES
    ]
    control = max(control_arm, default=-math.inf)
    specific = trial.intervention.cause not in LEARNING_RATE_CAUSES
    return specific and control - unchanged.utility > MIN_GAIN and trial.utility < control - CONTROL_TOLERANCE


def _choose_fix(
    suspects: list[Suspect], scores: dict[str, _Score], best: Trial, gain: float, joint: Trial | None
) -> dict[str, Any]:
    """Returns the flags against the most probable cause if they do as well as all others, else the best flags."""
    if gain < MIN_GAIN:
        return {}
    trial = scores[suspects[0].cause].trial if suspects else None
    if trial and trial.intervention.cures and not joint and trial.utility >= best.utility - MIN_GAIN:
        return dict(trial.intervention.flags)
    return dict(best.intervention.flags)


def _suspect(
    evidence: RunEvidence,
    cause: str,
    probability: float,
    score: _Score,
    unchanged: Trial,
    joint: Trial | None,
    ablations: list[Trial],
) -> Suspect:
    sentences, trial = list(score.reasons), score.trial
    if trial:
        sentences.append(
            f"with this one change, accuracy after {trial.steps} steps is {trial.accuracy:.1%} instead of"
            f" {unchanged.accuracy:.1%}"
        )
    for ablation in ablations:
        if joint and ablation.intervention.cause == cause and joint.utility - ablation.utility > MIN_GAIN:
            sentences.append(
                f"with all other changes but without this one, accuracy is {ablation.accuracy:.1%} instead of"
                f" {joint.accuracy:.1%}"
            )
    edit = ""
    if trial:
        patches = added_patches(evidence.config, trial.intervention.flags)
        edit = "\n".join(surgery.describe_edits(evidence.network, patches))
    replay = to_replay(trial) if trial and trial.intervention.cures else None
    title, together = CAUSES[cause].title, score.together
    return Suspect(cause, title, probability, tuple(sentences), replay, score.share, edit, together)


def _describe_value(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(os.path.basename(part) for part in str(value).split(","))
