"""The same work by evenkeel and by its peers, each in an environment of its own, measured in turns.

    python -m benchmarks.peers --data.source=/data/photos --data.small_source=tfds:cifar10 --output=result.json

jpeg224, bounded224, prepared224, raw224: batches of 64 uint8 images of 224x224x3, a random crop of 8% to 100% of the
area scaled bilinearly, flipped at random; out of JPEG files as they are, of quality 90 and a longer side of 400 pixels
or a shorter side of 256, and the decoded pixels of the latter. small32: batches of 512 uint8 images of 32x32x3 out of
memory, padded by 4 and cropped at random, flipped at random, a square of 8x8 cut out.

step32: the training step of one network on a batch of 128 uint8 images of 32x32x3 in memory, on the CPU, in bfloat16:
normalization, forward, backward, SGD with Nesterov momentum. The network: 3x3 convolutions with BatchNorm and ReLU to
32 and 64 channels, pooling, 128, pooling, 256, mean, 10 logits.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from absl import flags, logging

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.peers import environments
from evenkeel.benchmarks.peers.tasks import (
    LOADING,
    OWN,
    TASKS,
    Task,
    compare,
)
from evenkeel.pipeline.errors import one_of, require

FLAGS = flags.FLAGS


def peers() -> tuple[str, ...]:
    return tuple(dict.fromkeys(peer for task in TASKS.values() for peer in task.peers))


def define_flags() -> None:
    flags.DEFINE_list("only", list(TASKS), f"tasks to run, of: {', '.join(TASKS)}")
    flags.DEFINE_list("loaders", list(peers()), f"peers that take part, of: {', '.join(peers())}")
    flags.DEFINE_string(
        "data.source",
        "shapes",
        "images of the tasks at 224 pixels: shapes (rendered, of 320x320 pixels; real photographs are what to quote)"
        " | tfds:NAME | a TFDS directory | a folder of images",
    )
    flags.DEFINE_string("data.small_source", "shapes", "images of small32, all of 32x32 pixels; like data.source")
    flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")
    flags.DEFINE_integer("rounds", 5, "rounds that count; in each of them every peer has a turn")
    flags.DEFINE_string("environments", str(environments.default_directory()), "where the peers' environments are kept")


def check(extra: list[str]) -> None:
    """Raises `UsageError`; now, not after minutes of measuring."""
    require(not extra, f"argument ({' '.join(extra)}) is not understood: every option starts with --.")
    require(bool(FLAGS.only), f"only () names no task: give some of {', '.join(TASKS)}.")
    for name in FLAGS.only:
        one_of("only", name, tuple(TASKS))
    require(bool(FLAGS.loaders), f"loaders () names none: give some of {', '.join(peers())}.")
    for name in FLAGS.loaders:
        one_of("loaders", name, peers())
    for name in FLAGS.only:
        taking_part = [peer for peer in TASKS[name].peers if peer in FLAGS.loaders]
        known = ", ".join(TASKS[name].peers)
        require(bool(taking_part), f"loaders ({', '.join(FLAGS.loaders)}): {name} has none of them, it has {known}.")
    require(FLAGS.rounds >= 5, f"rounds ({FLAGS.rounds}) must be at least 5: fewer give no interval worth the name.")
    if FLAGS.output:
        output = Path(FLAGS.output)
        usable = output.parent.is_dir() and os.access(output.parent, os.W_OK) and not output.is_dir()
        require(usable, f"output ({output}) must be a file in a directory that exists and can be written.")


def prepared(name: str) -> Task:
    """The task with the peers that were asked for, and with what they read written where it reads anything.

    Raises:
      UsageError: a source cannot be used.
    """
    task = TASKS[name]
    task = dataclasses.replace(task, peers=tuple(peer for peer in task.peers if peer in FLAGS.loaders))
    if name not in LOADING:
        return task
    logging.set_verbosity(logging.WARNING)
    from evenkeel.benchmarks.peers import sources  # loads TensorFlow

    source = FLAGS["data.small_source" if name == "small32" else "data.source"].value
    return dataclasses.replace(task, settings={"folder": str(sources.written(name, str(source)))})


def main(argv: list[str]) -> int:
    check(argv[1:])
    directory = Path(FLAGS.environments).expanduser()
    # What is read is written for all tasks before the first is measured: a bad source is found now.
    chosen = {name: prepared(name) for name in FLAGS.only}
    compared = {name: compare(name, FLAGS.rounds, directory, task) for name, task in chosen.items()}
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
