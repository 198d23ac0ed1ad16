"""The halves are balanced and share nothing; transient faults stay within an epoch."""

from __future__ import annotations

from collections import Counter

import pytest

from evenkeel.benchmarks.stability import networks, split
from evenkeel.benchmarks.stability.faults import FAULTS


def test_halves_are_balanced_over_kinds_and_families() -> None:
    differences: Counter = Counter()
    for name, fault in FAULTS.items():
        differences[fault.kind, fault.family] += {"tuning": 1, "heldout": -1}[split.fault_half(name)]
    assert all(abs(difference) <= 1 for difference in differences.values())
    assert abs(sum(differences.values())) <= 1


def test_pairs_are_used_evenly_and_stay_in_their_half() -> None:
    uses: Counter = Counter()
    for name, fault in FAULTS.items():
        pairs = split.fault_pairs(name)
        assert len(set(pairs)) == 2
        assert {network for network, _ in pairs} <= set(fault.networks)
        assert pairs == split.fault_pairs(name)
        if len(fault.networks) > 1:
            assert {split.PAIRS[pair] for pair in pairs} == {split.fault_half(name)}
        uses.update(pairs)
    assert len(uses) == 6
    assert max(uses.values()) - min(uses.values()) <= 4


def test_seeds_and_pairs_belong_to_one_half() -> None:
    assert Counter(split.PAIRS.values()) == {"tuning": 3, "heldout": 3}
    assert sorted(split.SEEDS["tuning"] + split.SEEDS["heldout"]) == [0, 1, 2, 3, 4]
    for half in split.HALVES:
        half_networks = {network for (network, _), pair_half in split.PAIRS.items() if pair_half == half}
        assert half_networks == set(networks.NETWORKS)


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.kind == "transient"])
def test_transient_faults_begin_at_random_steps_and_end_within_the_epoch(name: str) -> None:
    first_steps = [split.first_faulty_step(name, seed, steps=250, steps_per_epoch=125) for seed in range(20)]
    assert len(set(first_steps)) > 10
    assert first_steps == [split.first_faulty_step(name, seed, steps=250, steps_per_epoch=125) for seed in range(20)]
    for first_step in first_steps:
        assert 100 <= first_step < 200
        assert first_step % 125 != 0
        assert first_step // 125 == (first_step + FAULTS[name].steps - 1) // 125
