"""Computes the results of the stability suite from its cases: detection, causes, recovery, stability and cost.

results = aggregate_results(records)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evenkeel.benchmarks import statistics
from evenkeel.benchmarks.results import Result
from evenkeel.benchmarks.stability import data_sets, faults, recipes, split, suite
from evenkeel.benchmarks.stability.cases import LEARNING_RATES, Case

Values = dict[str, Any]  # the values of one case
Records = dict[str, Values]  # {name of a case: its values}
RECOVERY_MARGIN = 0.02  # a run counts as recovered if it loses at most this much accuracy against the clean twin
RERUN_TOLERANCE = 0.03  # two runs of a case may differ by this accuracy, because kernels sum in different orders
LOSS_AT_RATE = "loss_at_rate"  # metric of the cases that are named NETWORK/DATA/RATE
VALIDATION_IMAGES = 1000  # as in models.doctor.replay, which is not imported because it starts TensorFlow
CHANCE_LOSS = {"shapes": float(np.log(len(data_sets.SHAPE_CLASSES))), "photos": float(np.log(10))}  # nats

# {detector: function that tells from the values of a run whether the detector finds a fault}; "" is evenkeel.
DETECTORS: dict[str, Callable[[Values], bool]] = {
    "": lambda values: bool(values["alarms"] or values["findings"]),
    "autotrainer": lambda values: bool(values["autotrainer"]),
    "terminate_on_nan": lambda values: values["terminate_on_nan"] is not None,
    "reduce_on_plateau": lambda values: values["reduce_on_plateau"] is not None,
    "early_stopping": lambda values: values["early_stopping"] is not None,
    "loss_spike_rule": lambda values: values["loss_spike_rule"] is not None,
}


def aggregate_results(records: Records) -> list[Result]:
    results = []
    published = {name: values for name, values in records.items() if Case.from_name(name).network in recipes.RECIPES}
    own = {name: values for name, values in records.items() if name not in published}
    for half in split.HALVES:
        results += [*detection_results(own, half), *cause_results(own, half), *recovery_results(own, half)]
        results += published_results(published, half) if published else []
    return [*results, *stability_results(own), *overhead_results(own)]


# Published recipes.


def published_results(records: Records, half: str) -> list[Result]:
    """Returns the results of published recipes: detection by source of the alarm, causes, calibration, fixes, cost."""
    name = f"{half}/published"
    faulty = [values for case, values in cases_of_kind(records, "faulty") if _is_scored(records, case, half)]
    clean = [
        (set(data_sets.TRUE_STATEMENTS.get(case.data, ())), values)
        for case, values in cases_of_kind(records, "clean")
        if not case.fault and _is_clean_case_of_half(case, half)
    ]
    results = [_count_result(name, "faulty_runs", len(faulty)), _count_result(name, "clean_runs", len(clean))]
    if faulty:
        seen = statistics.wilson_estimate(sum(map(DETECTORS[""], faulty)), len(faulty))
        results.append(_share_result(name, "recall", seen, "higher"))
    if clean:
        alarms = sum(bool({kind for kind, _ in values["alarms"]} - true) for true, values in clean)
        findings = sum(bool({*values["findings"]} - true) for true, values in clean)
        for metric, count in (("false_alarm_rate", alarms), ("false_finding_rate", findings)):
            results.append(_share_result(name, metric, statistics.wilson_estimate(count, len(clean)), "lower"))
    sound = [
        values
        for case, values in cases_of_kind(records, "diagnosis")
        if not case.fault and split.run_half(case.network) == half
    ]
    if sound:
        right = statistics.wilson_estimate(sum(not values["suspects"] for values in sound), len(sound))
        results.append(_share_result(name, "sound_runs_called_sound", right, "higher"))
    diagnosed = [item for item in cases_of_kind(records, "diagnosis") if item[0].fault]
    scored = [(case, values) for case, values in diagnosed if _is_scored(records, case, half)]
    if predictions := probabilities_and_outcomes(scored, sound):
        probabilities, outcomes = zip(*predictions, strict=True)
        error = statistics.calibration_error(probabilities, outcomes)
        results.append(Result("stability", name, "calibration_error", "1", "lower", (error,)))
    faults_only = {case_name: values for case_name, values in records.items() if Case.from_name(case_name).fault}
    clean_twins = {case_name: values for case_name, values in records.items() if case_name.startswith("clean/")}
    results += [
        dataclasses.replace(result, case=result.case.replace(half, name))
        for result in [
            *cause_results(faults_only | clean_twins, half),
            *recovery_results(faults_only | clean_twins, half),
        ]
    ]
    return results


def probabilities_and_outcomes(
    faulty: Sequence[tuple[Case, Values]], sound: Sequence[Values]
) -> list[tuple[float, bool]]:
    """Returns (probability, whether it was right) of each suspect, and of each sound run that it is sound."""
    predictions = [
        (probability, cause in faults.accepted_causes(case.fault))
        for case, values in faulty
        for cause, probability in values["suspects"]
    ]
    for values in sound:
        predictions += [(values["sound"], True), *((probability, False) for _, probability in values["suspects"])]
    return predictions


# Detection.


def detection_results(records: Records, half: str) -> list[Result]:
    """Returns recall and false alarms of every detector on the faulty and the clean runs of a half."""
    faulty = [values for case, values in cases_of_kind(records, "faulty") if _is_scored(records, case, half)]
    clean = [values for case, values in cases_of_kind(records, "clean") if _is_clean_case_of_half(case, half)]
    results = [
        _count_result(half, "faulty_runs", len(faulty)),
        _count_result(half, "clean_runs", len(clean)),
        _count_result(half, "equivalent_mutants", _count_equivalent_mutants(records, half)),
    ]
    for detector, detects in DETECTORS.items() if faulty and clean else ():
        hits, false_alarms = sum(map(detects, faulty)), sum(map(detects, clean))
        name = f"{half}/{detector}".rstrip("/")
        recall = statistics.wilson_estimate(hits, len(faulty))
        false_alarm_rate = statistics.wilson_estimate(false_alarms, len(clean))
        balanced_accuracy = statistics.balanced_accuracy(hits, len(faulty), false_alarms, len(clean))
        results += [
            _share_result(name, "recall", recall, "higher"),
            _share_result(name, "false_alarm_rate", false_alarm_rate, "lower"),
            _share_result(name, "balanced_accuracy", balanced_accuracy, "higher"),
        ]
    warnings = [steps for values in faulty if (steps := steps_of_warning(values)) is not None]
    if warnings:
        results.append(Result("stability", half, "steps_of_warning", "steps", "higher", tuple(warnings)))
    return results


def steps_of_warning(values: Values) -> float | None:
    """Returns the steps from the first alarm to the first loss spike; None if there is no alarm or no spike."""
    first_alarm, loss_spike = values["first_alarm"], values["loss_spike_rule"]
    if first_alarm is None or loss_spike is None:
        return None
    return float(loss_spike - first_alarm)


# Causes.


def cause_results(records: Records, half: str) -> list[Result]:
    """Returns how often an accepted cause of the fault is the first suspect of the doctor, or among the first three."""
    diagnoses = [
        (case, values) for case, values in cases_of_kind(records, "diagnosis") if _is_scored(records, case, half)
    ]
    if not diagnoses:
        return []
    ranks = [rank_of_cause(values["suspects"], faults.accepted_causes(case.fault)) for case, values in diagnoses]
    cost_ratios = tuple(values["diagnosis_seconds"] / max(values["run_seconds"], 1e-9) for _, values in diagnoses)
    top1 = statistics.wilson_estimate(sum(rank == 0 for rank in ranks), len(ranks))
    top3 = statistics.wilson_estimate(sum(rank < 3 for rank in ranks), len(ranks))
    return [
        _count_result(half, "diagnoses", len(diagnoses)),
        _share_result(half, "cause_top1", top1, "higher"),
        _share_result(half, "cause_top3", top3, "higher"),
        Result("stability", half, "diagnosis_cost", "runs", "lower", cost_ratios),
    ]


def rank_of_cause(suspects: Sequence[Sequence[Any]], accepted: frozenset[str]) -> int:
    """Returns the rank, from 0, of the first suspect that is an accepted cause; 1,000,000 if no suspect is.

    A suspect is (cause, probability).
    """
    return next((rank for rank, (cause, _) in enumerate(suspects) if cause in accepted), 1_000_000)


# Recovery.


def recovery_results(records: Records, half: str) -> list[Result]:
    """Returns the shares of recovered faults and runs with the fix of the doctor, with the guard, and with baselines.

    A fault is recovered if the mean accuracy of its runs is at most two points below that of the clean twins with the
    same seeds. A run is recovered if its accuracy is at most two points below the mean of all runs of its clean twin.
    Clean runs vary around this mean, too. Their share of recovered runs, `HALF/sound`, is the most that one can expect.
    """
    results = []
    for kind, baseline in (("fixed", ""), ("random", "random_search"), ("autotrainer", "autotrainer")):
        runs = [(case, values) for case, values in cases_of_kind(records, kind) if _is_scored(records, case, half)]
        results += _recovered_share_results(records, f"{half}/{baseline}".rstrip("/"), "recovered_persistent", runs)
        if kind == "fixed":
            unfixed = [(case, records[case._replace(kind="faulty").name]) for case, _ in runs]
            results += _recovered_share_results(records, f"{half}/no_intervention", "recovered_persistent", unfixed)
    for kind, baseline in (("answered", ""), ("struck", "no_intervention")):
        runs = [
            (case, values)
            for case, values in cases_of_kind(records, kind)
            if _is_of_half(case, half) and costs_accuracy(records, case)
        ]
        results += _recovered_share_results(records, f"{half}/{baseline}".rstrip("/"), "recovered_transient", runs)
    clean = [
        (case, values)
        for case, values in cases_of_kind(records, "clean")
        if not case.fault and _is_clean_case_of_half(case, half)
    ]
    if clean:
        estimate = _recovered_runs_estimate(records, clean)
        results.append(_share_result(f"{half}/sound", "recovered_runs", estimate, "higher"))
    return results


def costs_accuracy(records: Records, case: Case) -> bool:
    """Whether the transient fault of `case` costs more than two points of mean accuracy if the guard only watches."""
    half = split.fault_half(case.fault)
    struck = [
        (other, values["accuracy"])
        for other, values in cases_of_kind(records, "struck")
        if other[1:4] == case[1:4] and _is_of_half(other, half)
    ]
    return not _is_recovered(records, struck)


def mean_clean_accuracy(records: Records, case: Case) -> float:
    """Returns the mean accuracy of all runs of the clean twin."""
    return float(np.mean(suite.accuracies(records, "clean", _twin_name(case), case.network, case.data)))


def _twin_name(case: Case) -> str:
    return faults.twin_name(case.fault) if case.fault else ""


def _is_recovered(records: Records, runs: Sequence[tuple[Case, float]]) -> bool:
    """Whether the mean accuracy of `runs` is at most two points below that of the clean twins with the same seeds."""
    clean = [records[case._replace(kind="clean", fault=_twin_name(case)).name]["accuracy"] for case, _ in runs]
    return bool(np.mean([accuracy for _, accuracy in runs]) >= np.mean(clean) - RECOVERY_MARGIN)


def _recovered_share_results(records: Records, name: str, metric: str, runs: list[tuple[Case, Values]]) -> list[Result]:
    """Returns the share of recovered faults as `metric`, and the share of recovered runs as `metric`_runs."""
    runs_of_faults: dict[tuple[str, str, str], list[tuple[Case, float]]] = {}
    for case, values in runs:
        runs_of_faults.setdefault(case[1:4], []).append((case, values["accuracy"]))
    recovered = [_is_recovered(records, of_fault) for of_fault in runs_of_faults.values()]
    if not recovered:
        return []
    return [
        _share_result(name, metric, statistics.wilson_estimate(sum(recovered), len(recovered)), "higher"),
        _share_result(name, f"{metric}_runs", _recovered_runs_estimate(records, runs), "higher"),
    ]


def _recovered_runs_estimate(records: Records, runs: list[tuple[Case, Values]]) -> statistics.Estimate:
    recovered = [values["accuracy"] >= mean_clean_accuracy(records, case) - RECOVERY_MARGIN for case, values in runs]
    return statistics.wilson_estimate(sum(recovered), len(recovered))


# Stability and cost of clean runs.


def stability_results(records: Records) -> list[Result]:
    """Returns accuracy, spikes, variance, divergence, seed spread and learning rates of the clean runs of each pair."""
    results = []
    for network, data in split.PAIRS:
        clean = [
            values
            for case, values in cases_of_kind(records, "clean")
            if (case.fault, case.network, case.data) == ("", network, data)
        ]
        if not clean:
            continue
        name = f"{network}/{data}"
        column = lambda key, clean=clean: tuple(values[key] for values in clean)  # noqa: E731
        diverged = statistics.wilson_estimate(sum(column("diverged")), len(clean))
        results += [
            Result("stability", name, "accuracy", "1", "higher", column("accuracy")),
            Result("stability", name, "spike_score", "1", "lower", column("spike_score")),
            Result("stability", name, "loss_variance", "nats^2", "lower", column("loss_variance")),
            _share_result(name, "divergence_rate", diverged, "lower"),
        ]
        if len(clean) > 1:
            deviation, floor = statistics.seed_deviation(column("accuracy"), VALIDATION_IMAGES)
            results += [
                Result("stability", name, "seed_deviation", "1", "lower", (deviation,)),
                Result("stability", name, "seed_deviation_floor", "1", "lower", (floor,)),
            ]
        losses = [
            float(values["loss"])
            for case, values in cases_of_kind(records, "rate")
            if (case.network, case.data) == (network, data)
        ]
        if len(losses) == len(LEARNING_RATES):
            results += _learning_rate_results(name, losses, CHANCE_LOSS[data])
    return results


def _learning_rate_results(name: str, losses: list[float], chance_loss: float) -> list[Result]:
    """Returns the loss at each of `LEARNING_RATES`, the sensitivity to the rate, and the largest stable rate."""
    capped = np.fmin(losses, chance_loss).tolist()  # fmin also replaces NaN
    results = [
        Result("stability", f"{name}/{rate:g}", LOSS_AT_RATE, "nats", "lower", (loss,))
        for rate, loss in zip(LEARNING_RATES, capped, strict=True)
    ]
    sensitivity = statistics.learning_rate_sensitivity(LEARNING_RATES, losses, chance_loss)
    largest_stable = statistics.largest_stable_learning_rate(LEARNING_RATES, losses, chance_loss) or 0.0
    return [
        *results,
        Result("stability", name, "rate_sensitivity", "nats", "lower", (sensitivity,)),
        Result("stability", name, "largest_stable_rate", "1", "higher", (largest_stable,)),
    ]


def overhead_results(records: Records) -> list[Result]:
    """Returns the relative increase of CPU time by the guard."""
    ratios = tuple(values["overhead"] for _, values in cases_of_kind(records, "overhead"))
    return [Result("stability", "all", "watch_overhead", "1", "lower", ratios)] if ratios else []


# Selection of cases.


def cases_of_kind(records: Records, kind: str) -> list[tuple[Case, Values]]:
    return [(Case.from_name(name), values) for name, values in records.items() if name.startswith(f"{kind}/")]


def _count_equivalent_mutants(records: Records, half: str) -> int:
    """Returns the number of runs of a half with a fault that costs no accuracy. These runs are not scored."""
    cases = [case for case, _ in cases_of_kind(records, "faulty") if _is_of_half(case, half)]
    return sum(not suite.is_faulty(records, *case[1:4]) for case in cases)


def _is_of_half(case: Case, half: str) -> bool:
    """Whether the fault and the seed of `case` both belong to the half of the suite named `half`.

    Published recipes are divided by networks, not by seeds.
    """
    in_seeds = case.seed in split.SEEDS[half] or case.network in recipes.RECIPES
    return split.fault_half(case.fault) == half and in_seeds


def _is_scored(records: Records, case: Case, half: str) -> bool:
    """Whether `case` belongs to `half` and its fault costs accuracy."""
    return _is_of_half(case, half) and suite.is_faulty(records, *case[1:4])


def _is_clean_case_of_half(case: Case, half: str) -> bool:
    """Whether a clean case belongs to `half`, by the fault of which it is the twin, or by its pair if there is none."""
    if case.fault:
        return split.fault_half(case.fault) == half
    if case.network in recipes.RECIPES:
        return split.run_half(case.network) == half
    return split.PAIRS[case.network, case.data] == half


def _share_result(case: str, metric: str, estimate: statistics.Estimate, better: str) -> Result:
    return Result("stability", case, metric, "share", better, (estimate.value,), interval=(estimate.low, estimate.high))


def _count_result(case: str, metric: str, number: int) -> Result:
    return Result("stability", case, metric, "runs", "higher", (float(number),))


# Reruns.


def is_reproduced(kind: str, before: Values, after: Values) -> bool:
    """Whether two runs of a case agree: diagnoses in the first suspect, others in accuracy within the tolerance."""
    if kind == "diagnosis":
        return bool(before["suspects"]) == bool(after["suspects"]) and before["suspects"][:1] == after["suspects"][:1]
    return abs(before["accuracy"] - after["accuracy"]) <= RERUN_TOLERANCE


def describe_outcome(values: Values) -> str:
    if "suspects" in values:
        return ", ".join(f"{name} {probability:.2f}" for name, probability in values["suspects"][:2]) or "no suspect"
    return f"accuracy {values['accuracy']:.3f}"
