"""Which cases make up a suite, in phases: what a later one runs depends on what an earlier one found.

for phase in phases("full", photos=True):
    groups = phase(records)      # lists of cases that share compiled models
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from evenkeel.benchmarks import statistics
from evenkeel.benchmarks.stability import faults, split
from evenkeel.benchmarks.stability.cases import RATES, Case

Records = dict[str, dict[str, Any]]
Phase = Callable[[Records], list[list[Case]]]


class Size(NamedTuple):
    """Clean runs of each pair, seeds of each fault, faults (0: all), pairs of each that are run, pairs of overhead.

    Whether random search and AutoTrainer's ladder are run, which cost as much as the doctor.
    """

    clean: int
    seeds: int
    faults: int
    pairs: int
    overheads: int
    rivals: bool


QUICK = ("momentum_999", "flipped_bits")  # one that lasts, one that passes: three minutes
SUITES = {
    "quick": Size(clean=3, seeds=3, faults=len(QUICK), pairs=1, overheads=0, rivals=False),
    "full": Size(clean=52, seeds=5, faults=0, pairs=2, overheads=30, rivals=True),
}
DIAGNOSED = {"tuning": 1, "heldout": 2}  # seeds: a diagnosis takes as long as 9 runs, random search as long again
RIVALS = ("random", "autotrainer")  # once for each held-out fault
ANSWERS = ("struck", "answered")  # a fault that passes, without and with a guard
TWINS = 5  # seeds of a twin that is not the plain sound run


def phases(name: str, photos: bool) -> list[Phase]:
    size = SUITES[name]

    def own_seeds(fault: str) -> list[int]:
        return [seed for seed in split.SEEDS[split.half(fault)] if seed < size.seeds]

    def rivals(fault: str) -> tuple[str, ...]:
        return RIVALS if size.rivals and split.half(fault) == "heldout" else ()

    def clean_runs(records: Records) -> list[list[Case]]:
        """Sound runs, twins of faults that need another one, and the learning rates."""
        tried = {(network, data) for _, network, data in _faults(size, photos)}
        groups = [
            [Case("clean", "", network, data, seed) for seed in range(size.clean)]
            for network, data in split.PAIRS
            if (network, data) in tried
        ]
        for fault, network, data in _faults(size, photos):
            if faults.has_twin(fault):
                seeds = range(min(TWINS, size.seeds))
                groups.append([Case("clean", faults.twin_of(fault), network, data, seed) for seed in seeds])
        if not size.faults:
            groups += [
                [Case("rate", "", network, data, 0, rate) for rate in RATES]
                for network, data in split.PAIRS
                if photos or data == "shapes"
            ]
        return list({tuple(group): group for group in groups}.values())

    def faulty_runs(records: Records) -> list[list[Case]]:
        """Of faults that last; of those that pass, with the seeds that their half is scored on."""

        def cases(fault: str, network: str, data: str) -> list[Case]:
            if faults.FAULTS[fault].kind == "persistent":
                return [Case("faulty", fault, network, data, seed) for seed in range(size.seeds)]
            return [Case(kind, fault, network, data, seed) for seed in own_seeds(fault) for kind in ANSWERS]

        return [cases(*of) for of in _faults(size, photos)]

    def overhead(records: Records) -> list[list[Case]]:
        """One group: nothing else runs while it is measured."""
        return [[Case("overhead", "", "resnet9", "memory", pair) for pair in range(size.overheads)]]

    def diagnoses(records: Records) -> list[list[Case]]:
        """And cures: with some of the seeds that its half is scored on, on the first pair where the fault does harm.

        What the suite is about comes first, for when it is interrupted: the held-out half.
        """
        groups: dict[str, list[Case]] = {}
        for fault, network, data in _faults(size, photos):
            if fault in groups or faults.FAULTS[fault].kind != "persistent":
                continue
            if is_faulty(records, fault, network, data):
                groups[fault] = [
                    Case(kind, fault, network, data, seed)
                    for number, seed in enumerate(own_seeds(fault)[: DIAGNOSED[split.half(fault)]])
                    for kind in ("diagnosis", "fixed", *(rivals(fault) if number == 0 else ()))
                ]
        return [groups[fault] for fault in sorted(groups, key=split.half)]

    return [clean_runs, faulty_runs, overhead, diagnoses]


def is_faulty(records: Records, fault: str, network: str, data: str) -> bool:
    """Whether the fault costs these runs accuracy, against the clean twin of the same seeds."""
    mutants, clean = accuracies(records, "faulty", fault, network, data), twins(records, fault, network, data)
    return min(len(mutants), len(clean)) >= 2 and statistics.is_faulty(clean, mutants)


def twins(records: Records, fault: str, network: str, data: str) -> list[float]:
    return accuracies(records, "clean", faults.twin_of(fault), network, data)[:TWINS]


def accuracies(records: Records, kind: str, fault: str, network: str, data: str) -> list[float]:
    """By seed."""
    prefix = f"{kind}/{fault}/{network}/{data}/"
    names = sorted((name for name in records if name.startswith(prefix)), key=lambda name: int(name.split("/")[4]))
    return [records[name]["accuracy"] for name in names]


def _faults(size: Size, photos: bool) -> Iterator[tuple[str, str, str]]:
    names = QUICK[: size.faults] if size.faults else tuple(faults.FAULTS)
    for name in names:
        possible = [pair for pair in split.pairs(name) if photos or pair[1] == "shapes"]
        possible = possible or [(split.pairs(name)[0][0], "shapes")]
        for network, data in possible[: size.pairs]:
            yield name, network, data
