"""Numbers in sentences: percentages, and counts with their noun."""

from __future__ import annotations

import pytest

from evenkeel.models.report.wording import format_count, format_percent


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0%"),
        (0.004, "under 1%"),
        (0.01, "1%"),
        (0.5, "50%"),
        (0.995, "over 99%"),
        (1, "100%"),
        (float("nan"), "unknown"),
    ],
)
def test_percentages_are_rounded_but_never_to_0_or_100(value: float, expected: str) -> None:
    assert format_percent(value) == expected


def test_a_count_has_its_noun_in_singular_or_plural() -> None:
    assert [format_count(count, "step") for count in (0, 1, 20_000)] == ["0 steps", "1 step", "20,000 steps"]
