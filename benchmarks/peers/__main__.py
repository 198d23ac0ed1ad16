"""Compares evenkeel with other libraries (peers) on the same work, each in its own environment, in alternating turns.

    python -m benchmarks.peers --data.source=/data/photos --data.small_source=tfds:cifar10 --output=result.json

The tasks jpeg224, bounded224, prepared224 and raw224 load batches of 64 uint8 images of 224x224x3. Each image is a
random crop of 8% to 100% of the area, scaled bilinearly and randomly flipped. jpeg224 reads unchanged JPEG files,
bounded224 reads JPEG files of quality 90 with a longer side of at most 400 pixels, prepared224 reads JPEG files of
quality 90 with a shorter side of at most 256 pixels, and raw224 reads the decoded pixels of prepared224. The task
small32 loads batches of 512 uint8 images of 32x32x3 from memory, which are padded by 4 pixels, randomly cropped and
randomly flipped, and have a square of 8x8 cut out.

The task step32 runs training steps on a batch of 128 uint8 images of 32x32x3 in memory, on the CPU, in bfloat16 if the
processor computes in it (float32 otherwise):
normalization, forward pass, backward pass, SGD with Nesterov momentum. The network has 3x3 convolutions with BatchNorm
and ReLU: 32 and 64 channels, pooling, 128 channels, pooling, 256 channels, global average, 10 logits.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from absl import flags, logging

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.peers import environments
from evenkeel.benchmarks.peers.tasks import (
    LOADING_TASKS,
    OWN_PEER,
    TASKS,
    Task,
    compare_peers,
)
from evenkeel.pipeline.errors import one_of, require

FLAGS = flags.FLAGS


def peer_names() -> tuple[str, ...]:
    """Returns the names of the peers of all tasks."""
    return tuple(dict.fromkeys(peer for task in TASKS.values() for peer in task.peers))


def define_flags() -> None:
    flags.DEFINE_list("only", list(TASKS), f"tasks to run, of: {', '.join(TASKS)}")
    flags.DEFINE_list("loaders", list(peer_names()), f"peers that take part, of: {', '.join(peer_names())}")
    flags.DEFINE_string(
        "data.source",
        "shapes",
        "images of the tasks at 224 pixels: shapes (rendered, 320x320 pixels; quote only results with real photographs)"
        " | tfds:NAME | a TFDS directory | a folder of images",
    )
    flags.DEFINE_string("data.small_source", "shapes", "images of small32, all of 32x32 pixels; like data.source")
    flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")
    flags.DEFINE_integer("rounds", 5, "rounds that count; every peer has one turn per round")
    flags.DEFINE_string("environments", str(environments.default_directory()), "directory of the peers' environments")


def check_flags() -> None:
    """Raises `UsageError` if a flag is invalid, before minutes of measuring."""
    require(bool(FLAGS.only), f"--only is empty: give some of {', '.join(TASKS)}.")
    for name in FLAGS.only:
        one_of("only", name, tuple(TASKS))
    require(bool(FLAGS.loaders), f"--loaders is empty: give some of {', '.join(peer_names())}.")
    for name in FLAGS.loaders:
        one_of("loaders", name, peer_names())
    for name in FLAGS.only:
        known = TASKS[name].peers
        require(
            bool(set(known) & set(FLAGS.loaders)),
            f"--loaders ({', '.join(FLAGS.loaders)}): task {name} supports none of these; give some of"
            f" {', '.join(known)}.",
        )
    require(FLAGS.rounds >= 5, f"--rounds ({FLAGS.rounds}) must be at least 5: fewer give no usable interval.")


def prepare_task(name: str) -> Task:
    """Returns the task `name` with the peers in --loaders, and writes the data if it is a loading task.

    Raises:
      UsageError: the data source cannot be used.
    """
    task = TASKS[name]
    task = dataclasses.replace(task, peers=tuple(peer for peer in task.peers if peer in FLAGS.loaders))
    if name not in LOADING_TASKS:
        return task
    logging.set_verbosity(logging.WARNING)
    from evenkeel.benchmarks.peers import sources  # imports TensorFlow

    source = FLAGS["data.small_source" if name == "small32" else "data.source"].value
    return dataclasses.replace(task, settings={"folder": str(sources.write_task_data(name, str(source)))})


def main(argv: list[str]) -> int:
    check_flags()
    command.require_writable("output", FLAGS.output)
    directory = Path(FLAGS.environments).expanduser()
    # The data of all tasks is written before the first task is measured, so that a bad source fails early.
    tasks = {name: prepare_task(name) for name in FLAGS.only}
    comparisons = {name: compare_peers(name, FLAGS.rounds, directory, task) for name, task in tasks.items()}
    measured = [result for comparison in comparisons.values() for result in comparison.results]
    skipped = [entry for comparison in comparisons.values() for entry in comparison.skipped]
    if FLAGS.output:
        about = {name: comparison.about for name, comparison in comparisons.items()}
        results.write(FLAGS.output, measured, {**results.environment(), "peers": about}, skipped)
    if measured:
        print(results.table(measured))
    for comparison in comparisons.values():
        print(comparison.summary)
    # A peer may be skipped, but evenkeel must be measured.
    return 4 if any(entry.case.startswith(f"{OWN_PEER}/") for entry in skipped) else 0


if __name__ == "__main__":
    define_flags()
    command.run(main)
