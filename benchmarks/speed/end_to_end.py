"""Whether the input keeps up: training fed by the pipeline against the same steps on one batch over and over.

    python -m benchmarks.speed.end_to_end --data.source=/data/photos --data.small_source=tfds:cifar10

The steps have one core and the input the others (`training_input.py`). `input_wait` is the share of the time in which a
step waits for its batch, `throughput_share` the throughput against that of the batch in memory, of turns next to each
other.
"""

from __future__ import annotations

import os
import sys

from absl import flags, logging

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.results import ROOT, Result, Skipped
from evenkeel.pipeline.errors import one_of, require
from evenkeel.pipeline.system.cpu import cores

CASES = {"small32": "small32", "photos224": "prepared224"}  # {case: what of `peers.sources` it reads}
FLAGS = flags.FLAGS
flags.DEFINE_integer("pairs", 9, "turns of each that count, of about four seconds")
flags.DEFINE_list("only", list(CASES), f"cases to run, of: {', '.join(CASES)}")
flags.DEFINE_string(
    "data.source", "shapes", "images of photos224: shapes (rendered) | tfds:NAME | a directory | a folder"
)
flags.DEFINE_string("data.small_source", "shapes", "images of small32, all of 32x32 pixels; like data.source")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    command.check_arguments(argv)
    command.check_output("output", FLAGS.output)
    require(bool(FLAGS.only), f"--only names no case: give some of {', '.join(CASES)}.")
    require(FLAGS.pairs >= 1, f"--pairs ({FLAGS.pairs}) must be at least 1.")
    for name in FLAGS.only:
        one_of("only", name, tuple(CASES))
    from evenkeel.benchmarks.peers.environments import Unavailable
    from evenkeel.benchmarks.peers.race import Refused

    found: list[Result] = []
    skipped: list[Skipped] = []
    for name in FLAGS.only:
        if cores() < 2:
            skipped.append(Skipped(f"train/{name}", "one core: the input has none of its own"))
            continue
        try:
            found += measured(name)
        except (Unavailable, Refused) as error:
            skipped.append(Skipped(f"train/{name}", str(error)))
    if found:
        print(results.table(found))
    for entry in skipped:
        print(f"skipped: {entry.case}: {entry.reason}")
    if FLAGS.output:
        results.write(FLAGS.output, found, results.environment(), skipped)
    return 4 if skipped and cores() > 1 else 0


def measured(name: str) -> list[Result]:
    from evenkeel.benchmarks.peers import interleaved, sources

    source = FLAGS["data.small_source" if name == "small32" else "data.source"].value
    folder = str(sources.written(CASES[name], str(source), lambda text: print(text, file=sys.stderr)))
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    commands = {
        fed: (interleaved.command(sys.executable, "training_input.py", {"folder": folder, "fed": fed}), environ)
        for fed in ("memory", "pipeline")
    }
    found = interleaved.raced(commands, FLAGS.pairs, seconds=4.0)
    fed, memory = (found.samples(name, "wall_seconds") for name in ("pipeline", "memory"))
    waits = tuple(turn.seen["waited"] / seconds for turn, seconds in zip(found.turns["pipeline"], fed, strict=True))
    shares = tuple(theirs / own for own, theirs in zip(fed, memory, strict=True))
    step = tuple(seconds / found.steps for seconds in found.samples("memory", "cpu_seconds"))
    return [
        Result("train", name, "input_wait", "share", "lower", waits),
        Result("train", name, "throughput_share", "share", "higher", shares),
        Result("train", f"{name}/memory", "step_cpu_seconds", "s", "lower", step),
    ]


if __name__ == "__main__":
    command.run(main)
