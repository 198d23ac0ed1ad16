"""Division of faults, pairs of network and data set, and seeds into a tuning half and a held-out half.

    fault_half("rate_x30")     # "tuning" or "heldout"
    fault_pairs("rate_x30")    # (("cnn", "shapes"), ("resnet9", "photos"))

Detectors may be tuned on the first half only, and are judged by the second. The division depends on names alone. Both
halves hold the same number of faults of every kind and family, plus or minus one. A fault runs on pairs of its own
half, so that the halves share neither fault nor pair nor seed. The exception are faults of `plain` alone: they run on
both data sets, of which one belongs to the other half.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections import Counter, defaultdict

from evenkeel.benchmarks.stability.faults import FAULTS
from evenkeel.benchmarks.stability.networks import NETWORKS

DATA_SETS = ("shapes", "photos")
HALVES = ("tuning", "heldout")
SEEDS = {"tuning": (0, 1), "heldout": (2, 3, 4)}
Pair = tuple[str, str]  # (network, data set)
# {pair: its half}. Each half has every network, and one of the two data sets twice.
PAIRS: dict[Pair, str] = {
    (network, data): HALVES[(row + column) % 2]
    for (row, network), (column, data) in itertools.product(enumerate(NETWORKS), enumerate(DATA_SETS))
}
PAIRS_PER_FAULT = 2


def fault_half(fault: str) -> str:
    """The half of the fault with this name."""
    return _assign_halves()[fault]


def fault_pairs(fault: str) -> tuple[Pair, ...]:
    """The `PAIRS_PER_FAULT` pairs that the fault runs on."""
    return _assign_pairs()[fault]


def first_faulty_step(fault: str, seed: int, steps: int, steps_per_epoch: int) -> int:
    """The step at which a transient fault begins, drawn between 40% and 80% of a run of `steps` steps.

    All steps of the fault lie in one epoch, so that no validation falls between them.
    """
    length = FAULTS[fault].steps
    candidates = [
        step
        for step in range(round(0.4 * steps), round(0.8 * steps))
        if 0 < step % steps_per_epoch <= steps_per_epoch - length
    ]
    return candidates[_stable_hash(fault, str(seed)) % len(candidates)]


@functools.cache
def _assign_halves() -> dict[str, str]:
    groups = defaultdict(list)
    for name, fault in FAULTS.items():
        groups[fault.kind, fault.family].append(name)
    halves, turn = {}, 0
    for names in groups.values():
        for name in sorted(names, key=_stable_hash):
            halves[name] = HALVES[turn % 2]
            turn += 1  # not reset for a new group, so that groups of odd size balance each other
    return halves


@functools.cache
def _assign_pairs() -> dict[str, tuple[Pair, ...]]:
    """For each fault the pairs used least so far, first those of its half; faults with fewest networks come first."""
    uses: Counter[Pair] = Counter()
    assigned = {}
    for name in sorted(FAULTS, key=lambda name: (len(FAULTS[name].networks), _stable_hash(name))):
        fault = FAULTS[name]
        possible = [pair for pair in PAIRS if pair[0] in fault.networks]
        possible.sort(key=lambda pair: (PAIRS[pair] != fault_half(name), uses[pair], _stable_hash(name, *pair)))
        assigned[name] = tuple(sorted(possible[:PAIRS_PER_FAULT]))
        uses.update(assigned[name])
    return assigned


def _stable_hash(*words: str) -> int:
    """A hash that is the same in every process, unlike Python's."""
    return int.from_bytes(hashlib.blake2b("/".join(words).encode(), digest_size=8).digest(), "big")
