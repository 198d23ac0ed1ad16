"""Which faults, pairs of network and data, and seeds a detector may be tuned on, and which it is then judged by.

    half("rate_x30")          # "tuning" or "heldout"
    pairs("rate_x30")         # (("cnn", "shapes"), ("resnet9", "photos"))

A function of the names alone. Both halves hold as many operators of every kind and family, to one. An operator runs on
pairs of its own half, so that what is held out shares neither operator nor pair nor seed with what was tuned on; one
that is a fault of `plain` only takes both data sets, of which one is the other half's.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections import Counter, defaultdict

from evenkeel.benchmarks.stability.faults import FAULTS
from evenkeel.benchmarks.stability.networks import NETWORKS

DATA = ("shapes", "photos")
HALVES = ("tuning", "heldout")
SEEDS = {"tuning": (0, 1), "heldout": (2, 3, 4)}
Pair = tuple[str, str]
# Each half has every network, and one of the two data sets twice.
PAIRS: dict[Pair, str] = {
    (network, data): HALVES[(row + column) % 2]
    for (row, network), (column, data) in itertools.product(enumerate(NETWORKS), enumerate(DATA))
}
EACH = 2  # pairs an operator runs on


def half(operator: str) -> str:
    """Of the operator with this name in `FAULTS`."""
    return _halves()[operator]


def pairs(operator: str) -> tuple[Pair, ...]:
    """The `EACH` pairs that it runs on."""
    return _pairs()[operator]


def first_step(operator: str, seed: int, steps: int, steps_per_epoch: int) -> int:
    """Where a transient fault begins in a run of so many steps: drawn between 40% and 80% of it.

    The burst lies within one epoch, so that no validation falls into it.
    """
    length = FAULTS[operator].steps
    within = [
        step
        for step in range(round(0.4 * steps), round(0.8 * steps))
        if 0 < step % steps_per_epoch <= steps_per_epoch - length
    ]
    return within[_hash(operator, str(seed)) % len(within)]


@functools.cache
def _halves() -> dict[str, str]:
    groups = defaultdict(list)
    for name, fault in FAULTS.items():
        groups[fault.kind, fault.family].append(name)
    found, turn = {}, 0
    for names in groups.values():
        for name in sorted(names, key=_hash):
            found[name] = HALVES[turn % 2]
            turn += 1  # goes on from group to group: odd ones balance each other
    return found


@functools.cache
def _pairs() -> dict[str, tuple[Pair, ...]]:
    """Those used least so far, of the own half first; operators with the least choice come first."""
    used: Counter[Pair] = Counter()
    found = {}
    for name in sorted(FAULTS, key=lambda name: (len(FAULTS[name].networks), _hash(name))):
        fault = FAULTS[name]
        possible = [pair for pair in PAIRS if pair[0] in fault.networks]
        possible.sort(key=lambda pair: (PAIRS[pair] != half(name), used[pair], _hash(name, *pair)))
        found[name] = tuple(sorted(possible[:EACH]))
        used.update(found[name])
    return found


def _hash(*words: str) -> int:
    return int.from_bytes(hashlib.blake2b("/".join(words).encode(), digest_size=8).digest(), "big")
