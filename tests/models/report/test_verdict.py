"""The verdict is as certain as the probability, and the fix is one that was found to help."""

from __future__ import annotations

import dataclasses

import pytest

from evenkeel.models.report import verdict
from evenkeel.models.report.text import render_text
from tests import diagnoses


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        (0.9, "Almost certainly, the learning rate is too high (90%)."),
        (0.89, "Most probably, the learning rate is too high (89%)."),
        (0.5, "Most probably, the learning rate is too high (50%)."),
        (0.49, "Perhaps, the learning rate is too high (49%)."),
    ],
)
def test_the_verdict_is_as_certain_as_the_probability(probability: float, expected: str) -> None:
    diagnosis = diagnoses.diagnosis()
    suspect = dataclasses.replace(diagnosis.suspects[0], probability=probability)
    assert verdict.verdict_sentence(dataclasses.replace(diagnosis, suspects=(suspect,))) == expected


def test_nothing_is_wrong_only_without_alarms_and_failed_checks() -> None:
    sound = diagnoses.sound()
    assert verdict.verdict_sentence(sound) == "Nothing is wrong with this run."
    assert verdict.verdict_sentence(diagnoses.empty()).startswith("Nothing is known")
    alarms = diagnoses.diagnosis().alarms
    assert "although this run has 5 alarms." in verdict.verdict_sentence(dataclasses.replace(sound, alarms=alarms))
    failed = dataclasses.replace(sound, findings=diagnoses.findings())
    assert "although this run has 1 failed check." in verdict.verdict_sentence(failed)


def test_the_fix_is_that_of_the_first_cause_with_a_change() -> None:
    diagnosis = diagnoses.diagnosis()
    suspects = diagnosis.suspects
    fix = verdict.choose_fix(diagnosis)
    assert fix == (suspects[0], ["--optimizer.learning_rate=0.025"], "", True, suspects[0].replay)
    unfixable_first = dataclasses.replace(diagnosis, suspects=suspects[2:] + suspects[1:2])
    fix = verdict.choose_fix(unfixable_first)
    assert fix is not None
    assert fix.suspect is suspects[1]
    assert "the most probable cause for which there is a change" in render_text(unfixable_first)
    assert verdict.choose_fix(dataclasses.replace(diagnosis, suspects=suspects[2:])) is None


def test_several_changes_together_are_one_fix() -> None:
    diagnosis = diagnoses.diagnosis()
    flags = {"optimizer.learning_rate": 0.025, "data.normalize": True}
    joint = dataclasses.replace(diagnosis.replays[1], name="both", flags=flags, accuracy=0.9)
    suspects = tuple(dataclasses.replace(suspect, probability=0.9) for suspect in diagnosis.suspects[:2])
    fixed = dataclasses.replace(diagnosis, suspects=suspects, fix=flags, replays=(*diagnosis.replays, joint))
    fix = verdict.choose_fix(fixed)
    assert fix is not None
    assert fix.flags == ["--optimizer.learning_rate=0.025", "--data.normalize"]
    assert fix.replay is joint
    assert f"; and {suspects[1].title} (90%)." in verdict.verdict_sentence(fixed)
    assert "--data.normalize" in render_text(fixed)


@pytest.mark.parametrize(("recovered", "helps"), [(0.19, False), (0.2, True)])
def test_a_change_that_recovers_nothing_is_not_a_fix(recovered: float, helps: bool) -> None:
    diagnosis = diagnoses.diagnosis()
    suspect = dataclasses.replace(diagnosis.suspects[0], recovered=recovered)
    changed = dataclasses.replace(diagnosis, suspects=(suspect,))
    text = render_text(changed)
    assert ("\nfix: evenkeel train ... --optimizer.learning_rate=0.025" in text) == helps
    assert ("no fix was found" in text) == (not helps)
    assert (diagnosis.replays[1] in verdict.ineffective_replays(changed)) == (not helps)


def test_replays_without_effect_are_found_by_their_accuracy() -> None:
    diagnosis = diagnoses.diagnosis(suspects=())
    names = [replay.name for replay in verdict.ineffective_replays(diagnosis)]
    assert names == ["normalised input", "full precision"]
    share = verdict.recovered_share(diagnosis, diagnosis.replays[2])
    assert share == pytest.approx((0.62 - 0.1) / (0.812 - 0.1))
    equal = tuple(dataclasses.replace(replay, accuracy=0.1) for replay in diagnosis.replays)
    assert len(verdict.ineffective_replays(dataclasses.replace(diagnosis, replays=equal))) == 5
