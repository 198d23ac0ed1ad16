"""A run that is killed again and again against one that is left alone: are their weights the same to the last bit?

    python -m benchmarks.endurance.chaos --kills=50 --terms=20 --replicas=1,2 --output=result.json

SIGKILL and SIGTERM, mixed at random, strike at random moments of a run of short steps, with checkpoints every few of
them, so that many strike while one is written. After each the run goes on in a new process. A SIGTERM must end in exit
code 75 and cost no step.
"""

from __future__ import annotations

import random
import sys

from absl import flags

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.endurance.kill_resume import Unendured, endure
from evenkeel.pipeline.errors import require

FLAGS = flags.FLAGS
flags.DEFINE_integer("kills", 50, "SIGKILLs over the run")
flags.DEFINE_integer("terms", 20, "SIGTERMs over the run")
flags.DEFINE_list("replicas", ["1", "2"], "numbers of logical replicas, 1 or 2")
flags.DEFINE_integer("seed", 0, "of the moments")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    require(FLAGS.kills >= 0, f"--kills ({FLAGS.kills}) must not be negative.")
    require(FLAGS.terms >= 0, f"--terms ({FLAGS.terms}) must not be negative.")
    require(FLAGS.kills + FLAGS.terms > 0, "--kills and --terms are both 0: nothing to endure.")
    for replicas in FLAGS.replicas:
        require(replicas in ("1", "2"), f"--replicas ({replicas}) must be 1, 2 or 1,2.")
    found, same = [], True
    for replicas in map(int, FLAGS.replicas):
        try:
            came = endure(replicas, FLAGS.kills, FLAGS.terms, random.Random(FLAGS.seed))
        except Unendured as error:
            print(f"error: {error}", file=sys.stderr)
            return 4
        same &= came.bit_equal
        worst = max(came.lost, default=0)
        print(
            f"{replicas} replica{'s' if replicas > 1 else ''}: {came.kills} SIGKILLs ({came.in_saves} of them in"
            f" the writing of a checkpoint), {came.terms} SIGTERMs: at most {worst} steps lost; weights, slots,"
            f" statistics and averages are {'those' if came.bit_equal else 'NOT those'} of the straight run"
        )
        values = {
            "bit_equal": (float(came.bit_equal), "higher"),
            "kills": (came.kills, "higher"),
            "resumes": (came.kills + came.terms, "higher"),
            "kills_in_saves": (came.in_saves, "higher"),
            "steps_lost_max": (worst, "lower"),
        }
        found += [
            results.Result("chaos", f"replicas{replicas}", metric, "1", better, (value,))
            for metric, (value, better) in values.items()
        ]
    if FLAGS.output:
        results.write(FLAGS.output, found, results.environment())
    return 0 if same else 4


if __name__ == "__main__":
    command.run(main)
