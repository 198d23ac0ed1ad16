"""Attribution: from trials to the probability of each cause, and the flags of the fix.

attribution = attribute_causes(evidence, trials.unchanged, single_trials, joint, ablations)
attribution.suspects, attribution.fix, attribution.sound

The odds of a cause are exp(prior) * exp(GAIN_LOG_ODDS * share * strength). The prior comes from the evidence before the
trials, the share is the part of the possible gain that the cause's intervention achieves alone, and the strength says
how large the possible gain is. Causes exclude each other, unless only several interventions together were enough. Two
more hypotheses compete with them: that nothing is wrong with the run, and that its cause is none of the known ones.
"""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Any, NamedTuple

from evenkeel.models.config import TrainConfig, with_options
from evenkeel.models.doctor import comparison
from evenkeel.models.doctor.comparison import FULL_GAIN, MIN_GAIN, Gain
from evenkeel.models.doctor.interventions import (
    PRIOR_FOUND,
    PRIOR_UNUSUAL,
    Intervention,
    RunEvidence,
    causes_without_intervention,
)
from evenkeel.models.doctor.trials import Trial
from evenkeel.models.networks import surgery
from evenkeel.models.stability.causes import CAUSES, PROVEN_BY_FINDING
from evenkeel.models.stability.diagnosis import Replay, Suspect

GAIN_LOG_ODDS = 4.0  # log odds of an intervention that achieves the whole gain, against one that achieves none
CONTROL_TOLERANCE = 0.02  # utility by which a specific intervention may be worse than the control arm
BEHIND_CONTROL_WEIGHT = 0.5  # factor on the share of a specific intervention that is even worse
MIN_PROBABILITY = 0.02  # suspects with a smaller probability are dropped
UNKNOWN_CAUSE_ODDS = 1.0  # odds that the cause is none of the known ones
# Log odds that nothing is wrong with a run that learns, without and with failed checks or alarms that speak against it;
# and how much a gain of 1 lowers them. Chosen by hand, not calibrated: without failed checks and alarms, a certain gain
# of 0.064 (0.043 if the setting is unusual) makes its cause as probable as a sound run.
SOUND_LOG_ODDS, SOUND_LOG_ODDS_CHECKS, SOUND_LOG_ODDS_ALARMS = 4.5, 1.5, 0.0
SOUND_GAIN_LOG_ODDS = 30.0
# Changes that speed up the first steps of nearly any sound run, as a lower rate also does, which is then too slow: they
# explain a run without alarms only as far as it was replayed.
SPEED_CAUSES = ("learning_rate_high", "learning_rate_low", "optimizer", "no_normalization", "momentum")
LEARNING_RATE_CAUSES = ("learning_rate_high", "learning_rate_low", "no_warmup")


@dataclasses.dataclass(frozen=True)
class Attribution:
    """What the trials say.

    Attributes:
      suspects: the causes, the most probable first; none if it is more probable that nothing is wrong.
      fix: flags of the fix; empty if nothing helps or nothing is wrong.
      sound: probability that nothing is wrong with the run.
      unknown: probability that the cause is none of the known ones.
      improvements: trials that do significantly better, the best first, if it is most probable that nothing is wrong.
    """

    suspects: tuple[Suspect, ...] = ()
    fix: dict[str, Any] = dataclasses.field(default_factory=dict)
    sound: float = 0.0
    unknown: float = 0.0
    improvements: tuple[Trial, ...] = ()


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
) -> Attribution:
    """Weighs all causes against each other, against a sound run and against an unknown cause."""
    cures = [trial for trial in single_trials if trial.intervention.cures]
    learning = [trial for trial in [*cures, *([joint] if joint else [])] if not comparison.is_at_chance(trial.run)]
    # The best is the one that is most certainly better: where validation jumps, the highest utility may be luck.
    best = max([unchanged, *learning], key=lambda trial: trial.gain_over(unchanged).certain)
    gain = best.gain_over(unchanged)
    scores = _score_causes(evidence, unchanged, single_trials, joint, ablations, gain)
    sound_odds = _sound_odds(evidence, unchanged, [*cures, *([joint] if joint else [])])
    total = sum(math.exp(score.log_odds) for score in scores.values()) + UNKNOWN_CAUSE_ODDS + sound_odds
    sound, unknown = sound_odds / total, UNKNOWN_CAUSE_ODDS / total
    probability_of = {cause: math.exp(score.log_odds) / total for cause, score in scores.items()}
    if sound > max(probability_of.values(), default=0.0) and sound >= unknown:
        better = [trial for trial in cures if trial.gain_over(unchanged).is_significant]
        improvements = tuple(sorted(better, key=lambda trial: -trial.utility))
        return Attribution(sound=sound, unknown=unknown, improvements=improvements)
    suspects = []
    for cause, score in scores.items():
        probability = probability_of[cause]
        if any(trial.intervention.cause == cause for trial in ablations):
            odds = math.exp(score.log_odds)
            probability = odds / (odds + UNKNOWN_CAUSE_ODDS + sound_odds)
        if probability >= MIN_PROBABILITY:
            suspects.append(_suspect(evidence, cause, probability, score, unchanged, joint, ablations))
    suspects.sort(key=lambda suspect: -suspect.probability)
    return Attribution(tuple(suspects), _choose_fix(suspects, scores, best, gain, joint), sound, unknown)


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


