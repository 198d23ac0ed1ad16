"""The cases of a suite, in phases: the cases of a later phase depend on the results of earlier ones.

for phase in Suite("full", photos=True).phases():
    groups = phase(records)      # lists of cases; the cases of a group share compiled models
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from evenkeel.benchmarks import statistics
from evenkeel.benchmarks.stability import faults, split
from evenkeel.benchmarks.stability.cases import LEARNING_RATES, Case

Records = dict[str, dict[str, Any]]  # {name of a case: its values}
Phase = Callable[[Records], list[list[Case]]]


class SuiteSize(NamedTuple):
    """How many cases a suite runs.

    Attributes:
      clean_runs: clean runs of each pair of network and data set.
      seeds: faulty runs of each fault and pair.
      faults: names of the faults.
      pairs: pairs that each fault runs on.
      overhead_pairs: pairs of turns for the guard's overhead.
      repair_baselines: whether to run random search and AutoTrainer's repairs, which cost as much as the doctor.
    """

    clean_runs: int
    seeds: int
    faults: tuple[str, ...]
    pairs: int
    overhead_pairs: int
    repair_baselines: bool


SUITES = {
    "quick": SuiteSize(
        clean_runs=3,
        seeds=3,
        faults=("momentum_999", "flipped_bits"),  # one persistent, one transient: three minutes
        pairs=1,
        overhead_pairs=0,
        repair_baselines=False,
    ),
    "full": SuiteSize(
        clean_runs=52, seeds=5, faults=tuple(faults.FAULTS), pairs=2, overhead_pairs=30, repair_baselines=True
    ),
}
# Seeds that are diagnosed: a diagnosis takes as long as 9 runs, and random search as long again.
DIAGNOSED_SEEDS = {"tuning": 1, "heldout": 2}
REPAIR_BASELINES = ("random", "autotrainer")  # kinds of cases; run once for each held-out fault
TRANSIENT_KINDS = ("struck", "answered")  # kinds of cases of a transient fault: its guard watches, or acts
MAX_TWIN_SEEDS = 5  # clean runs that a fault is compared with


class Suite:
    """A suite of cases; without `photos`, on rendered shapes only."""

    def __init__(self, name: str, photos: bool) -> None:
        self._name, self._size, self._photos = name, SUITES[name], photos

    def phases(self) -> list[Phase]:
        return [self.clean_runs, self.faulty_runs, self.overhead, self.diagnoses]

    def clean_runs(self, records: Records) -> list[list[Case]]:
        """Clean runs, clean twins of faults that have their own, and runs with several learning rates."""
        size = self._size
        pairs = {(network, data) for _, network, data in self._faults_and_pairs()}
        groups = [
            [Case("clean", "", network, data, seed) for seed in range(size.clean_runs)]
            for network, data in split.PAIRS
            if (network, data) in pairs
        ]
        for fault, network, data in self._faults_and_pairs():
            if faults.has_own_twin(fault):
                seeds = range(min(MAX_TWIN_SEEDS, size.seeds))
                groups.append([Case("clean", faults.twin_name(fault), network, data, seed) for seed in seeds])
        if self._name == "full":
            groups += [
                [Case("rate", "", network, data, 0, rate) for rate in LEARNING_RATES]
                for network, data in split.PAIRS
                if self._photos or data == "shapes"
            ]
        return list({tuple(group): group for group in groups}.values())

    def faulty_runs(self, records: Records) -> list[list[Case]]:
        """Runs with persistent faults; runs with transient ones, on the seeds of the fault's half only."""

        def group(fault: str, network: str, data: str) -> list[Case]:
            if faults.FAULTS[fault].kind == "persistent":
                return [Case("faulty", fault, network, data, seed) for seed in range(self._size.seeds)]
            seeds = self._seeds_of_half(fault)
            return [Case(kind, fault, network, data, seed) for seed in seeds for kind in TRANSIENT_KINDS]

        return [group(fault, network, data) for fault, network, data in self._faults_and_pairs()]

    def overhead(self, records: Records) -> list[list[Case]]:
        """One group, so that nothing else runs during the measurement."""
        return [[Case("overhead", "", "resnet9", "memory", pair) for pair in range(self._size.overhead_pairs)]]

    def diagnoses(self, records: Records) -> list[list[Case]]:
        """Diagnoses and repairs of each persistent fault, on the first pair on which it costs accuracy.

        They use some of the seeds of the fault's half. The held-out half, which is reported, comes first, in case the
        suite is interrupted.
        """
        groups: dict[str, list[Case]] = {}
        for fault, network, data in self._faults_and_pairs():
            if fault in groups or faults.FAULTS[fault].kind != "persistent":
                continue
            if is_faulty(records, fault, network, data):
                half = split.fault_half(fault)
                use_baselines = self._size.repair_baselines and half == "heldout"
                groups[fault] = [
                    Case(kind, fault, network, data, seed)
                    for number, seed in enumerate(self._seeds_of_half(fault)[: DIAGNOSED_SEEDS[half]])
                    for kind in ("diagnosis", "fixed", *(REPAIR_BASELINES if use_baselines and number == 0 else ()))
                ]
        return [groups[fault] for fault in sorted(groups, key=split.fault_half)]

    def _seeds_of_half(self, fault: str) -> list[int]:
        return [seed for seed in split.SEEDS[split.fault_half(fault)] if seed < self._size.seeds]

    def _faults_and_pairs(self) -> Iterator[tuple[str, str, str]]:
        """(fault, network, data set) of all faulty runs."""
        for fault in self._size.faults:
            pairs = split.fault_pairs(fault)
            possible = [pair for pair in pairs if self._photos or pair[1] == "shapes"] or [(pairs[0][0], "shapes")]
            for network, data in possible[: self._size.pairs]:
                yield fault, network, data


def is_faulty(records: Records, fault: str, network: str, data: str) -> bool:
    """Whether the fault costs accuracy, by Welch's test against the clean twins; False with fewer than two runs."""
    faulty = accuracies(records, "faulty", fault, network, data)
    clean = accuracies(records, "clean", faults.twin_name(fault), network, data)[:MAX_TWIN_SEEDS]
    return min(len(faulty), len(clean)) >= 2 and statistics.is_faulty(clean, faulty)


def accuracies(records: Records, kind: str, fault: str, network: str, data: str) -> list[float]:
    """Final accuracies of the recorded runs, in the order of their seeds."""
    prefix = f"{kind}/{fault}/{network}/{data}/"
    names = sorted((name for name in records if name.startswith(prefix)), key=lambda name: int(name.split("/")[4]))
    return [records[name]["accuracy"] for name in names]
