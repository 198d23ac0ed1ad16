"""Divides faults, pairs of network and data set, and seeds into a tuning half and a held-out half.

    fault_half("rate_x30")     # "tuning" or "heldout"
    fault_pairs("rate_x30")    # (("cnn", "shapes"), ("resnet9", "photos"))

Detectors may be tuned only on the tuning half, and are judged on the held-out half. The division depends only on
names; faults that were added later are divided after the others, which so stay where they were. Both halves have the
same number of faults of every kind and family, plus or minus one. A fault runs on pairs of
its own half, so the halves have no fault, pair or seed in common. The exceptions are faults that exist only in
`plain`: they run on both data sets, and one of these two pairs belongs to the other half.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections import Counter, defaultdict

from evenkeel.benchmarks.stability import recipes
from evenkeel.benchmarks.stability.faults import FAULTS
from evenkeel.benchmarks.stability.networks import NETWORKS

DATA_SETS = ("shapes", "photos")
HALVES = ("tuning", "heldout")
SEEDS = {"tuning": (0, 1), "heldout": (2, 3, 4)}
Pair = tuple[str, str]  # (network, data set)
ADDED_FAULTS = (
    "balanced_twice",
    "blank_95",
    "clipped",
    "early_decay",
    "exponential",
    "few_images",
    "linear",
    "narrow",
    "one_pixel",
    "output_dropout",
    "rotated_labels",
    "shuffled_labels",
)
# Faults that only the suite's own networks can have.
NOT_PUBLISHED = ("tiny_weights", "deep", "one_pixel", "dropout_80", "dropout_90", "half_overflow", "half_underflow")
NOT_FAULTY_DATA = ("few", "imbalanced")  # on which some faults cannot be, or cannot be seen
# {pair: its half}. Each half contains every network; one of the data sets occurs twice, the other once.
PAIRS: dict[Pair, str] = {
    (network, data): HALVES[(row + column) % 2]
    for (row, network), (column, data) in itertools.product(enumerate(NETWORKS), enumerate(DATA_SETS))
}
PAIRS_PER_FAULT = 2


def fault_half(fault: str) -> str:
    """Returns the half to which the fault with this name belongs."""
    return _assign_halves()[fault]


def fault_pairs(fault: str) -> tuple[Pair, ...]:
    """Returns the `PAIRS_PER_FAULT` pairs on which the fault runs."""
    return _assign_pairs()[fault]


def run_half(recipe: str) -> str:
    """Returns the half to which a recipe of `recipes.RECIPES` belongs, by its network."""
    return HALVES[recipes.RECIPES[recipe].network not in recipes.TUNING_NETWORKS]


def fault_run(fault: str) -> Pair | None:
    """Returns the published (recipe, data set) that the fault runs on, of its half; None if no recipe can have it."""
    return _assign_runs().get(fault)


def first_faulty_step(fault: str, seed: int, steps: int, steps_per_epoch: int) -> int:
    """Returns the step at which a transient fault begins, drawn between 40% and 80% of a run of `steps` steps.

    All steps of the fault are in the same epoch, so that there is no validation between them.
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
    first, added = _generations()
    groups = defaultdict(list)
    for name in first:
        groups[_group(name)].append(name)
    halves, turn = {}, 0
    for names in groups.values():
        for name in sorted(names, key=_stable_hash):
            halves[name] = HALVES[turn % 2]
            turn += 1  # not reset for a new group, so that groups of odd size balance each other
    for name in sorted(added, key=_stable_hash):  # to the half that has fewer of its group, or fewer in all
        in_group = Counter(half for other, half in halves.items() if _group(other) == _group(name))
        in_all = Counter(halves.values())
        halves[name] = min(HALVES, key=lambda half: (in_group[half], in_all[half]))
    return halves


def _group(fault: str) -> tuple[str, str]:
    return FAULTS[fault].kind, FAULTS[fault].family


def _generations() -> tuple[list[str], list[str]]:
    """The faults of the first division, and those that were added later."""
    return [name for name in FAULTS if name not in ADDED_FAULTS], [name for name in FAULTS if name in ADDED_FAULTS]


@functools.cache
def _assign_pairs() -> dict[str, tuple[Pair, ...]]:
    """Assigns to each fault the least used pairs, first of its half; faults with the fewest networks come first."""
    uses: Counter[Pair] = Counter()
    assigned = {}
    order = lambda name: (len(FAULTS[name].networks), _stable_hash(name))  # noqa: E731
    for name in [name for faults in _generations() for name in sorted(faults, key=order)]:
        fault = FAULTS[name]
        possible = [pair for pair in PAIRS if pair[0] in fault.networks]
        possible.sort(key=lambda pair: (PAIRS[pair] != fault_half(name), uses[pair], _stable_hash(name, *pair)))
        assigned[name] = tuple(sorted(possible[:PAIRS_PER_FAULT]))
        uses.update(assigned[name])
    return assigned


@functools.cache
def _assign_runs() -> dict[str, Pair]:
    """Assigns to each persistent fault the least used recipe of its half that can have it, and its least used data."""
    uses: Counter[str] = Counter()
    assigned = {}
    persistent = [name for name, fault in FAULTS.items() if fault.kind == "persistent" and name not in NOT_PUBLISHED]
    for name in sorted(persistent, key=lambda name: (len(FAULTS[name].networks), _stable_hash(name))):
        possible = [
            (recipe, data)
            for recipe, data in recipes.RUNS
            if recipes.RECIPES[recipe].resembles in FAULTS[name].networks
            and run_half(recipe) == fault_half(name)
            and data not in NOT_FAULTY_DATA
        ]
        if possible:
            run = min(possible, key=lambda run: (uses[run[0]], uses["/".join(run)], _stable_hash(name, *run)))
            assigned[name] = run
            uses.update((run[0], "/".join(run)))
    return assigned


def _stable_hash(*words: str) -> int:
    """Returns a hash that is equal in every process, unlike the `hash` of Python."""
    return int.from_bytes(hashlib.blake2b("/".join(words).encode(), digest_size=8).digest(), "big")
