"""CPU and wall time of calls, measured in alternating order, and ratios of paired samples.

    samples = measure_interleaved({"old": old, "new": new}, rounds=7)
    ratio = paired_ratio([s.cpu_seconds for s in samples["old"]], [s.cpu_seconds for s in samples["new"]])
    print(f"{ratio.median:.2f} ({ratio.ci95[0]:.2f} .. {ratio.ci95[1]:.2f})")

On a shared machine, CPU time is the main metric, because it excludes the time that other programs take. Other programs
still disturb caches and the clock frequency. The cases therefore alternate: samples that are adjacent in time are
disturbed equally, so their ratio is hardly affected.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence

from evenkeel.benchmarks.results import median_ci95

# A sample counts as undisturbed if other programs used fewer cores than this. Next to a busy program, OpenMP threads
# that spin at barriers can take 10 times the CPU time of the work itself.
MAX_OTHERS_CORES = 0.1
MAX_ROUNDS_FACTOR = 4  # maximum number of rounds, as a multiple of the requested rounds


@dataclasses.dataclass(frozen=True)
class Sample:
    """The time that one call took.

    Attributes:
      cpu_seconds: CPU time of all threads and of the child processes that were waited for.
      wall_seconds: wall time.
      others_cpu_seconds: CPU time of all other programs on the machine during the call.
    """

    cpu_seconds: float
    wall_seconds: float
    others_cpu_seconds: float = 0.0

    @property
    def others_cores(self) -> float:
        """The number of cores that other programs kept busy during the call."""
        return self.others_cpu_seconds / max(self.wall_seconds, 0.01)

    def __add__(self, other: Sample) -> Sample:
        return Sample(
            self.cpu_seconds + other.cpu_seconds,
            self.wall_seconds + other.wall_seconds,
            self.others_cpu_seconds + other.others_cpu_seconds,
        )


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Median of paired ratios and its 95% interval."""

    median: float
    ci95: tuple[float, float]

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.ci95[0]:.2f} .. {self.ci95[1]:.2f})"


def cpu_seconds() -> float:
    """User and system time of this process and its children, in seconds; a child counts after it was waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def machine_cpu_seconds() -> float | None:
    """CPU seconds of the whole machine since boot, including stolen time; None if /proc/stat cannot be read."""
    try:
        with open("/proc/stat") as file:
            ticks = [int(field) for field in file.readline().split()[1:9]]
    except OSError:
        return None
    idle, iowait = ticks[3], ticks[4]
    return (sum(ticks) - idle - iowait) / os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Clock:
    """The three clocks that `measure` reads; tests pass their own clocks.

    Attributes:
      cpu: CPU seconds of this process and its children.
      machine: CPU seconds of the whole machine, or None if unknown.
      wall: wall seconds.
    """

    cpu: Callable[[], float] = cpu_seconds
    machine: Callable[[], float | None] = machine_cpu_seconds
    wall: Callable[[], float] = time.perf_counter


def measure(call: Callable[[], object], clock: Clock) -> Sample:
    """Calls `call` once and returns the time that the call took."""
    machine, wall, cpu = clock.machine(), clock.wall(), clock.cpu()
    call()
    cpu, wall, machine_after = clock.cpu() - cpu, clock.wall() - wall, clock.machine()
    others = 0.0 if machine is None or machine_after is None else max(0.0, machine_after - machine - cpu)
    return Sample(cpu, wall, others)


def turn_order(names: Sequence[str], round_: int) -> list[str]:
    """The order of the cases in one round: A B in even rounds, B A in odd rounds, so that a drift favours no case."""
    return list(names) if round_ % 2 == 0 else list(reversed(names))


def measure_interleaved(
    cases: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1, clock: Clock | None = None
) -> dict[str, list[Sample]]:
    """Returns `rounds` samples of each case, measured in the order A B B A A B ...

    Samples with the same index form a pair. Each case first runs `warmup` times without being measured, so that
    compilation and cold caches do not count.
    """
    clock = clock or Clock()
    for call in cases.values():
        for _ in range(warmup):
            call()
    samples: dict[str, list[Sample]] = {name: [] for name in cases}
    for round_ in range(rounds):
        for name in turn_order(list(cases), round_):
            samples[name].append(measure(cases[name], clock))
    return samples


def measure_quiet_pairs(
    cases: Mapping[str, Callable[[], object]],
    pairs: int,
    calls_per_sample: int,
    clock: Clock | None = None,
    on_pair: Callable[[Mapping[str, Sample]], None] = lambda pair: None,
) -> dict[str, list[Sample]]:
    """Returns `pairs` samples of each case, taken while the machine was quiet.

    A sample is the sum of `calls_per_sample` calls, which alternate with the calls of the other cases, so that a
    disturbance of some seconds affects all cases of a pair.

    Measures until other programs used fewer than `MAX_OTHERS_CORES` cores in `pairs` pairs, but at most
    `MAX_ROUNDS_FACTOR` times `pairs` pairs, and keeps the `pairs` pairs with the least disturbance. The choice depends
    only on the other programs, not on the measured times. `on_pair` is called with every pair.
    """
    measure_interleaved(cases, rounds=0, warmup=calls_per_sample)
    measured: list[dict[str, Sample]] = []

    def noise(pair: Mapping[str, Sample]) -> float:
        return max(sample.others_cores for sample in pair.values())

    while (
        len(measured) < MAX_ROUNDS_FACTOR * pairs and sum(noise(pair) < MAX_OTHERS_CORES for pair in measured) < pairs
    ):
        order = {name: cases[name] for name in turn_order(list(cases), len(measured))}
        samples = measure_interleaved(order, calls_per_sample, warmup=0, clock=clock)
        measured.append({name: functools.reduce(operator.add, parts) for name, parts in samples.items()})
        on_pair(measured[-1])
    quietest = sorted(sorted(range(len(measured)), key=lambda index: noise(measured[index]))[:pairs])
    return {name: [measured[index][name] for index in quietest] for name in cases}


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """The median of numerator / denominator over pairs that are adjacent in time, with a bootstrap interval.

    A drift that slows both samples of a pair cancels out, which it would not in the ratio of the two medians.

    Raises:
      ValueError: there are no pairs, or the two sequences differ in length.
    """
    if len(numerators) != len(denominators) or not numerators:
        raise ValueError(
            f"a ratio needs at least one pair: got {len(numerators)} numerators and {len(denominators)} denominators."
        )
    ratios = sorted(a / b for a, b in zip(numerators, denominators, strict=True))
    middle = len(ratios) // 2
    median = ratios[middle] if len(ratios) % 2 else (ratios[middle - 1] + ratios[middle]) / 2
    return Ratio(median, median_ci95(ratios))
