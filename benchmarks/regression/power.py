"""Estimates the power and the false alarm rate of `compare` by resampling pairs of measured turns.

    python -m benchmarks.regression.power --pairs=40 --output=benchmarks/results/pairs.json

For each case, two work trees of the same commit take turns (`same`). Then a work tree takes turns with a version that
was made worse on purpose (`worse`: a tenth more CPU time, or three times the learning rate). Each rate is the share of
resampled comparisons that fail; a comparison has as many pairs as `compare` measures (`power_analysis`). The result
file contains every turn.
"""

from __future__ import annotations

import contextlib
import functools
import sys

import numpy as np
from absl import flags, logging

from evenkeel.benchmarks import command, results, statistics
from evenkeel.benchmarks.peers.environments import UnavailableError
from evenkeel.benchmarks.peers.race import UnequalWorkError
from evenkeel.benchmarks.regression import injected_regressions, power_analysis, versions
from evenkeel.benchmarks.regression.worktrees import check_out
from evenkeel.benchmarks.results import Result
from evenkeel.pipeline.errors import one_of, require

CASES = tuple(versions.CASES)
SLOWDOWN = 0.1  # CPU time added to the version made worse, as a share
FLAGS = flags.FLAGS
flags.DEFINE_string("ref", "HEAD", "the version whose turns are measured")
flags.DEFINE_integer("pairs", 40, "pairs of turns of each kind")
flags.DEFINE_list("only", list(CASES), f"cases to run, of: {', '.join(CASES)}")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    command.require_writable("output", FLAGS.output)
    require(
        bool(FLAGS.ref),
        "--ref is empty: give a branch, a tag or a hash; regressions are written into a copy of it.",
    )
    require(bool(FLAGS.only), f"--only is empty: give some of {', '.join(CASES)}.")
    require(
        FLAGS.pairs >= 2 * power_analysis.PAIRS_PER_START and FLAGS.pairs % (2 * power_analysis.PAIRS_PER_START) == 0,
        f"--pairs ({FLAGS.pairs}) must be a multiple of {2 * power_analysis.PAIRS_PER_START}:"
        " one start in each order gives this many pairs.",
    )
    for name in FLAGS.only:
        one_of("only", name, CASES)
    turns: list[Result] = []
    for case in FLAGS.only:
        try:
            turns += measure_pools(case)
        except (UnavailableError, UnequalWorkError, ValueError) as error:
            print(f"error: {case}: {error}", file=sys.stderr)
            return 4
        if FLAGS.output:
            results.write(FLAGS.output, turns, results.environment())
    rates = power_analysis.rates_by_case(turns)
    for case, case_rates in rates.items():
        print(f"{case}: {case_rates}")
    print(
        "probability that a comparison of equal versions fails in at least one case:"
        f" {power_analysis.any_false_alarm_rate(rates):.3f}"
    )
    return 0


def measure_pools(case: str) -> list[Result]:
    """Measures turns of two equal versions, and turns of a version and the same version made worse."""
    from evenkeel.benchmarks.peers import sources  # imports TensorFlow

    reads = versions.CASES[case].reads
    folder = str(sources.write_task_data(reads, "shapes", functools.partial(print, file=sys.stderr))) if reads else ""
    worsen = injected_regressions.slow_down_step if case == "step" else injected_regressions.slow_down_input
    pool_results, step_cpu_seconds = [], 0.0
    for pool in power_analysis.POOLS:
        with contextlib.ExitStack() as stack:
            trees = {name: stack.enter_context(check_out(FLAGS.ref)) for name in ("base", "head")}
            if pool == "worse" and case in versions.STABILITY_CASES:
                injected_regressions.triple_learning_rate(trees["head"].path)
            elif pool == "worse":
                worsen(trees["head"].path, SLOWDOWN * step_cpu_seconds)
            turns = versions.measure_turns(
                case, trees, FLAGS.pairs, folder, starts=FLAGS.pairs // power_analysis.PAIRS_PER_START
            )
        for name in trees:
            if case in versions.STABILITY_CASES:
                runs = [versions.parse_losses(turn.seen["losses"]) for turn in turns.turns[name]]
                metrics = {
                    ("final_loss", "nats"): list(map(versions.final_loss, runs)),
                    ("spike_score", "share"): list(map(statistics.spike_score, runs)),
                }
            else:
                metrics = {(kind, "s"): turns.samples(name, kind) for kind in ("cpu_seconds", "wall_seconds")}
                cpu_seconds = float(np.median(turns.samples(name, "cpu_seconds")))
                step_cpu_seconds = step_cpu_seconds or cpu_seconds / turns.steps
            pool_results += [
                Result("compare", f"{case}/{pool}/{name}", metric, unit, "lower", tuple(samples))
                for (metric, unit), samples in metrics.items()
            ]
    return pool_results


if __name__ == "__main__":
    command.run(main)
