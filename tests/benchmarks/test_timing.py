"""Interleaved measuring, on a clock that the test controls and on the real ones."""

import subprocess
import sys

import pytest

from evenkeel.benchmarks.timing import (
    Clock,
    Sample,
    cpu_seconds,
    machine_cpu_seconds,
    measure,
    measure_interleaved,
    measure_quiet_pairs,
    paired_ratio,
    turn_order,
)


class Machine:
    """A clock on which time passes only while a case runs."""

    def __init__(self):
        self.cpu = self.wall = self.others = 0.0
        self.log = []
        self.clock = Clock(cpu=lambda: self.cpu, wall=lambda: self.wall, machine=lambda: 50.0 + self.cpu + self.others)

    def case(self, name, cpu, wall):
        def run():
            self.log.append(name)
            self.cpu += cpu() if callable(cpu) else cpu
            self.wall += wall

        return run


def test_a_sample_is_the_difference_of_the_clocks():
    machine = Machine()
    machine.cpu, machine.wall = 100.0, 7.0
    assert measure(machine.case("a", 2.0, 0.5), machine.clock) == Sample(cpu_seconds=2.0, wall_seconds=0.5)


def test_cases_alternate_and_the_warmup_does_not_count():
    machine = Machine()
    cold = {"a": 1000.0, "b": 1000.0}
    cases = {name: machine.case(name, lambda name=name: cold.pop(name, 3.0), 0.25) for name in ("a", "b")}
    samples = measure_interleaved(cases, rounds=4, warmup=1, clock=machine.clock)
    assert "".join(machine.log) == "ab" + "abbaabba"
    assert samples == {"a": [Sample(3.0, 0.25)] * 4, "b": [Sample(3.0, 0.25)] * 4}


def test_cpu_time_of_other_programs_is_separate():
    machine = Machine()

    def disturbed_case():
        machine.others += 0.6
        machine.case("a", 2.0, 0.5)()

    sample = measure(disturbed_case, machine.clock)
    assert sample == Sample(2.0, 0.5, pytest.approx(0.6))
    assert sample.others_cores == pytest.approx(1.2)
    assert (sample + sample).others_cores == pytest.approx(1.2)
    silent = Clock(cpu=lambda: machine.cpu, wall=lambda: machine.wall, machine=lambda: None)
    assert measure(disturbed_case, silent).others_cores == 0


def test_disturbed_pairs_are_repeated():
    machine, measured = Machine(), []
    calls = {"a": 0, "b": 0}

    def case(name, cpu):
        def run():
            calls[name] += 1
            machine.case(name, cpu, 1.0)()
            if name == "b" and calls[name] in (2 + 3, 2 + 9):  # after the warm-up, in the second and the fifth pair
                machine.others += 0.5

        return run

    cases = {"a": case("a", 3.0), "b": case("b", 4.0)}
    quiet = measure_quiet_pairs(cases, pairs=4, calls_per_sample=2, clock=machine.clock, on_pair=measured.append)
    assert "".join(machine.log) == "aabb" + "abba" + "baab" + "abba" + "baab" + "abba" + "baab"
    assert quiet == {"a": [Sample(6.0, 2.0)] * 4, "b": [Sample(8.0, 2.0)] * 4}
    assert [pair["b"].others_cores for pair in measured] == pytest.approx([0, 0.25, 0, 0, 0.25, 0])


def test_on_a_noisy_machine_the_quietest_pairs_are_kept():
    machine, noise = Machine(), iter([9.0, 0.9, 0.3, 0.8, 0.2, 0.7, 0.6, 0.5, 0.4])

    def noisy_case():
        machine.case("a", 1.0, 1.0)()
        machine.others += next(noise, 0.0)

    quiet = measure_quiet_pairs({"a": noisy_case}, pairs=2, calls_per_sample=1, clock=machine.clock)
    assert [sample.others_cores for sample in quiet["a"]] == pytest.approx([0.3, 0.2])


def test_the_order_of_three_cases_is_reversed_every_round():
    assert [turn_order("abc", round_) for round_ in range(3)] == [list("abc"), list("cba"), list("abc")]


def test_paired_ratios_ignore_a_drift_of_both_cases():
    # Another program slows both down, more in every round; a always takes 1.5 times as long as b.
    slowdown = [1.0, 1.1, 1.3, 2.0, 3.5, 7.0]
    ratio = paired_ratio([1.5 * s for s in slowdown], slowdown)
    assert ratio.median == pytest.approx(1.5)
    assert ratio.ci95 == pytest.approx((1.5, 1.5))
    assert str(ratio) == "1.50 (1.50 .. 1.50)"


def test_the_interval_of_a_ratio_covers_its_spread():
    ratio = paired_ratio([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [1.0] * 7)
    assert ratio.median == 4.0
    low, high = ratio.ci95
    assert 1.0 <= low < 4.0 < high <= 7.0
    assert paired_ratio([1.0, 3.0], [1.0, 1.0]).median == 2.0


@pytest.mark.parametrize(("numerators", "denominators"), [([1.0], [1.0, 2.0]), ([], [])])
def test_ratios_need_pairs(numerators, denominators):
    with pytest.raises(ValueError, match="at least one pair"):
        paired_ratio(numerators, denominators)


def test_the_cpu_clock_counts_children():
    before = cpu_seconds()
    burn_cpu = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", burn_cpu], check=True)
    assert cpu_seconds() - before >= 0.3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has /proc/stat")
def test_the_machine_clock_counts_all_programs():
    before = machine_cpu_seconds() or 0.0
    burn_cpu = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", burn_cpu], check=True)
    assert (machine_cpu_seconds() or 0.0) - before >= 0.2  # /proc/stat counts sampled ticks of 10 ms
