"""Lists the cases of a suite in phases. The cases of a phase may depend on the results of earlier phases.

for phase in Suite("full", photos=True).phases():
    groups = phase(records)      # lists of cases; all cases in a group share compiled models
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from evenkeel.benchmarks import statistics
from evenkeel.benchmarks.stability import faults, recipes, split
from evenkeel.benchmarks.stability.cases import LEARNING_RATES, Case

Records = dict[str, dict[str, Any]]  # {name of a case: its values}
Phase = Callable[[Records], list[list[Case]]]


class SuiteSize(NamedTuple):
    """The number of cases that a suite runs. A pair is a network and a data set.

    Attributes:
      clean_runs: number of clean runs for each pair.
      seeds: number of faulty runs for each fault and pair.
      faults: names of the faults.
      pairs: number of pairs on which each fault runs.
      overhead_pairs: how often training with and without the guard is timed, one after the other.
      repair_baselines: whether to run random search and AutoTrainer's repairs, which cost as much as the doctor.
      published_seeds: number of runs of each published recipe, and of each fault in one of them.
    """

    clean_runs: int
    seeds: int
    faults: tuple[str, ...]
    pairs: int
    overhead_pairs: int
    repair_baselines: bool
    published_seeds: int


SUITES = {
    "quick": SuiteSize(
        clean_runs=3,
        seeds=3,
        faults=("momentum_999", "flipped_bits"),  # one persistent and one transient fault; they take three minutes
        pairs=1,
        overhead_pairs=0,
        repair_baselines=False,
        published_seeds=0,
    ),
    "published": SuiteSize(
        clean_runs=0, seeds=0, faults=(), pairs=0, overhead_pairs=0, repair_baselines=False, published_seeds=3
    ),
    "full": SuiteSize(
        clean_runs=52,
        seeds=5,
        faults=tuple(faults.FAULTS),
        pairs=2,
        overhead_pairs=30,
        repair_baselines=True,
        published_seeds=3,
    ),
}
# Number of seeds per fault that are diagnosed. A diagnosis takes as long as 9 runs, and so does random search.
DIAGNOSED_SEEDS = {"tuning": 1, "heldout": 2}
REPAIR_BASELINES = ("random", "autotrainer")  # kinds of cases that run once for each held-out fault
TRANSIENT_KINDS = (
    "struck",
    "answered",
)  # kinds of cases with a transient fault; the guard watches in the first and acts in the second
MAX_TWIN_SEEDS = 5  # maximum number of clean runs that a fault is compared with


class Suite:
    """A suite of cases. If `photos` is false, all cases run on rendered shapes."""

    def __init__(self, name: str, photos: bool) -> None:
        self._name, self._size, self._photos = name, SUITES[name], photos

    def phases(self) -> list[Phase]:
        return [self.clean_runs, self.faulty_runs, self.overhead, self.diagnoses]

    def clean_runs(self, records: Records) -> list[list[Case]]:
        """Returns clean runs, the clean twins of faults with their own twin, and runs with several learning rates."""
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
        groups += [self._published("clean", "", run) for run in self._published_runs()]
        for fault, run in self._published_faults():
            if faults.has_own_twin(fault):
                groups.append(self._published("clean", faults.twin_name(fault), run))
        return list({tuple(group): group for group in groups}.values())

    def faulty_runs(self, records: Records) -> list[list[Case]]:
        """Returns runs with persistent faults, and runs with transient faults on the seeds of the half of the fault."""

        def group(fault: str, network: str, data: str) -> list[Case]:
            if faults.FAULTS[fault].kind == "persistent":
                return [Case("faulty", fault, network, data, seed) for seed in range(self._size.seeds)]
            seeds = self._seeds_of_half(fault)
            return [Case(kind, fault, network, data, seed) for seed in seeds for kind in TRANSIENT_KINDS]

        groups = [group(fault, network, data) for fault, network, data in self._faults_and_pairs()]
        return groups + [self._published("faulty", fault, run) for fault, run in self._published_faults()]

    def overhead(self, records: Records) -> list[list[Case]]:
        """Returns the measurements of the guard's overhead as one group, so that no other case runs meanwhile."""
        return [[Case("overhead", "", "resnet9", "memory", pair) for pair in range(self._size.overhead_pairs)]]

    def diagnoses(self, records: Records) -> list[list[Case]]:
        """Returns diagnoses and repairs of each persistent fault, on the first pair on which the fault costs accuracy.

        The cases use some of the seeds of the half of the fault. The held-out half, which is reported, comes first, in
        case the suite is interrupted.
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
        published = [[Case("diagnosis", "", recipe, data, 0)] for recipe, data in self._published_runs()]
        for fault, (recipe, data) in self._published_faults():
            if is_faulty(records, fault, recipe, data):
                published.append([Case(kind, fault, recipe, data, 0) for kind in ("diagnosis", "fixed")])
        published.sort(key=lambda group: split.run_half(group[0].network))
        return [groups[fault] for fault in sorted(groups, key=split.fault_half)] + published

    def _published(self, kind: str, fault: str, run: split.Pair) -> list[Case]:
        return [Case(kind, fault, *run, seed) for seed in range(self._size.published_seeds)]

    def _published_runs(self) -> tuple[split.Pair, ...]:
        return recipes.RUNS if self._size.published_seeds else ()

    def _published_faults(self) -> list[tuple[str, split.Pair]]:
        """Returns (fault, run) for each persistent fault that a published recipe can have."""
        if not self._size.published_seeds:
            return []
        return [(fault, run) for fault in faults.FAULTS if (run := split.fault_run(fault))]

    def _seeds_of_half(self, fault: str) -> list[int]:
        return [seed for seed in split.SEEDS[split.fault_half(fault)] if seed < self._size.seeds]

    def _faults_and_pairs(self) -> Iterator[tuple[str, str, str]]:
        """Yields (fault, network, data set) for all faulty runs."""
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
    """Returns the final accuracies of the recorded runs, in the order of their seeds."""
    prefix = f"{kind}/{fault}/{network}/{data}/"
    names = sorted((name for name in records if name.startswith(prefix)), key=lambda name: int(name.split("/")[4]))
    return [records[name]["accuracy"] for name in names]
