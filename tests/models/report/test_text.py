"""A diagnosis as text for a terminal: its order, its size, and what it must not contain."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from evenkeel.models.report.text import LINE_LENGTH, render_text
from evenkeel.models.stability.diagnosis import Diagnosis, Suspect
from tests import diagnoses

DIAGNOSES = [diagnoses.empty, diagnoses.sound, diagnoses.long, diagnoses.not_finite, diagnoses.diagnosis]


def test_the_text_has_its_parts_in_order() -> None:
    text = render_text(diagnoses.diagnosis())
    parts = [
        "Most probably, the learning rate is too high (87%).",
        "1.      87%  the learning rate is too high",
        "The loss spiked at step 402",
        "tried: a quarter of the learning rate; 100% recovered",
        "2.       9%",
        "accuracy  val. loss",
        "the run as it was",
        "failed checks before training",
        "--data.outliers=drop",
        "fix: evenkeel train ... --optimizer.learning_rate=0.025",
    ]
    assert sorted(parts, key=text.index) == parts


def test_the_numbers_of_replays_are_aligned() -> None:
    lines = render_text(diagnoses.diagnosis()).splitlines()
    head = next(line for line in lines if "val. loss" in line)
    best, worst = (
        next(line for line in lines if name in line and "%" in line and "tried" not in line)
        for name in ("a quarter of the learning", "full precision")
    )
    for column in ("accuracy", "val. loss", "last loss"):
        end = head.index(column) + len(column)
        assert best[end - 1] != " "
        assert worst[end - 1] != " "
        assert best[end : end + 2].strip() == ""


@pytest.mark.parametrize("create_diagnosis", DIAGNOSES)
def test_the_text_fits_on_a_screen(create_diagnosis: Callable[[], Diagnosis]) -> None:
    text = render_text(create_diagnosis())
    assert len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= LINE_LENGTH
    assert all(line.isprintable() for line in text.split("\n"))


def test_the_text_has_no_control_characters() -> None:
    hostile = Suspect("label_noise", "a\x1b[2J\rb", 0.5, ("c\x07\x1b]0;d\nsecond",), None, 0.0)
    text = render_text(diagnoses.diagnosis(suspects=(hostile,)))
    assert not set("\x1b\x07\r") & set(text)


def test_flags_are_quoted_for_a_shell() -> None:
    diagnosis = diagnoses.diagnosis()
    replay = dataclasses.replace(diagnosis.replays[1], flags={"data.source": "/my pets", "x": 1})
    suspect = dataclasses.replace(diagnosis.suspects[0], replay=replay)
    text = render_text(dataclasses.replace(diagnosis, suspects=(suspect,)))
    assert "evenkeel train ... '--data.source=/my pets' --x=1" in text