def _sound_odds(evidence: RunEvidence, unchanged: Trial, cures: list[Trial]) -> float:
    """Odds that nothing is wrong with the run: 0 if it has learnt nothing.

    Changes that help nearly any run, and faster learning in a replay that is a small part of the run, do not speak
    against it as long as no alarm does. A validation loss above that of guessing speaks like an alarm.
    """
    if comparison.is_at_chance(unchanged.run):
        return 0.0
    _, _, validation_loss = unchanged.run.validated[-1]
    if evidence.alarm_kinds or not validation_loss < math.log(len(unchanged.run.data.classes)):
        log_odds = SOUND_LOG_ODDS_ALARMS
    else:
        speaks = any(not finding.ok and finding.causes for finding in evidence.findings)
        log_odds = SOUND_LOG_ODDS_CHECKS if speaks else SOUND_LOG_ODDS
        cures = [trial for trial in cures if not trial.intervention.generic]
    gains = [
        trial.gain_over(unchanged).certain * _replayed_share(evidence, unchanged, trial.intervention) for trial in cures
    ]
    return math.exp(log_odds - SOUND_GAIN_LOG_ODDS * max(gains, default=0.0))


def _replayed_share(evidence: RunEvidence, unchanged: Trial, intervention: Intervention) -> float:
    """How much of the run was replayed, 0 to 1, for a cause of slow learning in a run that learns without alarms.

    It is 1 for other causes, and for a setting that is unusual in itself.
    """
    is_about_speed = intervention.cause in SPEED_CAUSES and intervention.prior < PRIOR_UNUSUAL
    if not is_about_speed or evidence.alarm_kinds or comparison.is_at_chance(unchanged.run):
        return 1.0
    return min(1.0, unchanged.steps / max(evidence.total_steps, 1))


def _score_causes(
    evidence: RunEvidence,
    unchanged: Trial,
    single_trials: list[Trial],
    joint: Trial | None,
    ablations: list[Trial],
    gain: Gain,
) -> dict[str, _Score]:
    scores: dict[str, _Score] = {}
    nothing_helps = comparison.is_at_chance(unchanged.run) and not gain.is_significant
    for trial in single_trials:
        intervention = trial.intervention
        share = _gain_share(trial, unchanged, gain)
        if _is_behind_control(trial, single_trials, unchanged):
            share *= BEHIND_CONTROL_WEIGHT
        lost_share = _lost_share(intervention.cause, joint, ablations, unchanged) if joint else 0.0
        together, share = lost_share > share, max(share, lost_share)
        strength = min(1.0, gain.certain / FULL_GAIN) * _replayed_share(evidence, unchanged, intervention)
        log_odds = intervention.prior + GAIN_LOG_ODDS * share * strength
        score = _Score(log_odds, share, intervention.reasons, trial, together)
        known = scores.get(intervention.cause)
        # A change that does no good proves nothing, whatever was suspected before; but where nothing does any good,
        # the checks are all there is.
        in_vain = trial.gain_over(unchanged).mean <= 0 and intervention.cures and not nothing_helps
        if share > 0 or (intervention.prior >= PRIOR_FOUND and not in_vain):
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


def _gain_share(trial: Trial, unchanged: Trial, gain: Gain) -> float:
    """Share of the possible `gain` that the trial achieves, 0 to 1; 0 if either gain is within the noise.

    It is also 0 if the trial has learnt nothing: its loss may be far better than that of a run that has exploded.
    """
    own = trial.gain_over(unchanged)
    if not gain.is_significant or own.mean <= own.error or comparison.is_at_chance(trial.run):
        return 0.0
    return min(own.mean / gain.mean, 1.0)


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
    suspects: list[Suspect], scores: dict[str, _Score], best: Trial, gain: Gain, joint: Trial | None
) -> dict[str, Any]:
    """Returns the flags against the most probable cause if they do as well as all others, else the best flags.

    There are none against a cause that no flag removes, such as labels that do not belong to the images: flags that do
    best then only learn least.
    """
    if not gain.is_significant or (suspects and suspects[0].cause in PROVEN_BY_FINDING):
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
