"""Measures training steps of resnet50 on a GPU: precisions, XLA, the cost of telemetry, and batches from files.

    python -m benchmarks.speed.gpu --data.source=/data/photos --output=result.json

The cases alternate, as in `observe`, but wall time is measured, because training waits for the device. The steps run on
one GPU with images of 224 pixels. PRECISION is bfloat16 or float16. Without a GPU, all cases are skipped.

    PRECISION/plain     no XLA: each op runs separately
    PRECISION/xla       forward and backward pass of each replica compiled, as in `evenkeel train`
    PRECISION/whole     the whole step of a plain model compiled, as with Keras's `jit_compile` (without telemetry)
    PRECISION/watched   as /xla, with the guard's layer statistics and histograms every 100 steps
    bfloat16/held       the steps of /xla without Keras's `fit`, on one batch in memory
    bfloat16/fed        as /held, but on batches that the pipeline reads from files
"""

from __future__ import annotations

import sys
import tempfile

from absl import flags, logging

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.results import Result, Skipped
from evenkeel.benchmarks.speed.gpu_cases import build_turns, results_from_samples
from evenkeel.benchmarks.timing import measure_interleaved
from evenkeel.models.config import ModelConfig
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.errors import require

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 9, "turns of each case")
flags.DEFINE_integer("batch", 256, "images in a step")
flags.DEFINE_string("data.source", "shapes", "images of 224 pixels: shapes (rendered) | tfds:NAME | a directory")
flags.DEFINE_string("output", "", "result file to write; without it the numbers are only printed")


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    command.require_writable("output", FLAGS.output)
    require(FLAGS.rounds >= 1, f"--rounds ({FLAGS.rounds}) must be at least 1.")
    require(FLAGS.batch >= 1, f"--batch ({FLAGS.batch}) must be at least 1.")
    import tensorflow as tf

    measured: list[Result] = []
    skipped: list[Skipped] = []
    if tf.config.list_physical_devices("GPU"):
        augment = AugmentConfig(random_resized_crop=0.92, flip=0.5)
        source = str(FLAGS["data.source"].value)
        data = DataConfig(source=source, image_size=224, batch_size=FLAGS.batch, augment=augment)
        with tempfile.TemporaryDirectory() as directory:
            cases = build_turns(data, ModelConfig(name="resnet50"), directory)
            measured = results_from_samples(measure_interleaved(cases, FLAGS.rounds, warmup=1), FLAGS.batch)
        print(results.table(measured))
    else:
        skipped.append(Skipped("gpu", "TensorFlow finds no GPU here"))
        print(f"skipped: {skipped[0].reason}", file=sys.stderr)
    if FLAGS.output:
        results.write(FLAGS.output, measured, results.environment(), skipped)
    return 0


if __name__ == "__main__":
    command.run(main)
