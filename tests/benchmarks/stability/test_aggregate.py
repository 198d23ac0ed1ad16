"""From synthetic cases to results: what counts as detected, explained and recovered, and what is not scored."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest

from evenkeel.benchmarks import results
from evenkeel.benchmarks.report import page
from evenkeel.benchmarks.stability import aggregate, faults, recipes, split
from evenkeel.benchmarks.stability.cases import LEARNING_RATES, Case
from tests import forked

HALF = "heldout"
PERSISTENT_FAULT = next(
    name
    for name, fault in faults.FAULTS.items()
    if split.fault_half(name) == HALF and fault.kind == "persistent" and not faults.has_own_twin(name)
)
TRANSIENT_FAULT = next(
    name
    for name, fault in faults.FAULTS.items()
    if split.fault_half(name) == HALF and fault.kind == "transient" and not faults.has_own_twin(name)
)
SEEDS = range(5)


def run_values(accuracy: float, **changes) -> dict:
    """Values of a run in which no detector fires."""
    values = {
        "accuracy": accuracy, "loss": 1.0, "steps": 200, "alarms": [], "findings": [], "first_alarm": None,
        "loss_spike_rule": None, "autotrainer": [], "terminate_on_nan": None, "reduce_on_plateau": None,
        "early_stopping": None, "spike_score": 0.0, "loss_variance": 0.01, "diverged": False,
    }  # fmt: skip
    return {**values, **changes}


def create_records(faulty_accuracy: float = 0.3, **changes) -> dict[str, dict]:
    """Five clean and five faulty runs on the first pair of `PERSISTENT_FAULT`, and clean ones on every other pair."""
    records = {
        Case("clean", "", network, data, seed).name: run_values(0.8 + 0.002 * seed)
        for network, data in {
            *split.PAIRS,
            *split.fault_pairs(PERSISTENT_FAULT),
            *split.fault_pairs(TRANSIENT_FAULT),
        }
        for seed in SEEDS
    }
    network, data = split.fault_pairs(PERSISTENT_FAULT)[0]
    for seed in SEEDS:
        case = Case("faulty", PERSISTENT_FAULT, network, data, seed)
        records[case.name] = run_values(faulty_accuracy + 0.002 * seed, **changes)
    return records


def medians(records: dict[str, dict]) -> dict[tuple[str, str], float]:
    """{(case, metric): median} of all results."""
    return {(result.case, result.metric): result.median for result in aggregate.aggregate_results(records)}


# Published recipes.


def published_records(alarms: list, findings: list, suspects: list, sound: float = 0.9) -> dict[str, dict]:
    """Three runs of each held-out recipe, the diagnosis of the first, and a fault with its diagnosis and fix."""
    records = {}
    for recipe, data in recipes.RUNS:
        for seed in range(3):
            values = run_values(0.5 + 0.001 * seed, alarms=alarms, findings=findings)
            records[Case("clean", "", recipe, data, seed).name] = values
        records[Case("diagnosis", "", recipe, data, 0).name] = {"suspects": suspects, "sound": sound}
    run = split.fault_run("rate_x30")
    assert run
    for seed in range(3):
        records[Case("faulty", "rate_x30", *run, seed).name] = run_values(0.1, alarms=[["stall", 100]])
    records[Case("diagnosis", "rate_x30", *run, 0).name] = {
        "suspects": [["learning_rate_high", 0.8], ["dropout", 0.1]], "diagnosis_seconds": 40.0, "run_seconds": 10.0,
    }  # fmt: skip
    records[Case("fixed", "rate_x30", *run, 0).name] = {"accuracy": 0.5, "flags": {}}
    return records


def test_published_recipes_are_counted_apart() -> None:
    half = split.fault_half("rate_x30")
    found = medians(published_records([], [], []))
    runs = sum(split.run_half(recipe) == "heldout" for recipe, _ in recipes.RUNS)
    assert found["heldout/published", "clean_runs"] == 3 * runs
    for one_half in split.HALVES:
        assert found[f"{one_half}/published", "false_alarm_rate"] == 0
        assert found[f"{one_half}/published", "sound_runs_called_sound"] == 1
    name = f"{half}/published"
    assert found[name, "recall"] == found[name, "cause_top1"] == found[name, "recovered_persistent"] == 1
    assert found[name, "diagnosis_cost"] == 4
    sound = sum(split.run_half(recipe) == half for recipe, _ in recipes.RUNS)
    assert found[name, "calibration_error"] == pytest.approx((0.1 * sound + 0.2 + 0.1) / (sound + 2))
    assert found[half, "faulty_runs"] == 0, "nothing of them counts for the suite's own networks"


def test_what_is_true_of_a_data_set_is_no_false_alarm() -> None:
    records = published_records([["overfitting", 144]], ["class_imbalance"], [["dropout", 0.6]], sound=0.3)
    found = medians(records)
    runs = [data for recipe, data in recipes.RUNS if split.run_half(recipe) == "heldout"]
    assert found["heldout/published", "false_alarm_rate"] == pytest.approx(1 - runs.count("few") / len(runs))
    assert found["heldout/published", "false_finding_rate"] == pytest.approx(1 - runs.count("imbalanced") / len(runs))
    assert found["heldout/published", "sound_runs_called_sound"] == 0


# Stability.


def test_losses_over_the_learning_rate_are_at_most_the_chance_loss() -> None:
    records, (network, data) = create_records(), next(iter(split.PAIRS))
    for rate in LEARNING_RATES:
        loss = float("nan") if rate > 0.1 else rate
        records[Case("rate", "", network, data, 0, rate).name] = run_values(0.5, loss=loss)
    values = medians(records)
    for rate in LEARNING_RATES:
        expected = aggregate.CHANCE_LOSS[data] if rate > 0.1 else rate
        assert values[f"{network}/{data}/{rate:g}", page.LOSS_AT_RATE] == expected


# Detection.


def test_a_fault_that_costs_no_accuracy_is_an_equivalent_mutant_and_not_scored() -> None:
    values = medians(create_records(faulty_accuracy=0.799, alarms=[["stall", 3]]))
    assert values[HALF, "faulty_runs"] == 0
    assert values[HALF, "equivalent_mutants"] == len(split.SEEDS[HALF])
    assert (HALF, "recall") not in values


def test_only_alarms_and_findings_are_detections() -> None:
    assert medians(create_records())[HALF, "recall"] == 0
    assert medians(create_records(alarms=[["stall", 3]], first_alarm=3))[HALF, "recall"] == 1
    values = medians(create_records(findings=["momentum"], early_stopping=2, autotrainer=["slow"]))
    assert values[HALF, "recall"] == 1
    assert values[f"{HALF}/early_stopping", "recall"] == 1
    assert values[f"{HALF}/autotrainer", "recall"] == 1
    assert values[f"{HALF}/loss_spike_rule", "recall"] == 0


def test_only_the_seeds_of_the_half_are_scored() -> None:
    assert medians(create_records())[HALF, "faulty_runs"] == len(split.SEEDS[HALF]) < len(SEEDS)


def test_false_alarms_are_counted_on_the_clean_runs_of_the_half() -> None:
    records = create_records()
    pairs = [pair for pair, half in split.PAIRS.items() if half == HALF]
    other_pair = next(pair for pair, half in split.PAIRS.items() if half != HALF)
    records[Case("clean", "", *other_pair, 0).name]["alarms"] = [["stall", 9]]
    assert medians(records)[HALF, "false_alarm_rate"] == 0
    records[Case("clean", "", *pairs[0], 0).name]["alarms"] = [["stall", 9]]
    assert medians(records)[HALF, "false_alarm_rate"] == pytest.approx(1 / (len(pairs) * len(SEEDS)))


def test_steps_of_warning_are_from_the_first_alarm_to_the_spike_of_the_loss() -> None:
    assert aggregate.steps_of_warning(run_values(0.1, first_alarm=40, loss_spike_rule=55)) == 15
    assert aggregate.steps_of_warning(run_values(0.1, first_alarm=60, loss_spike_rule=55)) == -5
    assert aggregate.steps_of_warning(run_values(0.1, first_alarm=60)) is None


# Causes.


def test_the_rank_of_a_cause_is_that_of_it_or_an_equivalent_one() -> None:
    accepted = faults.accepted_causes("dropout_80")
    assert aggregate.rank_of_cause([["dropout", 0.9], ["momentum", 0.1]], accepted) == 0
    assert aggregate.rank_of_cause([["momentum", 0.9], ["dropout", 0.1]], accepted) == 1
    assert aggregate.rank_of_cause([["momentum", 0.9]], accepted) > 3
    assert aggregate.rank_of_cause([["no_warmup", 0.9]], faults.accepted_causes("rate_x30")) == 0
    assert aggregate.rank_of_cause([["initialization", 0.9]], faults.accepted_causes("dying_relu")) == 0
    assert aggregate.rank_of_cause([["initialization", 0.9]], faults.accepted_causes("sigmoid")) > 3
    assert aggregate.rank_of_cause([], accepted) > 3


def add_diagnoses(records: dict[str, dict], suspects: list, fixed_accuracy: float) -> dict[str, dict]:
    pair = split.fault_pairs(PERSISTENT_FAULT)[0]
    for seed in split.SEEDS[HALF]:
        diagnosis = {"suspects": suspects, "fix": {}, "diagnosis_seconds": 60.0, "run_seconds": 6.0}
        records[Case("diagnosis", PERSISTENT_FAULT, *pair, seed).name] = diagnosis
        records[Case("fixed", PERSISTENT_FAULT, *pair, seed).name] = {"accuracy": fixed_accuracy}
    return records


def test_causes_count_among_the_first_suspect_and_the_first_three() -> None:
    cause = faults.FAULTS[PERSISTENT_FAULT].cause
    values = medians(add_diagnoses(create_records(), [["frozen_layers", 0.5], [cause, 0.4]], fixed_accuracy=0.8))
    assert (values[HALF, "cause_top1"], values[HALF, "cause_top3"]) == (0, 1)
    assert values[HALF, "diagnosis_cost"] == 10
    values = medians(add_diagnoses(create_records(), [[cause, 0.4]], fixed_accuracy=0.8))
    assert values[HALF, "cause_top1"] == 1


# Recovery.


def test_a_fault_is_recovered_if_its_mean_is_within_two_points_of_the_clean_twins() -> None:
    for difference, expected_share in ((-0.019, 1), (-0.021, 0)):
        records = add_diagnoses(create_records(), [], fixed_accuracy=0.0)
        pair, seeds = split.fault_pairs(PERSISTENT_FAULT)[0], split.SEEDS[HALF]
        clean_mean = np.mean([records[Case("clean", "", *pair, seed).name]["accuracy"] for seed in seeds])
        for seed, deviation in zip(seeds, np.linspace(-0.05, 0.05, len(seeds)), strict=True):
            case = Case("fixed", PERSISTENT_FAULT, *pair, seed)
            records[case.name] = {"accuracy": clean_mean + difference + deviation}
        values = medians(records)
        assert values[HALF, "recovered_persistent"] == expected_share
        assert 0 < values[HALF, "recovered_persistent_runs"] < 1
        assert values[f"{HALF}/no_intervention", "recovered_persistent"] == 0
        assert values[f"{HALF}/no_intervention", "recovered_persistent_runs"] == 0


def test_clean_runs_show_how_many_single_runs_can_recover() -> None:
    records = create_records()
    assert medians(records)[f"{HALF}/sound", "recovered_runs"] == 1
    for name in records:
        if name.startswith("clean//") and name.endswith("/0"):
            records[name] = run_values(records[name]["accuracy"] - 0.1)
    assert medians(records)[f"{HALF}/sound", "recovered_runs"] == pytest.approx(1 - 1 / len(SEEDS))


def test_a_transient_fault_counts_only_if_it_costs_accuracy_without_a_reaction() -> None:
    records, pair = create_records(), split.fault_pairs(TRANSIENT_FAULT)[0]
    first, second, *_ = split.SEEDS[HALF]
    for seed, struck_accuracy in ((first, 0.3), (second, 0.8)):
        records[Case("struck", TRANSIENT_FAULT, *pair, seed).name] = {"accuracy": struck_accuracy}
        records[Case("answered", TRANSIENT_FAULT, *pair, seed).name] = {"accuracy": 0.8}
    suite_results = {(result.case, result.metric): result for result in aggregate.aggregate_results(records)}
    assert suite_results[HALF, "recovered_transient"].median == 1
    assert suite_results[HALF, "recovered_transient"].ci95[0] < 0.3  # from one fault
    assert suite_results[f"{HALF}/no_intervention", "recovered_transient"].median == 0


# Reruns.


def test_a_rerun_may_differ_by_the_order_of_sums_in_kernels() -> None:
    assert aggregate.is_reproduced("clean", run_values(0.5), run_values(0.52))
    assert not aggregate.is_reproduced("clean", run_values(0.5), run_values(0.54))
    before = {"suspects": [["dropout", 0.9], ["momentum", 0.1]]}
    assert aggregate.is_reproduced("diagnosis", before, {"suspects": [["dropout", 0.9]]})
    assert not aggregate.is_reproduced("diagnosis", before, {"suspects": [["momentum", 0.9]]})
    assert not aggregate.is_reproduced("diagnosis", before, {"suspects": []})


@pytest.mark.slow
def test_the_committed_result_follows_from_the_committed_cases(tmp_path: pathlib.Path) -> None:
    """In a process of its own, because the command defines flags."""
    committed = results.ROOT / "benchmarks" / "results"
    for name in ("stability.json.cases.jsonl", "stability.json"):
        shutil.copy(committed / name, tmp_path)
    path = tmp_path / "stability.json"
    document = json.loads(path.read_text())
    expected, document["results"] = document["results"], document["results"][:1]
    path.write_text(json.dumps(document))
    process = forked.run("benchmarks.stability", "--rescore", f"--output={path}")
    assert process.returncode == 0, process.stderr
    assert json.loads(path.read_text()) == {**document, "results": expected}
