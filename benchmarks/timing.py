"""Measuring: CPU time and wall time, cases interleaved, ratios of pairs.

    samples = interleaved({"old": old, "new": new}, rounds=7)
    ratio = paired_ratio([s.cpu_seconds for s in samples["old"]], [s.cpu_seconds for s in samples["new"]])
    print(f"{ratio.median:.2f} ({ratio.ci95[0]:.2f} .. {ratio.ci95[1]:.2f})")

CPU time is the headline on a shared machine: it leaves out what other programs took. What they do to caches and clock
frequency it does not leave out, hence the interleaving: neighbours in time are disturbed alike, and their ratio is not.
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

QUIET_CORES = 0.1  # CPU time of others, in cores; OpenMP's barriers spin 10 times the work away beside a busy neighbour
PATIENCE = 4  # rounds run at most, as a multiple of the rounds wanted


@dataclasses.dataclass(frozen=True)
class Sample:
    """What one call took: CPU seconds over all threads and waited-for children, seconds, and CPU seconds of others."""

    cpu_seconds: float
    wall_seconds: float
    others_cpu_seconds: float = 0.0

    @property
    def others_cores(self) -> float:
        """How many cores other programs kept busy meanwhile."""
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
    """User and system time of this process and of its children; a child counts once it has been waited for."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def machine_cpu_seconds() -> float | None:
    """CPU seconds the whole machine has spent since it started, stolen ones included; None where it does not say."""
    try:
        with open("/proc/stat") as file:
            ticks = [int(field) for field in file.readline().split()[1:9]]
    except OSError:
        return None
    idle, iowait = ticks[3], ticks[4]
    return (sum(ticks) - idle - iowait) / os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True)
class Clock:
    """Where the time comes from; tests bring their own."""

    cpu: Callable[[], float] = cpu_seconds
    machine: Callable[[], float | None] = machine_cpu_seconds
    wall: Callable[[], float] = time.perf_counter


def measure(case: Callable[[], object], clock: Clock) -> Sample:
    """One call of `case`."""
    machine, wall, cpu = clock.machine(), clock.wall(), clock.cpu()
    case()
    cpu, wall, after = clock.cpu() - cpu, clock.wall() - wall, clock.machine()
    others = 0.0 if machine is None or after is None else max(0.0, after - machine - cpu)
    return Sample(cpu, wall, others)


def turns(names: Sequence[str], round_: int) -> list[str]:
    """The order of one round: A B in even ones, B A in odd ones, so that a drift favours nobody."""
    return list(names) if round_ % 2 == 0 else list(reversed(names))


def interleaved(
    cases: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1, clock: Clock | None = None
) -> dict[str, list[Sample]]:
    """`rounds` samples of each case, taken in the order A B B A A B ...; sample i of all cases makes a pair.

    Each case first runs `warmup` times uncounted: compilation and cold caches are not what is compared.
    """
    clock = clock or Clock()
    for case in cases.values():
        for _ in range(warmup):
            case()
    samples: dict[str, list[Sample]] = {name: [] for name in cases}
    for round_ in range(rounds):
        for name in turns(list(cases), round_):
            samples[name].append(measure(cases[name], clock))
    return samples


def quiet_pairs(
    cases: Mapping[str, Callable[[], object]],
    pairs: int,
    turns_each: int,
    clock: Clock | None = None,
    done: Callable[[Mapping[str, Sample]], None] = lambda pair: None,
) -> dict[str, list[Sample]]:
    """`pairs` samples of each case, each the sum of `turns_each` calls that alternate with the other cases'.

    What disturbs the machine for some seconds falls on all cases of a pair. Goes on until `pairs` pairs were quiet,
    that is others kept less than `QUIET_CORES` busy, at most `PATIENCE` times as many; keeps the quietest. Which they
    are depends on the neighbours, not on the times. `done` is told of every pair.
    """
    interleaved(cases, rounds=0, warmup=turns_each)
    taken: list[dict[str, Sample]] = []

    def noise(pair: Mapping[str, Sample]) -> float:
        return max(sample.others_cores for sample in pair.values())

    while len(taken) < PATIENCE * pairs and sum(noise(pair) < QUIET_CORES for pair in taken) < pairs:
        order = {name: cases[name] for name in turns(list(cases), len(taken))}
        samples = interleaved(order, turns_each, warmup=0, clock=clock)
        taken.append({name: functools.reduce(operator.add, of) for name, of in samples.items()})
        done(taken[-1])
    kept = sorted(sorted(range(len(taken)), key=lambda i: noise(taken[i]))[:pairs])
    return {name: [taken[i][name] for i in kept] for name in cases}


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """Median of numerator / denominator over pairs taken next to each other, with a bootstrap interval.

    A drift that slows both of a pair cancels; the ratio of two medians would keep it.
    """
    if len(numerators) != len(denominators) or not numerators:
        raise ValueError(f"pairs are needed, at least one: got {len(numerators)} and {len(denominators)} samples.")
    ratios = sorted(a / b for a, b in zip(numerators, denominators, strict=True))
    middle = len(ratios) // 2
    median = ratios[middle] if len(ratios) % 2 else (ratios[middle - 1] + ratios[middle]) / 2
    return Ratio(median, median_ci95(ratios))
