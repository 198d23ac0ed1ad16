"""diagnosis.json can be read again and holds the whole diagnosis but its pixels."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from evenkeel.models.report.diagnosis_json import to_json
from evenkeel.models.report.verdict import verdict_sentence
from evenkeel.models.stability.diagnosis import Diagnosis
from tests import diagnoses

DIAGNOSES = [diagnoses.empty, diagnoses.sound, diagnoses.long, diagnoses.not_finite, diagnoses.diagnosis]


@pytest.mark.parametrize("create_diagnosis", DIAGNOSES)
def test_json_can_be_read_again(create_diagnosis: Callable[[], Diagnosis]) -> None:
    diagnosis = create_diagnosis()
    read = json.loads(json.dumps(to_json(diagnosis), allow_nan=False))
    assert read["verdict"] == verdict_sentence(diagnosis)
    assert len(read["trace"]["loss"]) == len(diagnosis.trace.loss)
    assert [suspect["cause"] for suspect in read["suspects"]] == [suspect.cause for suspect in diagnosis.suspects]
    np.testing.assert_array_equal(np.array(read["trace"]["loss"], np.float64), diagnosis.trace.loss)
    for read_replay, replay in zip(read["replays"], diagnosis.replays, strict=True):
        np.testing.assert_array_equal(np.array(read_replay["loss"], np.float64), replay.loss)


def test_json_has_everything_but_pixels() -> None:
    diagnosis = diagnoses.diagnosis()
    values = to_json(diagnosis)
    assert values["fix"] == {
        "suspect": "learning_rate_high",
        "flags": ["--optimizer.learning_rate=0.025"],
        "edit": "",
        "helps": True,
    }
    assert values["suspects"][0]["replay"] == "a quarter of the learning rate"
    assert values["suspects"][2]["replay"] is None
    assert values["replays"][0]["validation_loss"] == "nan"
    assert values["replays"][3]["validation_loss"] == "inf"
    assert values["findings"][1]["causes"] == ["outlier_images"]
    assert values["alarms"][0] == {"kind": "vanishing", "step": 120, "evidence": {"ratio": 3.1e-4}}
    assert values["pictures"][0] == {"name": "Köter/0000.jpg", "reason": "11 deviations darker", "shape": [32, 32, 3]}
    assert set(values["trace"]["layers"]) == set(diagnosis.trace.layers)
    assert "tensorflow" in values["versions"]
