"""Names of cases, which are the keys of the journal."""

from __future__ import annotations

from evenkeel.benchmarks.stability.cases import Case


def test_a_case_is_identified_by_its_name() -> None:
    for case in (Case("clean", "", "cnn", "shapes", 3), Case("rate", "", "cnn", "photos", 0, 0.0316)):
        assert Case.from_name(case.name) == case
    assert Case("clean", "", "cnn", "shapes", 3).name == "clean//cnn/shapes/3"
