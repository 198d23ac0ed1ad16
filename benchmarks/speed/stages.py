"""Where an image's CPU time goes in the input pipeline, and what decoding takes by itself.

    python -m benchmarks.speed.stages --data.source=/data/photos --output=result.json

The chain of the tasks `jpeg224` and `prepared224` of `benchmarks.peers`, taken apart as `tools.profile_pipeline` does.
`TASK/STAGE` is each of its stages, `TASK/decoder` TensorFlow's decoder on the same files, read from their beginnings:
no pipeline that gives it whole files can beat that.
"""

from __future__ import annotations

import os
import sys

from absl import flags, logging

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.report.page import DECODER
from evenkeel.benchmarks.results import Result
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.errors import one_of, require

TASKS = ("jpeg224", "prepared224")
FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 5, "times that each is taken apart, of about half a minute")
flags.DEFINE_list("only", list(TASKS), f"tasks, of: {', '.join(TASKS)}")
flags.DEFINE_string("data.source", "shapes", "images: shapes (rendered) | tfds:NAME | a directory | a folder")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.ERROR)
    command.check_arguments(argv)
    command.check_output("output", FLAGS.output)
    require(FLAGS.rounds >= 1, f"--rounds ({FLAGS.rounds}) must be at least 1.")
    require(bool(FLAGS.only), f"--only names no task: give some of {', '.join(TASKS)}.")
    for name in FLAGS.only:
        one_of("only", name, TASKS)
    from evenkeel.benchmarks.peers import sources

    taken: dict[str, list[float]] = {}
    folders = {name: sources.written(name, str(FLAGS["data.source"].value), _say) for name in FLAGS.only}
    for number in range(FLAGS.rounds):
        for name, folder in folders.items():
            for part, milliseconds in apart(os.path.join(str(folder), "files")).items():
                taken.setdefault(f"{name}/{part}", []).append(milliseconds)
            _say(f"{name}: {number + 1} of {FLAGS.rounds}")
    found = [
        Result("stages", case, "cpu_ms_per_image", "ms", "lower", tuple(samples)) for case, samples in taken.items()
    ]
    print(results.table(found))
    if FLAGS.output:
        results.write(FLAGS.output, found, results.environment())
    return 0


def apart(source: str) -> dict[str, float]:
    """{stage: CPU ms an image}, in the order of the chain, and that of the decoder alone."""
    from evenkeel.pipeline.dataset import load_dataset
    from evenkeel.pipeline.profile.profile import profile

    augment = AugmentConfig(random_resized_crop=0.92, flip=0.5)
    config = DataConfig(source, image_size=224, batch_size=64, augment=augment, entries=True)
    report = profile(load_dataset(config), config)
    return {**{stage.name: stage.cpu_ms for stage in report.stages}, DECODER: report.decoder_floor_ms}


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    command.run(main)
