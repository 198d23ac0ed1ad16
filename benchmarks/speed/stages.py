"""Measures the CPU time per image of each stage of the input pipeline, and of the decoder alone.

    python -m benchmarks.speed.stages --data.source=/data/photos --output=result.json

Profiles the chain of the tasks `jpeg224` and `prepared224` of `benchmarks.peers`, as `evenkeel profile` does.
`TASK/STAGE` is a stage of the chain. `TASK/decoder` is TensorFlow's decoder on the same files, each read from its
beginning. This time is a lower bound for pipelines that pass whole files to the decoder.
"""

from __future__ import annotations

import os
import sys

from absl import flags, logging

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.report.page import DECODER_STAGE
from evenkeel.benchmarks.results import Result
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.errors import one_of, require

TASKS = ("jpeg224", "prepared224")
FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 5, "profiles of each task; a profile takes about half a minute")
flags.DEFINE_list("only", list(TASKS), f"tasks to profile, of: {', '.join(TASKS)}")
flags.DEFINE_string("data.source", "shapes", "images: shapes (rendered) | tfds:NAME | a directory | a folder")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.ERROR)
    command.require_writable("output", FLAGS.output)
    require(FLAGS.rounds >= 1, f"--rounds ({FLAGS.rounds}) must be at least 1.")
    require(bool(FLAGS.only), f"--only is empty: give some of {', '.join(TASKS)}.")
    for name in FLAGS.only:
        one_of("only", name, TASKS)
    from evenkeel.benchmarks.peers import sources

    measured: dict[str, list[float]] = {}
    folders = {name: sources.write_task_data(name, str(FLAGS["data.source"].value), _log) for name in FLAGS.only}
    for number in range(FLAGS.rounds):
        for name, folder in folders.items():
            for stage, milliseconds in stage_times(os.path.join(str(folder), "files")).items():
                measured.setdefault(f"{name}/{stage}", []).append(milliseconds)
            _log(f"{name}: {number + 1} of {FLAGS.rounds}")
    stage_results = [
        Result("stages", case, "cpu_ms_per_image", "ms", "lower", tuple(samples)) for case, samples in measured.items()
    ]
    print(results.table(stage_results))
    if FLAGS.output:
        results.write(FLAGS.output, stage_results, results.environment())
    return 0


def stage_times(source: str) -> dict[str, float]:
    """Returns {stage: CPU ms per image} in the order of the chain; the decoder alone is last."""
    from evenkeel.pipeline.dataset import load_dataset
    from evenkeel.pipeline.profile.profile import profile

    augment = AugmentConfig(random_resized_crop=0.92, flip=0.5)
    config = DataConfig(source, image_size=224, batch_size=64, augment=augment, entries=True)
    report = profile(load_dataset(config), config)
    return {**{stage.name: stage.cpu_ms for stage in report.stages}, DECODER_STAGE: report.decoder_floor_ms}


def _log(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    command.run(main)
