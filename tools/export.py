"""evenkeel export: writes a SavedModel that takes image files."""

from __future__ import annotations

import sys

from absl import flags

from evenkeel.pipeline.errors import one_of
from evenkeel.tools import cli
from evenkeel.tools.flags import require_flag
from evenkeel.tools.tensorflow_import import import_tensorflow

FLAGS = flags.FLAGS
USAGE = """
Writes the model of a run as a SavedModel that takes image files; it decodes, scales and normalizes them itself.

  evenkeel export --model_dir=runs/pets --output=served/pets --min_accuracy=0.9 --baseline

A model below --min_accuracy, or below --baseline, is not written, and the exit code is 4.
"""
REFUSED = 4  # exit code

flags.DEFINE_string("model_dir", "", "directory of the run")
flags.DEFINE_string("output", "", "directory of the model's versions; the new version gets the next number")
flags.DEFINE_string("quantize", "none", "none | float16 (halves the size of the weights)")
flags.DEFINE_float("min_accuracy", 0.0, "minimum accuracy on the run's validation split")
flags.DEFINE_bool("baseline", False, "refuse a model less accurate than the newest version in --output")
flags.DEFINE_string("checkpoint", "best", "best (validation accuracy) | last")


def main(argv: list[str]) -> int:
    require_flag("model_dir", "the directory of a run")
    require_flag("output", "the directory of the model's versions")
    one_of("quantize", FLAGS.quantize, ("none", "float16"))
    one_of("checkpoint", FLAGS.checkpoint, ("best", "last"))
    import_tensorflow()
    from evenkeel.models.export.export import ExportRefused, export

    try:
        pushed = export(
            FLAGS.model_dir, FLAGS.output, FLAGS.quantize, FLAGS.min_accuracy, FLAGS.baseline, FLAGS.checkpoint
        )
    except ExportRefused as refusal:
        print(f"error: {refusal}", file=sys.stderr)
        return REFUSED
    print(f"pushed             {pushed}")
    return 0


COMMAND = cli.Command(main, USAGE, own=("model_dir", "output", "quantize", "min_accuracy", "baseline", "checkpoint"))

if __name__ == "__main__":
    cli.run(COMMAND)
