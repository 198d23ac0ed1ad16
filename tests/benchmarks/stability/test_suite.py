"""The cases of a suite: how many there are, and how its phases depend on earlier ones."""

from __future__ import annotations

import pytest

from evenkeel.benchmarks.stability import faults, recipes, split, suite
from tests.benchmarks.stability.test_aggregate import run_values


@pytest.mark.parametrize("name", suite.SUITES)
def test_phases_depend_on_the_results_of_earlier_ones(name: str) -> None:
    clean, faulty, overhead, diagnoses = suite.Suite(name, photos=True).phases()
    records: dict[str, dict] = {}
    for phase, accuracy in ((clean, 0.8), (faulty, 0.3)):
        groups = phase(records)
        assert groups
        for case in (case for group in groups for case in group):
            assert case.name not in records, case
            records[case.name] = run_values(accuracy + 0.001 * case.seed)
    for group in faulty(records):
        is_transient = faults.FAULTS[group[0].fault].kind == "transient"
        assert {case.kind for case in group} == (set(suite.TRANSIENT_KINDS) if is_transient else {"faulty"})
    diagnosed = [case for group in diagnoses(records) for case in group if case.kind == "diagnosis"]
    own = [case for case in diagnosed if case.network not in recipes.RECIPES]
    assert all(case.seed in split.SEEDS[split.fault_half(case.fault)] for case in own)
    assert bool(own) == (name != "published")
    published = [case for case in diagnosed if case not in own]
    sound = [(case.network, case.data) for case in published if not case.fault]
    assert sorted(sound) == (sorted(recipes.RUNS) if name != "quick" else [])
    assert {case.fault for case in published} - {""} == {
        fault for fault in faults.FAULTS if name != "quick" and split.fault_run(fault)
    }
    assert len(overhead(records)) == 1
    harmless = {case: run_values(0.8) for case in records}
    assert all(not case.fault for group in diagnoses(harmless) for case in group)


def test_the_full_suite_has_at_least_300_clean_runs_and_24_persistent_faults() -> None:
    clean, faulty, *_ = suite.Suite("full", photos=True).phases()
    clean_runs = [case for group in clean({}) for case in group if (case.kind, case.fault) == ("clean", "")]
    assert len(clean_runs) >= 300
    assert len({case.fault for group in faulty({}) for case in group if case.kind == "faulty"}) >= 24


def test_the_quick_suite_needs_no_photographs() -> None:
    for phase in suite.Suite("quick", photos=False).phases()[:2]:
        assert {case.data for group in phase({}) for case in group} == {"shapes"}
