"""Figures of a diagnosis: the running median, and the rules of the detectors."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.models.report import figures
from evenkeel.models.stability import detectors


def test_the_running_median_has_gaps_only_where_the_loss_has() -> None:
    values = np.ones(300)
    values[100:110] = np.inf
    raw, median = figures._smooth("loss", np.arange(300), values)
    np.testing.assert_array_equal(np.isfinite(median.y), np.isfinite(raw.y))
    spiked = np.ones(300)
    spiked[200] = 50
    assert set(figures._smooth("loss", np.arange(300), spiked)[1].y) == {1.0}
    assert len(figures._smooth("loss", np.arange(99), np.ones(99))) == 1


@pytest.mark.parametrize("kind", [*detectors.STANDALONE, *detectors.CORROBORATED])
def test_the_rule_of_every_detector_is_shown_with_numbers(kind: str) -> None:
    rule = figures._detector_rule(kind)
    assert rule
    assert "`" not in rule
