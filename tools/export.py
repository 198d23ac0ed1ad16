"""python -m tools.export --model_dir=runs/pets --output=served/pets"""

from __future__ import annotations

import sys

from absl import flags as absl_flags

from evenkeel.pipeline.errors import one_of
from evenkeel.tools import flags, quiet

FLAGS = absl_flags.FLAGS
USAGE = """
Writes a run's model as a SavedModel that takes encoded images: decoding, scaling and normalization are inside.

  python -m tools.export --model_dir=runs/pets --output=served/pets --min_accuracy=0.9 --baseline

A model that is not good enough is not pushed, and the exit code is 4.
"""
REFUSED = 4

absl_flags.DEFINE_string("model_dir", "", "the run")
absl_flags.DEFINE_string("output", "", "directory of the versions: the new one gets the next number")
absl_flags.DEFINE_string("quantize", "none", "none | float16: weights in half the bytes")
absl_flags.DEFINE_float("min_accuracy", 0.0, "least accuracy on the run's validation split")
absl_flags.DEFINE_bool("baseline", False, "refuse a model less accurate than the newest version in --output")
absl_flags.DEFINE_string("checkpoint", "best", "best (validation accuracy) | last")


def main(argv: list[str]) -> int:
    flags.need("model_dir", "the directory of a run")
    flags.need("output", "where versions of the model lie")
    one_of("quantize", FLAGS.quantize, ("none", "float16"))
    one_of("checkpoint", FLAGS.checkpoint, ("best", "last"))
    quiet.import_tensorflow()
    from evenkeel.models.export.export import Refused, export

    try:
        pushed = export(
            FLAGS.model_dir, FLAGS.output, FLAGS.quantize, FLAGS.min_accuracy, FLAGS.baseline, FLAGS.checkpoint
        )
    except Refused as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return REFUSED
    print(f"pushed             {pushed}")
    return 0


if __name__ == "__main__":
    flags.run(main, USAGE, own=("model_dir", "output", "quantize", "min_accuracy", "baseline", "checkpoint"))
