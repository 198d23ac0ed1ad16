"""What a GPU makes of training: resnet50 in bfloat16 and float16, with XLA and without, watched, fed from files.

    python -m benchmarks.speed.gpu --data.source=/data/photos --output=result.json

Steps are taken in turns, as in `observe`, but wall time counts: the device's is what training waits for. One GPU,
images of 224 pixels. `PRECISION/plain` runs op by op, `/xla` compiles forward and backward of each replica, as
`tools.train` does, `/whole` the whole step, as Keras's `jit_compile` does (a plain model: telemetry is not XLA's).
`/watched` is `/xla` with the guard's looks and histograms every 100 steps. `/held` and `/fed` are the steps of `/xla`
without Keras's `fit`, on one batch in memory and on what the pipeline makes of files. Without a GPU all is skipped.
"""

from __future__ import annotations

import sys
import tempfile

from absl import flags, logging

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.results import Result, Skipped
from evenkeel.benchmarks.speed.gpu_cases import measured, trainings
from evenkeel.benchmarks.timing import interleaved
from evenkeel.models.config import ModelConfig
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.errors import require

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 9, "turns of each case")
flags.DEFINE_integer("batch", 256, "images of a step")
flags.DEFINE_string("data.source", "shapes", "images of 224 pixels: shapes (rendered) | tfds:NAME | a directory")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    command.check_arguments(argv)
    command.check_output("output", FLAGS.output)
    require(FLAGS.rounds >= 1, f"--rounds ({FLAGS.rounds}) must be at least 1.")
    require(FLAGS.batch >= 1, f"--batch ({FLAGS.batch}) must be at least 1.")
    import tensorflow as tf

    found: list[Result] = []
    skipped: list[Skipped] = []
    if tf.config.list_physical_devices("GPU"):
        augment = AugmentConfig(random_resized_crop=0.92, flip=0.5)
        source = str(FLAGS["data.source"].value)
        data = DataConfig(source=source, image_size=224, batch_size=FLAGS.batch, augment=augment)
        with tempfile.TemporaryDirectory() as directory:
            cases = trainings(data, ModelConfig(name="resnet50"), directory)
            found = measured(interleaved(cases, FLAGS.rounds, warmup=1), FLAGS.batch)
        print(results.table(found))
    else:
        skipped.append(Skipped("gpu", "TensorFlow finds no GPU here"))
        print(f"skipped: {skipped[0].reason}", file=sys.stderr)
    if FLAGS.output:
        results.write(FLAGS.output, found, results.environment(), skipped)
    return 0


if __name__ == "__main__":
    command.run(main)
