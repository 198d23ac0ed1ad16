"""From made-up cases to the suite's result: what counts as detected, explained, recovered, and what is not scored."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from evenkeel.benchmarks import results
from evenkeel.benchmarks.report import page
from evenkeel.benchmarks.stability import (
    aggregate,
    faults,
    split,
    suite,
)
from evenkeel.benchmarks.stability.cases import Case

HALF = "heldout"
FAULT = next(
    name
    for name, fault in faults.FAULTS.items()
    if split.half(name) == HALF and fault.kind == "persistent" and not faults.has_twin(name)
)
PASSING = next(
    name
    for name, fault in faults.FAULTS.items()
    if split.half(name) == HALF and fault.kind == "transient" and not faults.has_twin(name)
)
SEEDS = range(5)


def run(accuracy: float, **changes) -> dict:
    quiet = {
        "accuracy": accuracy, "loss": 1.0, "steps": 200, "alarms": [], "findings": [], "first_alarm": None,
        "loss_spike_rule": None, "autotrainer": [], "terminate_on_nan": None, "reduce_on_plateau": None,
        "early_stopping": None, "spike_score": 0.0, "loss_variance": 0.01, "diverged": False,
    }  # fmt: skip
    return {**quiet, **changes}


def records(mutant: float = 0.3, **changes) -> dict[str, dict]:
    """Five clean and five faulty runs on the first pair of `FAULT`, clean ones on every other pair too."""
    found = {
        Case("clean", "", network, data, seed).name: run(0.8 + 0.002 * seed)
        for network, data in {*split.PAIRS, *split.pairs(FAULT), *split.pairs(PASSING)}
        for seed in SEEDS
    }
    network, data = split.pairs(FAULT)[0]
    for seed in SEEDS:
        found[Case("faulty", FAULT, network, data, seed).name] = run(mutant + 0.002 * seed, **changes)
    return found


def figures(of: dict[str, dict]) -> dict[tuple[str, str], float]:
    return {(result.case, result.metric): result.median for result in aggregate.all_results(of)}


def test_losses_over_the_learning_rate_are_at_most_those_of_guessing() -> None:
    of, (network, data) = records(), next(iter(split.PAIRS))
    for rate in aggregate.RATES:
        of[Case("rate", "", network, data, 0, rate).name] = run(0.5, loss=float("nan") if rate > 0.1 else rate)
    found = figures(of)
    for rate in aggregate.RATES:
        expected = aggregate.GUESSING[data] if rate > 0.1 else rate
        assert found[f"{network}/{data}/{rate:g}", page.AT_RATE] == expected


def test_a_case_is_known_by_its_name() -> None:
    for case in (Case("clean", "", "cnn", "shapes", 3), Case("rate", "", "cnn", "photos", 0, 0.0316)):
        assert Case.named(case.name) == case


def test_what_costs_no_accuracy_is_equivalent_and_not_scored() -> None:
    found = figures(records(mutant=0.799, alarms=[["stall", 3]]))
    assert found[HALF, "faulty_runs"] == 0
    assert found[HALF, "equivalent_mutants"] == len(split.SEEDS[HALF])
    assert (HALF, "recall") not in found


def test_an_alarm_or_a_finding_is_a_detection_and_nothing_else_is() -> None:
    assert figures(records())[HALF, "recall"] == 0
    assert figures(records(alarms=[["stall", 3]], first_alarm=3))[HALF, "recall"] == 1
    found = figures(records(findings=["momentum"], early_stopping=2, autotrainer=["slow"]))
    assert found[HALF, "recall"] == 1
    assert found[f"{HALF}/early_stopping", "recall"] == 1
    assert found[f"{HALF}/autotrainer", "recall"] == 1
    assert found[f"{HALF}/loss_spike_rule", "recall"] == 0


def test_only_the_seeds_of_the_half_are_scored() -> None:
    assert figures(records())[HALF, "faulty_runs"] == len(split.SEEDS[HALF]) < len(SEEDS)


def test_false_alarms_are_those_on_clean_runs_of_the_half() -> None:
    of = records()
    pairs = [pair for pair, half in split.PAIRS.items() if half == HALF]
    other = next(pair for pair, half in split.PAIRS.items() if half != HALF)
    of[Case("clean", "", *other, 0).name]["alarms"] = [["stall", 9]]
    assert figures(of)[HALF, "false_alarm_rate"] == 0
    of[Case("clean", "", *pairs[0], 0).name]["alarms"] = [["stall", 9]]
    assert figures(of)[HALF, "false_alarm_rate"] == pytest.approx(1 / (len(pairs) * len(SEEDS)))


def test_steps_of_warning_are_from_the_alarm_to_what_the_loss_shows() -> None:
    assert aggregate.steps_of_warning(run(0.1, first_alarm=40, loss_spike_rule=55)) == 15
    assert aggregate.steps_of_warning(run(0.1, first_alarm=60, loss_spike_rule=55)) == -5
    assert aggregate.steps_of_warning(run(0.1, first_alarm=60)) is None


def test_the_cause_is_right_if_it_or_its_equivalent_comes_first() -> None:
    right = faults.accepted("dropout_80")
    assert aggregate.rank([["dropout", 0.9], ["momentum", 0.1]], right) == 0
    assert aggregate.rank([["momentum", 0.9], ["dropout", 0.1]], right) == 1
    assert aggregate.rank([["momentum", 0.9]], right) > 3
    assert aggregate.rank([["no_warmup", 0.9]], faults.accepted("rate_x30")) == 0
    assert aggregate.rank([["initialization", 0.9]], faults.accepted("dying_relu")) == 0
    assert aggregate.rank([["initialization", 0.9]], faults.accepted("sigmoid")) > 3
    assert aggregate.rank([], right) > 3


def diagnosed(of: dict[str, dict], suspects: list, fixed: float) -> dict[str, dict]:
    pair = split.pairs(FAULT)[0]
    for seed in split.SEEDS[HALF]:
        told = {"suspects": suspects, "fix": {}, "diagnosis_seconds": 60.0, "run_seconds": 6.0}
        of[Case("diagnosis", FAULT, *pair, seed).name] = told
        of[Case("fixed", FAULT, *pair, seed).name] = {"accuracy": fixed}
    return of


def test_top_1_and_top_3() -> None:
    right = faults.FAULTS[FAULT].cause
    found = figures(diagnosed(records(), [["frozen_layers", 0.5], [right, 0.4]], fixed=0.8))
    assert (found[HALF, "cause_top1"], found[HALF, "cause_top3"]) == (0, 1)
    assert found[HALF, "diagnosis_cost"] == 10
    assert figures(diagnosed(records(), [[right, 0.4]], fixed=0.8))[HALF, "cause_top1"] == 1


def test_recovered_is_within_two_points_of_the_same_seeds_clean_runs_in_the_mean() -> None:
    for beside, share in ((-0.019, 1), (-0.021, 0)):
        of, pair = diagnosed(records(), [], fixed=0.0), split.pairs(FAULT)[0]
        seeds = split.SEEDS[HALF]
        sound = np.mean([of[Case("clean", "", *pair, seed).name]["accuracy"] for seed in seeds])
        for seed, spread in zip(seeds, np.linspace(-0.05, 0.05, len(seeds)), strict=True):
            of[Case("fixed", FAULT, *pair, seed).name] = {"accuracy": sound + beside + spread}
        found = figures(of)
        assert found[HALF, "recovered_persistent"] == share
        assert 0 < found[HALF, "recovered_persistent_runs"] < 1
        assert found[f"{HALF}/no_intervention", "recovered_persistent"] == 0
        assert found[f"{HALF}/no_intervention", "recovered_persistent_runs"] == 0


def test_sound_runs_tell_how_many_single_ones_can_be_expected() -> None:
    of = records()
    assert figures(of)[f"{HALF}/sound", "recovered_runs"] == 1
    for name in of:
        if name.startswith("clean//") and name.endswith("/0"):
            of[name] = run(of[name]["accuracy"] - 0.1)
    assert figures(of)[f"{HALF}/sound", "recovered_runs"] == pytest.approx(1 - 1 / len(SEEDS))


def test_a_burst_counts_only_where_it_hurts_unanswered() -> None:
    of, pair = records(), split.pairs(PASSING)[0]
    first, second, *_ = split.SEEDS[HALF]
    for seed, struck in ((first, 0.3), (second, 0.8)):
        of[Case("struck", PASSING, *pair, seed).name] = {"accuracy": struck}
        of[Case("answered", PASSING, *pair, seed).name] = {"accuracy": 0.8}
    results = {(result.case, result.metric): result for result in aggregate.all_results(of)}
    assert results[HALF, "recovered_transient"].median == 1
    assert results[HALF, "recovered_transient"].ci95[0] < 0.3  # of one run
    assert results[f"{HALF}/no_intervention", "recovered_transient"].median == 0


def test_a_rerun_is_alike_within_what_kernels_may_change() -> None:
    assert aggregate.alike("clean", run(0.5), run(0.52))
    assert not aggregate.alike("clean", run(0.5), run(0.54))
    told = {"suspects": [["dropout", 0.9], ["momentum", 0.1]]}
    assert aggregate.alike("diagnosis", told, {"suspects": [["dropout", 0.9]]})
    assert not aggregate.alike("diagnosis", told, {"suspects": [["momentum", 0.9]]})
    assert not aggregate.alike("diagnosis", told, {"suspects": []})


@pytest.mark.parametrize("name", suite.SUITES)
def test_phases_build_on_each_other(name: str) -> None:
    clean, faulty, overhead, diagnoses = suite.phases(name, photos=True)
    of: dict[str, dict] = {}
    for phase, accuracy in ((clean, 0.8), (faulty, 0.3)):
        groups = phase(of)
        assert groups
        for case in (case for group in groups for case in group):
            assert case.name not in of, case
            of[case.name] = run(accuracy + 0.001 * case.seed)
    for group in faulty(of):
        passes = faults.FAULTS[group[0].fault].kind == "transient"
        assert {case.kind for case in group} == (set(suite.ANSWERS) if passes else {"faulty"})
    asked = [case for group in diagnoses(of) for case in group if case.kind == "diagnosis"]
    assert asked
    assert all(case.seed in split.SEEDS[split.half(case.fault)] for case in asked)
    assert len(overhead(of)) == 1
    healthy = {name: run(0.8) for name in of}
    assert diagnoses(healthy) == []


def test_the_full_suite_is_as_large_as_it_must_be() -> None:
    clean, faulty, *_ = suite.phases("full", photos=True)
    runs = [case for group in clean({}) for case in group if (case.kind, case.fault) == ("clean", "")]
    assert len(runs) >= 300
    assert len({case.fault for group in faulty({}) for case in group if case.kind == "faulty"}) >= 24


def test_the_quick_suite_needs_no_photographs() -> None:
    for phase in suite.phases("quick", photos=False)[:2]:
        assert {case.data for group in phase({}) for case in group} == {"shapes"}


@pytest.mark.slow
def test_committed_figures_are_those_of_the_committed_cases(tmp_path: pathlib.Path) -> None:
    """Counted anew, in a process of its own, as the command defines flags."""
    committed = results.ROOT / "benchmarks" / "results"
    for name in ("stability.json.cases.jsonl", "stability.json"):
        shutil.copy(committed / name, tmp_path)
    path = tmp_path / "stability.json"
    document = json.loads(path.read_text())
    kept, document["results"] = document["results"], document["results"][:1]
    path.write_text(json.dumps(document))
    line = [sys.executable, "-m", "benchmarks.stability", "--rescore", f"--output={path}"]
    done = subprocess.run(line, cwd=results.ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(path.read_text()) == {**document, "results": kept}
