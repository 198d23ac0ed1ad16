"""The same work by evenkeel and by its peers, each in an environment of its own, measured in turns.

    python -m benchmarks.peers --only=step32 --output=result.json

step32: the training step of one network on a batch of 128 uint8 images of 32x32x3 in memory, on the CPU, in bfloat16:
normalization, forward, backward, SGD with Nesterov momentum. The network: 3x3 convolutions with BatchNorm and ReLU to
32 and 64 channels, pooling, 128, pooling, 256, mean, 10 logits.
"""

from __future__ import annotations

import os
from pathlib import Path

from absl import flags

from benchmarks import command, results
from benchmarks.peers import environments
from benchmarks.peers.tasks import OWN, TASKS, compare
from pipeline.config import one_of, require

FLAGS = flags.FLAGS


def define_flags() -> None:
    flags.DEFINE_list("only", list(TASKS), f"tasks to run, of: {', '.join(TASKS)}")
    flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")
    flags.DEFINE_integer("rounds", 5, "rounds that count; in each of them every peer has a turn")
    flags.DEFINE_string("environments", str(environments.default_directory()), "where the peers' environments are kept")


def check(extra: list[str]) -> None:
    """Raises `UsageError`; now, not after minutes of measuring."""
    require(not extra, f"argument ({' '.join(extra)}) is not understood: every option starts with --.")
    require(bool(FLAGS.only), f"only () names no task: give some of {', '.join(TASKS)}.")
    for name in FLAGS.only:
        one_of("only", name, tuple(TASKS))
    require(FLAGS.rounds >= 5, f"rounds ({FLAGS.rounds}) must be at least 5: fewer give no interval worth the name.")
    if FLAGS.output:
        output = Path(FLAGS.output)
        usable = output.parent.is_dir() and os.access(output.parent, os.W_OK) and not output.is_dir()
        require(usable, f"output ({output}) must be a file in a directory that exists and can be written.")


def main(argv: list[str]) -> int:
    check(argv[1:])
    directory = Path(FLAGS.environments).expanduser()
    compared = {name: compare(name, FLAGS.rounds, directory) for name in FLAGS.only}
    found = [result for one in compared.values() for result in one.results]
    skipped = [entry for one in compared.values() for entry in one.skipped]
    if FLAGS.output:
        about = {name: one.about for name, one in compared.items()}
        results.write(FLAGS.output, found, {**results.environment(), "peers": about}, skipped)
    if found:
        print(results.table(found))
    for one in compared.values():
        print(one.summary)
    # A peer may be missing; our own side may not.
    return 4 if any(entry.case.startswith(f"{OWN}/") for entry in skipped) else 0


if __name__ == "__main__":
    define_flags()
    command.run(main)
