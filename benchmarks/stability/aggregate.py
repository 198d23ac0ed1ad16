"""From the cases of the stability suite to its result: recall, false alarms, causes, recovery, cost, and the rivals'.

found = all_results(records)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evenkeel.benchmarks import statistics
from evenkeel.benchmarks.results import Result
from evenkeel.benchmarks.stability import faults, split, suite
from evenkeel.benchmarks.stability.cases import RATES, SHAPES, Case

Records = dict[str, dict[str, Any]]
Detector = Callable[[dict[str, Any]], bool]
POINTS = 0.02  # of accuracy, within which a run is as good as its clean twin
SLACK = 0.03  # of accuracy between two runs of one case: kernels add up in another order

DETECTORS: dict[str, Detector] = {
    "": lambda values: bool(values["alarms"] or values["findings"]),
    "autotrainer": lambda values: bool(values["autotrainer"]),
    "terminate_on_nan": lambda values: values["terminate_on_nan"] is not None,
    "reduce_on_plateau": lambda values: values["reduce_on_plateau"] is not None,
    "early_stopping": lambda values: values["early_stopping"] is not None,
    "loss_spike_rule": lambda values: values["loss_spike_rule"] is not None,
}


def all_results(records: Records) -> list[Result]:
    found = []
    for half in split.HALVES:
        found += [*detection(records, half), *causes(records, half), *recovery(records, half)]
    return [*found, *stability(records), *cost(records)]


def detection(records: Records, half: str) -> list[Result]:
    """Every detector over the faulty and the clean runs of a half."""
    faulty = [records[case.name] for case in faulty_cases(records, half)]
    clean = [values for case, values in cases(records, "clean") if _of_half(case, half)]
    found = [
        _count(half, "faulty_runs", len(faulty)),
        _count(half, "clean_runs", len(clean)),
        _count(half, "equivalent_mutants", len(equivalent(records, half))),
    ]
    for rival, detects in DETECTORS.items():
        hits, alarms = sum(map(detects, faulty)), sum(map(detects, clean))
        name = f"{half}/{rival}".rstrip("/")
        if not faulty or not clean:
            continue
        found += [
            _share(name, "recall", statistics.wilson(hits, len(faulty)), "higher"),
            _share(name, "false_alarm_rate", statistics.wilson(alarms, len(clean)), "lower"),
            _share(
                name,
                "balanced_accuracy",
                statistics.balanced_accuracy(hits, len(faulty), alarms, len(clean)),
                "higher",
            ),
        ]
    warned = [warning for values in faulty if (warning := steps_of_warning(values)) is not None]
    if warned:
        found.append(Result("stability", half, "steps_of_warning", "steps", "higher", tuple(warned)))
    return found


def steps_of_warning(values: dict[str, Any]) -> float | None:
    """From the first alarm to the step at which the loss alone shows it; None where one of them never comes."""
    shown = values["loss_spike_rule"]
    if values["first_alarm"] is None or shown is None:
        return None
    return float(shown - values["first_alarm"])


def causes(records: Records, half: str) -> list[Result]:
    """Whether the doctor's first suspect, or one of its first three, is the fault's cause or equivalent to it."""
    told = [(case, values) for case, values in cases(records, "diagnosis") if _scored(records, case, half)]
    if not told:
        return []
    ranks = [rank(values["suspects"], faults.accepted(case.fault)) for case, values in told]
    ratios = tuple(values["diagnosis_seconds"] / max(values["run_seconds"], 1e-9) for _, values in told)
    return [
        _count(half, "diagnoses", len(told)),
        _share(half, "cause_top1", statistics.wilson(sum(at == 0 for at in ranks), len(ranks)), "higher"),
        _share(half, "cause_top3", statistics.wilson(sum(at < 3 for at in ranks), len(ranks)), "higher"),
        Result("stability", half, "diagnosis_cost", "runs", "lower", ratios),
    ]


def rank(suspects: Sequence[Sequence[Any]], right: frozenset[str]) -> int:
    """The place, from 0, of the first suspect that is one of the `right` causes; a large number if none is."""
    return next((at for at, (name, _) in enumerate(suspects) if name in right), 1_000_000)


def recovery(records: Records, half: str) -> list[Result]:
    """Shares of faults whose runs come to within two points of their clean twins, in the mean over the same seeds.

    And of single runs that come so near to the mean of all sound ones; of these themselves, which lie around it, as
    many do as can be expected.
    """
    found = []
    for kind, name in (("fixed", ""), ("random", "random_search"), ("autotrainer", "autotrainer")):
        runs = [(case, values) for case, values in cases(records, kind) if _scored(records, case, half)]
        found += _recovered(records, f"{half}/{name}".rstrip("/"), "recovered_persistent", runs)
        if kind == "fixed":
            before = [(case, records[case._replace(kind="faulty").name]) for case, _ in runs]
            found += _recovered(records, f"{half}/no_intervention", "recovered_persistent", before)
    for kind, name in (("answered", ""), ("struck", "no_intervention")):
        runs = [(case, values) for case, values in cases(records, kind) if split.half(case.fault) == half]
        runs = [(case, values) for case, values in runs if case.seed in split.SEEDS[half] and hurts(records, case)]
        found += _recovered(records, f"{half}/{name}".rstrip("/"), "recovered_transient", runs)
    sound = [(case, values) for case, values in cases(records, "clean") if not case.fault and _of_half(case, half)]
    if sound:
        found.append(_share(f"{half}/sound", "recovered_runs", _near(records, sound), "higher"))
    return found


def hurts(records: Records, case: Case) -> bool:
    """Whether a transient fault that nobody answers costs more than two points, in the mean over its seeds."""
    own = split.SEEDS[split.half(case.fault)]
    struck = [
        (each, values["accuracy"])
        for each, values in cases(records, "struck")
        if each[1:4] == case[1:4] and each.seed in own
    ]
    return not _back(records, struck)


def clean_accuracy(records: Records, case: Case) -> float:
    """The mean over all runs of the clean twin."""
    return float(np.mean(suite.accuracies(records, "clean", _twin(case), case.network, case.data)))


def _twin(case: Case) -> str:
    return faults.twin_of(case.fault) if case.fault else ""


def _back(records: Records, runs: Sequence[tuple[Case, float]]) -> bool:
    """Whether the mean of these accuracies is within two points of that of the sound runs with the same seeds."""
    twins = [records[case._replace(kind="clean", fault=_twin(case)).name]["accuracy"] for case, _ in runs]
    return bool(np.mean([accuracy for _, accuracy in runs]) >= np.mean(twins) - POINTS)


def _recovered(records: Records, name: str, metric: str, runs: list[tuple[Case, dict[str, Any]]]) -> list[Result]:
    of_faults: dict[tuple[str, str, str], list[tuple[Case, float]]] = {}
    for case, values in runs:
        of_faults.setdefault(case[1:4], []).append((case, values["accuracy"]))
    well = [_back(records, of) for of in of_faults.values()]
    if not well:
        return []
    return [
        _share(name, metric, statistics.wilson(sum(well), len(well)), "higher"),
        _share(name, f"{metric}_runs", _near(records, runs), "higher"),
    ]


def _near(records: Records, runs: list[tuple[Case, dict[str, Any]]]) -> statistics.Estimate:
    """The share of runs that are not more than two points below the mean of all runs of their clean twin."""
    near = [values["accuracy"] >= clean_accuracy(records, case) - POINTS for case, values in runs]
    return statistics.wilson(sum(near), len(near))


def stability(records: Records) -> list[Result]:
    """Of sound runs, by pair of network and data: spikes, variance, divergence, rates, spread over seeds."""
    found = []
    for network, data in split.PAIRS:
        of = [values for case, values in cases(records, "clean") if (case.fault, *case[2:4]) == ("", network, data)]
        if not of:
            continue
        name = f"{network}/{data}"
        measure = lambda key, of=of: tuple(values[key] for values in of)  # noqa: E731
        diverged = statistics.wilson(sum(measure("diverged")), len(of))
        found += [
            Result("stability", name, "accuracy", "1", "higher", measure("accuracy")),
            Result("stability", name, "spike_score", "1", "lower", measure("spike_score")),
            Result("stability", name, "loss_variance", "nats^2", "lower", measure("loss_variance")),
            _share(name, "divergence_rate", diverged, "lower"),
        ]
        if len(of) > 1:
            spread, floor = statistics.seed_deviation(measure("accuracy"), VALIDATED)
            found += [
                Result("stability", name, "seed_deviation", "1", "lower", (spread,)),
                Result("stability", name, "seed_deviation_floor", "1", "lower", (floor,)),
            ]
        rates = [values for case, values in cases(records, "rate") if (*case[2:4],) == (network, data)]
        if len(rates) == len(RATES):
            losses = [float(values["loss"]) for values in rates]
            # One that is not a number is not told apart from guessing.
            capped = np.fmin(losses, GUESSING[data]).tolist()
            found += [
                Result("stability", f"{name}/{rate:g}", AT_RATE, "nats", "lower", (loss,))
                for rate, loss in zip(RATES, capped, strict=True)
            ]
            sensitivity = statistics.rate_sensitivity(RATES, losses, GUESSING[data])
            largest = statistics.largest_stable_rate(RATES, losses, GUESSING[data]) or 0.0
            found += [
                Result("stability", name, "rate_sensitivity", "nats", "lower", (sensitivity,)),
                Result("stability", name, "largest_stable_rate", "1", "higher", (largest,)),
            ]
    return found


AT_RATE = "loss_at_rate"  # of a case NETWORK/DATA/RATE
VALIDATED = 1000  # images: models.doctor.replay's, whose import would start TensorFlow
GUESSING = {"shapes": float(np.log(len(SHAPES))), "photos": float(np.log(10))}  # nats


def cost(records: Records) -> list[Result]:
    ratios = tuple(values["overhead"] for _, values in cases(records, "overhead"))
    return [Result("stability", "all", "watch_overhead", "1", "lower", ratios)] if ratios else []


# Cases.


def cases(records: Records, kind: str) -> list[tuple[Case, dict[str, Any]]]:
    return [(Case.named(name), values) for name, values in records.items() if name.startswith(f"{kind}/")]


def faulty_cases(records: Records, half: str) -> list[Case]:
    return [case for case, _ in cases(records, "faulty") if _scored(records, case, half)]


def equivalent(records: Records, half: str) -> list[Case]:
    """Mutants that cost no accuracy: not scored, whatever was done to them."""
    return [
        case
        for case, _ in cases(records, "faulty")
        if split.half(case.fault) == half
        and case.seed in split.SEEDS[half]
        and not suite.is_faulty(records, *case[1:4])
    ]


def _scored(records: Records, case: Case, half: str) -> bool:
    own = split.half(case.fault) == half and case.seed in split.SEEDS[half]
    return own and suite.is_faulty(records, *case[1:4])


def _of_half(case: Case, half: str) -> bool:
    """Clean runs by pair; twins of a fault by the fault."""
    if case.fault:
        return split.half(case.fault) == half
    return split.PAIRS[case.network, case.data] == half


def _share(case: str, metric: str, estimate: statistics.Estimate, better: str) -> Result:
    return Result("stability", case, metric, "share", better, (estimate.value,), interval=(estimate.low, estimate.high))


def _count(case: str, metric: str, number: int) -> Result:
    return Result("stability", case, metric, "runs", "higher", (float(number),))


# Reruns.


def alike(kind: str, before: dict[str, Any], now: dict[str, Any]) -> bool:
    """The same verdict, and the same accuracy but for the order in which kernels add up."""
    if kind == "diagnosis":
        return bool(before["suspects"]) == bool(now["suspects"]) and before["suspects"][:1] == now["suspects"][:1]
    return abs(before["accuracy"] - now["accuracy"]) <= SLACK


def gist(values: dict[str, Any]) -> str:
    if "suspects" in values:
        return ", ".join(f"{name} {probability:.2f}" for name, probability in values["suspects"][:2]) or "no suspect"
    return f"accuracy {values['accuracy']:.3f}"
