"""The conclusions of a diagnosis: the verdict in one sentence, the fix to propose, and how replays compare.

verdict_sentence(diagnosis)  # "Most probably, the learning rate is too high (87%)."
choose_fix(diagnosis).flags  # ["--optimizer.learning_rate=0.025"]
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from evenkeel.models.report.wording import format_count, format_percent
from evenkeel.models.stability.diagnosis import LEARNING_RATE_FLAG, PATCH_FLAG, Diagnosis, Replay, Suspect, command_line

MIN_RECOVERED_SHARE = 0.2  # of the best gain: less is within the noise of a few hundred validation images
MIN_ACCURACY_GAIN = 0.02  # if the best replay gains less, no replay counts as a gain
CERTAIN, PROBABLE = 0.9, 0.5  # probabilities from which a cause is called almost certain, or most probable


class Fix(NamedTuple):
    """The change to propose.

    Attributes:
      suspect: the cause that the change addresses; the first one if there are several
      flags: flags of `evenkeel train`
      edit: what to change in the source of the model
      helps: False if the change was replayed and recovered less than `MIN_RECOVERED_SHARE`
      replay: the replay with exactly this change, if there was one
    """

    suspect: Suspect
    flags: list[str]
    edit: str
    helps: bool
    replay: Replay | None = None


def verdict_sentence(diagnosis: Diagnosis) -> str:
    """States the most probable causes with their probabilities, or that none is known, or that nothing is wrong."""
    if diagnosis.suspects:
        first = diagnosis.suspects[0]
        if diagnosis.unknown > first.probability:
            return (
                f"The cause is not known: none of the changes that were tried explains this run"
                f" ({format_percent(diagnosis.unknown)}). Perhaps, {first.title} ({format_percent(first.probability)})."
            )
        certain = first.probability >= CERTAIN
        likelihood = "Almost certainly" if certain else "Most probably" if first.probability >= PROBABLE else "Perhaps"
        probable = [suspect for suspect in diagnosis.suspects[1:] if suspect.probability >= PROBABLE]
        causes = [f"{suspect.title} ({format_percent(suspect.probability)})" for suspect in (first, *probable)]
        return f"{likelihood}, {'; and '.join(causes)}."
    if not len(diagnosis.trace.steps) and not diagnosis.findings:
        return "Nothing is known about this run: it has no recorded steps."
    if diagnosis.sound:
        return f"Nothing is wrong with this run, most probably ({format_percent(diagnosis.sound)})."
    failed, alarms = sum(not finding.ok for finding in diagnosis.findings), len(diagnosis.alarms)
    if failed or alarms:
        problems = [format_count(failed, "failed check")] * bool(failed) + [format_count(alarms, "alarm")] * bool(
            alarms
        )
        return f"No cause was found, although this run has {' and '.join(problems)}."
    return "Nothing is wrong with this run."


def choose_fix(diagnosis: Diagnosis) -> Fix | None:
    """Returns the fix that the doctor found, else the change for the most probable cause that has one, else None."""
    if diagnosis.suspects and diagnosis.fix:
        fixed = [
            suspect
            for suspect in diagnosis.suspects
            if suspect.replay and _contains_flags(diagnosis.fix, suspect.replay.flags)
        ]
        replay = next((replay for replay in diagnosis.replays if replay.flags == diagnosis.fix), None)
        return Fix([*fixed, diagnosis.suspects[0]][0], command_line(diagnosis.fix), diagnosis.edit, True, replay)
    for suspect in diagnosis.suspects:
        if suspect.flags or suspect.edit:
            helps = suspect.replay is None or suspect.recovered >= MIN_RECOVERED_SHARE
            return Fix(suspect, suspect.flags, suspect.edit, helps, suspect.replay)
    return None


def recovered_share(diagnosis: Diagnosis, replay: Replay) -> float:
    """The accuracy that `replay` gains, as a fraction of the best replay's gain; 0 if no replay gains anything.

    For the replay of a suspect this is the suspect's `recovered`, except if the change helps only with other changes.
    """
    for suspect in diagnosis.suspects:
        if suspect.replay and suspect.replay.name == replay.name and not suspect.together:
            return suspect.recovered
    unchanged = diagnosis.replays[0].accuracy
    unchanged = unchanged if math.isfinite(unchanged) else 0.0
    gains = [other.accuracy - unchanged for other in diagnosis.replays]
    best = max((gain for gain in gains if math.isfinite(gain)), default=0.0)
    gain = replay.accuracy - unchanged
    return max(gain / best, 0.0) if best >= MIN_ACCURACY_GAIN and math.isfinite(gain) else 0.0


def ineffective_replays(diagnosis: Diagnosis) -> list[Replay]:
    """The changes that were tried and recovered less than `MIN_RECOVERED_SHARE`."""
    return [replay for replay in diagnosis.replays[1:] if recovered_share(diagnosis, replay) < MIN_RECOVERED_SHARE]


def replays_by_accuracy(diagnosis: Diagnosis) -> list[Replay]:
    """The replays with a change, most accurate first; those without a finite accuracy come last."""
    return sorted(
        diagnosis.replays[1:], key=lambda replay: -replay.accuracy if math.isfinite(replay.accuracy) else math.inf
    )


def _contains_flags(fix: dict[str, Any], flags: dict[str, Any]) -> bool:
    """Whether `fix` includes all `flags`; it may set another learning rate and patch more layers."""

    def contains(name: str, value: Any) -> bool:
        if name == PATCH_FLAG:
            return set(value.split(",")) <= set(fix.get(name, "").split(","))
        return name in fix and (name == LEARNING_RATE_FLAG or fix[name] == value)

    return all(contains(name, value) for name, value in flags.items())
