"""A diagnosis in words and as JSON."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from evenkeel.models.report import text
from evenkeel.models.stability.diagnosis import Suspect
from tests import diagnoses

ODD = [diagnoses.empty, diagnoses.sound, diagnoses.long, diagnoses.not_finite, diagnoses.diagnosis]


@pytest.mark.parametrize(
    ("probability", "expected"),
    [
        (0.9, "Almost certainly, the learning rate is too high (90%)."),
        (0.89, "Most probably, the learning rate is too high (89%)."),
        (0.5, "Most probably, the learning rate is too high (50%)."),
        (0.49, "Perhaps, the learning rate is too high (49%)."),
    ],
)
def test_the_verdict_is_as_sure_as_the_probability(probability: float, expected: str) -> None:
    whole = diagnoses.diagnosis()
    first = dataclasses.replace(whole.suspects[0], probability=probability)
    assert text.sentence(dataclasses.replace(whole, suspects=(first,))) == expected


def test_nothing_is_wrong_only_if_nothing_speaks_against_the_run() -> None:
    assert text.sentence(diagnoses.sound()) == "Nothing is wrong with this run."
    assert text.sentence(diagnoses.empty()).startswith("Nothing is known")
    alarms = diagnoses.diagnosis().alarms
    assert "5 alarms speak against" in text.sentence(dataclasses.replace(diagnoses.sound(), alarms=alarms))
    failed = dataclasses.replace(diagnoses.sound(), findings=diagnoses.findings())
    assert "1 check speaks against" in text.sentence(failed)


def test_the_cure_is_that_of_the_first_cause_with_one() -> None:
    whole = diagnoses.diagnosis()
    found = text.cure(whole)
    assert found == (whole.suspects[0], ["--optimizer.learning_rate=0.025"], "", True, whole.suspects[0].replay)
    without = dataclasses.replace(whole, suspects=whole.suspects[2:] + whole.suspects[1:2])
    found = text.cure(without)
    assert found is not None
    assert found.suspect is whole.suspects[1]
    assert "most probable cause that a change was found for" in text.text(without)
    assert text.cure(dataclasses.replace(whole, suspects=whole.suspects[2:])) is None


def test_several_changes_together_are_one_fix() -> None:
    whole = diagnoses.diagnosis()
    both = {"optimizer.learning_rate": 0.025, "data.normalize": True}
    joint = dataclasses.replace(whole.replays[1], name="both", flags=both, accuracy=0.9)
    sure = tuple(dataclasses.replace(each, probability=0.9) for each in whole.suspects[:2])
    fixed = dataclasses.replace(whole, suspects=sure, fix=both, replays=(*whole.replays, joint))
    found = text.cure(fixed)
    assert found is not None
    assert found.flags == ["--optimizer.learning_rate=0.025", "--data.normalize"]
    assert found.replay is joint
    assert f"; and {sure[1].title} (90%)." in text.sentence(fixed)
    assert "--data.normalize" in text.text(fixed)


@pytest.mark.parametrize(("recovered", "helps"), [(0.19, False), (0.2, True)])
def test_a_change_that_recovers_nothing_is_no_fix(recovered: float, helps: bool) -> None:
    whole = diagnoses.diagnosis()
    first = dataclasses.replace(whole.suspects[0], recovered=recovered)
    said = text.text(dataclasses.replace(whole, suspects=(first,)))
    assert ("\nfix: python -m tools.train ... --optimizer.learning_rate=0.025" in said) == helps
    assert ("no fix was found" in said) == (not helps)
    assert (whole.replays[1] in text.without_effect(dataclasses.replace(whole, suspects=(first,)))) == (not helps)


def test_what_did_not_help_is_told_from_accuracy() -> None:
    whole = diagnoses.diagnosis(suspects=())
    assert [each.name for each in text.without_effect(whole)] == ["normalised input", "full precision"]
    assert text.share(whole, whole.replays[2]) == pytest.approx((0.62 - 0.1) / (0.812 - 0.1))
    alike = tuple(dataclasses.replace(each, accuracy=0.1) for each in whole.replays)
    assert len(text.without_effect(dataclasses.replace(whole, replays=alike))) == 5


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0%"), (0.004, "under 1%"), (0.01, "1%"), (0.5, "50%"), (0.995, "over 99%"), (1, "100%"), (np.nan, "unknown")],
)
def test_percent(value: float, expected: str) -> None:
    assert text.percent(value) == expected


# Text.


def test_text_says_it_in_order() -> None:
    said = text.text(diagnoses.diagnosis())
    parts = [
        "Most probably, the learning rate is too high (87%).",
        "1.      87%  the learning rate is too high",
        "The loss spiked at step 402",
        "tried: a quarter of the learning rate; 100% recovered",
        "2.       9%",
        "accuracy  val. loss",
        "the run as it was",
        "before the first step",
        "--data.outliers=drop",
        "fix: python -m tools.train ... --optimizer.learning_rate=0.025",
    ]
    assert sorted(parts, key=said.index) == parts


def test_numbers_of_replays_stand_below_each_other() -> None:
    lines = text.text(diagnoses.diagnosis()).splitlines()
    head = next(line for line in lines if "val. loss" in line)
    best, worst = (next(line for line in lines if name in line and "%" in line and "tried" not in line)
                   for name in ("a quarter of the learning", "full precision"))  # fmt: skip
    for column in ("accuracy", "val. loss", "last loss"):
        end = head.index(column) + len(column)
        assert best[end - 1] != " "
        assert worst[end - 1] != " "
        assert best[end : end + 2].strip() == ""


@pytest.mark.parametrize("made", ODD)
def test_text_fits_on_a_screen(made) -> None:
    said = text.text(made())
    assert len(said.splitlines()) <= 40
    assert max(map(len, said.splitlines())) <= text.WIDTH
    assert all(line.isprintable() for line in said.split("\n"))


def test_text_holds_nothing_that_a_terminal_obeys() -> None:
    evil = Suspect("label_noise", "a\x1b[2J\rb", 0.5, ("c\x07\x1b]0;d\nsecond",), None, 0.0)
    said = text.text(diagnoses.diagnosis(suspects=(evil,)))
    assert not set("\x1b\x07\r") & set(said)


def test_flags_are_quoted_for_a_shell() -> None:
    assert text.quoted(["--data.source=/my pets", "--x=1"]) == "'--data.source=/my pets' --x=1"


# JSON.


@pytest.mark.parametrize("made", ODD)
def test_json_can_be_read_again(made) -> None:
    whole = made()
    written = json.dumps(text.to_json(whole), allow_nan=False)
    read = json.loads(written)
    assert read["verdict"] == text.sentence(whole)
    assert len(read["trace"]["loss"]) == len(whole.trace.loss)
    assert [each["cause"] for each in read["suspects"]] == [each.cause for each in whole.suspects]
    np.testing.assert_array_equal(np.array(read["trace"]["loss"], np.float64), whole.trace.loss)
    for of_json, replay in zip(read["replays"], whole.replays, strict=True):
        np.testing.assert_array_equal(np.array(of_json["loss"], np.float64), replay.loss)


def test_json_has_all_but_pixels() -> None:
    whole = diagnoses.diagnosis()
    read = text.to_json(whole)
    assert read["fix"] == {
        "suspect": "learning_rate_high", "flags": ["--optimizer.learning_rate=0.025"], "edit": "", "helps": True,
    }  # fmt: skip
    assert read["suspects"][0]["replay"] == "a quarter of the learning rate"
    assert read["suspects"][2]["replay"] is None
    assert read["replays"][0]["validation_loss"] == "nan"
    assert read["replays"][3]["validation_loss"] == "inf"
    assert read["findings"][1]["causes"] == ["outlier_images"]
    assert read["alarms"][0] == {"kind": "vanishing", "step": 120, "evidence": {"ratio": 3.1e-4}}
    assert read["pictures"][0] == {"name": "Köter/0000.jpg", "reason": "11 deviations darker", "shape": [32, 32, 3]}
    assert set(read["trace"]["layers"]) == set(whole.trace.layers)
    assert "tensorflow" in read["versions"]
