"""Measures whether the input pipeline keeps up: training on its batches, compared with one batch in memory.

    python -m benchmarks.speed.end_to_end --data.source=/data/photos --data.small_source=tfds:cifar10

The training steps use one core and the input pipeline uses the others (`training_input.py`). `input_wait` is the share
of time that the steps wait for batches. `throughput_share` is the throughput divided by the throughput with the batch
in memory, in turns that are adjacent in time.
"""

from __future__ import annotations

import os
import sys

from absl import flags, logging

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.results import Result, Skipped
from evenkeel.pipeline.errors import one_of, require
from evenkeel.pipeline.system.cpu import cores

CASES = {"small32": "small32", "photos224": "prepared224"}  # {case: the task in `peers.sources` that provides its data}
FLAGS = flags.FLAGS
flags.DEFINE_integer("pairs", 9, "pairs of turns that count; a turn takes about four seconds")
flags.DEFINE_list("only", list(CASES), f"cases to run, of: {', '.join(CASES)}")
flags.DEFINE_string(
    "data.source", "shapes", "images of photos224: shapes (rendered) | tfds:NAME | a directory | a folder"
)
flags.DEFINE_string("data.small_source", "shapes", "images of small32, all of 32x32 pixels; like data.source")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    command.require_writable("output", FLAGS.output)
    require(bool(FLAGS.only), f"--only is empty: give some of {', '.join(CASES)}.")
    require(FLAGS.pairs >= 1, f"--pairs ({FLAGS.pairs}) must be at least 1.")
    for name in FLAGS.only:
        one_of("only", name, tuple(CASES))
    from evenkeel.benchmarks.peers.environments import UnavailableError
    from evenkeel.benchmarks.peers.race import UnequalWorkError

    measured: list[Result] = []
    skipped: list[Skipped] = []
    for name in FLAGS.only:
        if cores() < 2:
            skipped.append(
                Skipped(f"train/{name}", "there is only one core, so the input pipeline has no core of its own")
            )
            continue
        try:
            measured += measure_case(name)
        except (UnavailableError, UnequalWorkError) as error:
            skipped.append(Skipped(f"train/{name}", str(error)))
    if measured:
        print(results.table(measured))
    for entry in skipped:
        print(f"skipped: {entry.case}: {entry.reason}")
    if FLAGS.output:
        results.write(FLAGS.output, measured, results.environment(), skipped)
    return 4 if skipped and cores() > 1 else 0


def measure_case(name: str) -> list[Result]:
    """Measures the case `name` with batches from the pipeline and with a batch in memory.

    Raises:
      UnavailableError: training failed.
      UnequalWorkError: the two workers do not do the same work.
    """
    from evenkeel.benchmarks.peers import interleaved, sources

    source = FLAGS["data.small_source" if name == "small32" else "data.source"].value
    folder = str(sources.write_task_data(CASES[name], str(source), lambda text: print(text, file=sys.stderr)))
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    commands = {
        fed: (
            interleaved.worker_command(sys.executable, "speed/training_input.py", {"folder": folder, "fed": fed}),
            environ,
        )
        for fed in ("memory", "pipeline")
    }
    turns = interleaved.run_interleaved(commands, FLAGS.pairs, seconds=4.0)
    pipeline, memory = (turns.samples(fed, "wall_seconds") for fed in ("pipeline", "memory"))
    waits = tuple(
        turn.seen["waited"] / seconds for turn, seconds in zip(turns.turns["pipeline"], pipeline, strict=True)
    )
    shares = tuple(reference / seconds for seconds, reference in zip(pipeline, memory, strict=True))
    step = tuple(seconds / turns.steps for seconds in turns.samples("memory", "cpu_seconds"))
    return [
        Result("train", name, "input_wait", "share", "lower", waits),
        Result("train", name, "throughput_share", "share", "higher", shares),
        Result("train", f"{name}/memory", "step_cpu_seconds", "s", "lower", step),
    ]


if __name__ == "__main__":
    command.run(main)
