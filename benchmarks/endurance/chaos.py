"""Kills and resumes a run many times, and compares its weights bit by bit with the weights of an uninterrupted run.

    python -m benchmarks.endurance.chaos --kills=50 --terms=20 --replicas=1,2 --output=result.json

Sends SIGKILLs and SIGTERMs in random order and at random times. The run has short steps and writes a checkpoint every
10 steps, so that many signals arrive while a checkpoint is being written. After each signal, a new process resumes the
run. After SIGTERM, the exit code must be 75 and no step may be lost.
"""

from __future__ import annotations

import random
import sys

from absl import flags

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.endurance.kill_resume import EnduranceError, kill_and_resume
from evenkeel.pipeline.errors import require

FLAGS = flags.FLAGS
flags.DEFINE_integer("kills", 50, "number of SIGKILLs")
flags.DEFINE_integer("terms", 20, "number of SIGTERMs")
flags.DEFINE_list("replicas", ["1", "2"], "numbers of logical replicas, 1 or 2")
flags.DEFINE_integer("seed", 0, "seed of the times and the order of the signals")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    require(FLAGS.kills >= 0, f"--kills ({FLAGS.kills}) must not be negative.")
    require(FLAGS.terms >= 0, f"--terms ({FLAGS.terms}) must not be negative.")
    require(FLAGS.kills + FLAGS.terms > 0, "--kills and --terms are both 0: give a number of signals to send.")
    for replicas in FLAGS.replicas:
        require(replicas in ("1", "2"), f"--replicas ({replicas}) must be 1, 2 or 1,2.")
    chaos_results, all_equal = [], True
    for replicas in map(int, FLAGS.replicas):
        try:
            outcome = kill_and_resume(replicas, FLAGS.kills, FLAGS.terms, random.Random(FLAGS.seed))
        except EnduranceError as error:
            print(f"error: {error}", file=sys.stderr)
            return 4
        all_equal &= outcome.bit_equal
        max_lost = max(outcome.lost, default=0)
        weights = "equal" if outcome.bit_equal else "differ from"
        print(
            f"{replicas} replica{'s' if replicas > 1 else ''}: {outcome.kills} SIGKILLs ({outcome.in_saves} of them"
            f" while a checkpoint was written), {outcome.terms} SIGTERMs: at most {max_lost} steps lost; final weights,"
            f" optimizer state, statistics and averages {weights} those of the uninterrupted run"
        )
        values = {
            "bit_equal": (float(outcome.bit_equal), "higher"),
            "kills": (outcome.kills, "higher"),
            "resumes": (outcome.kills + outcome.terms, "higher"),
            "kills_in_saves": (outcome.in_saves, "higher"),
            "steps_lost_max": (max_lost, "lower"),
        }
        chaos_results += [
            results.Result("chaos", f"replicas{replicas}", metric, "1", better, (value,))
            for metric, (value, better) in values.items()
        ]
    if FLAGS.output:
        results.write(FLAGS.output, chaos_results, results.environment())
    return 0 if all_equal else 4


if __name__ == "__main__":
    command.run(main)
