"""How often `compare` finds what it should, and how often it cries wolf: from pairs of turns, drawn again and again.

    python -m benchmarks.regression.power --pairs=40 --output=benchmarks/results/pairs.json

For each case, two work trees of one commit take turns (`same`), and then one with a version made worse on purpose
(`worse`: a tenth more CPU time, or three times the learning rate). What `compare` would say is then asked of samples of
these, each of as many pairs as it takes (`detected`). The result file holds every turn.
"""

from __future__ import annotations

import contextlib
import functools
import sys

import numpy as np
from absl import flags, logging

from evenkeel.benchmarks import command, results, statistics
from evenkeel.benchmarks.regression import power_analysis
from evenkeel.benchmarks.results import Result
from evenkeel.pipeline.errors import one_of, require

CASES = ("input", "small_input", "step", "training")
WORSE = 0.1  # of the CPU time
FLAGS = flags.FLAGS
flags.DEFINE_string("ref", "HEAD", "the version whose turns are measured")
flags.DEFINE_integer("pairs", 40, "pairs of turns of each kind")
flags.DEFINE_list("only", list(CASES), f"cases to run, of: {', '.join(CASES)}")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    command.check_arguments(argv)
    command.check_output("output", FLAGS.output)
    require(bool(FLAGS.ref), "--ref is empty: give a branch, a tag or a hash; sources are changed in a copy of it.")
    require(bool(FLAGS.only), f"--only names no case: give some of {', '.join(CASES)}.")
    require(
        FLAGS.pairs >= 2 * power_analysis.STARTED and FLAGS.pairs % (2 * power_analysis.STARTED) == 0,
        f"--pairs ({FLAGS.pairs}) must be a multiple of {2 * power_analysis.STARTED}:"
        f" those of two starts, in either order.",
    )
    for name in FLAGS.only:
        one_of("only", name, CASES)
    from evenkeel.benchmarks.peers.environments import Unavailable
    from evenkeel.benchmarks.peers.race import Refused

    found: list[Result] = []
    for case in FLAGS.only:
        try:
            found += measured(case)
        except (Unavailable, Refused, ValueError) as error:
            print(f"error: {case}: {error}", file=sys.stderr)
            return 4
        if FLAGS.output:
            results.write(FLAGS.output, found, results.environment())
    rates = power_analysis.all_rates(found)
    for case, of in rates.items():
        print(f"{case}: {of}")
    print(f"a comparison of equal versions fails in some case: {power_analysis.any_alarm(rates):.3f}")
    return 0


def measured(case: str) -> list[Result]:
    """The turns of both versions, of one commit and of one made worse."""
    from evenkeel.benchmarks.peers import sources
    from evenkeel.benchmarks.regression import injected_regressions, versions
    from evenkeel.benchmarks.regression.worktrees import checked_out

    reads = versions.CASES[case].reads
    folder = str(sources.written(reads, "shapes", functools.partial(print, file=sys.stderr))) if reads else ""
    worsen = injected_regressions.step_slower if case == "step" else injected_regressions.input_slower
    found, of_a_step = [], 0.0
    for pool in power_analysis.POOLS:
        with contextlib.ExitStack() as stack:
            trees = {name: stack.enter_context(checked_out(FLAGS.ref)) for name in ("base", "head")}
            if pool == "worse" and case in versions.STEADINESS:
                injected_regressions.rate_times_3(trees["head"].path)
            elif pool == "worse":
                worsen(trees["head"].path, WORSE * of_a_step)
            raced = versions.turns_of(case, trees, FLAGS.pairs, folder, starts=FLAGS.pairs // power_analysis.STARTED)
        for name in trees:
            add = functools.partial(Result, "compare", f"{case}/{pool}/{name}", better="lower")
            if case in versions.STEADINESS:
                runs = [versions.numbers(turn.seen["losses"]) for turn in raced.turns[name]]
                found.append(add(metric="final_loss", unit="nats", samples=tuple(map(versions.final_loss, runs))))
                found.append(add(metric="spike_score", unit="share", samples=tuple(map(statistics.spike_score, runs))))
                continue
            for kind in ("cpu_seconds", "wall_seconds"):
                found.append(add(metric=kind, unit="s", samples=tuple(raced.samples(name, kind))))
            of_a_step = of_a_step or float(np.median(raced.samples(name, "cpu_seconds"))) / raced.steps
    return found


if __name__ == "__main__":
    command.run(main)
