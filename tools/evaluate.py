"""python -m tools.evaluate --model_dir=runs/first"""

from __future__ import annotations

from absl import flags as absl_flags

from evenkeel.pipeline.errors import one_of
from evenkeel.tools import flags, quiet

FLAGS = absl_flags.FLAGS
USAGE = """
Evaluates a run's model on its validation split: accuracy, precision and recall per class, confusion matrix.

  python -m tools.evaluate --model_dir=runs/first
"""

absl_flags.DEFINE_string("model_dir", "", "the run")
absl_flags.DEFINE_string("checkpoint", "best", "best (validation accuracy) | last")
absl_flags.DEFINE_string("split", "", "another split than the run's validation split, TFDS syntax")


def main(argv: list[str]) -> int:
    flags.need("model_dir", "the directory of a run")
    one_of("checkpoint", FLAGS.checkpoint, ("best", "last"))
    quiet.import_tensorflow()
    from evenkeel.models.evaluation import evaluate_run, text

    print(text(evaluate_run(FLAGS.model_dir, FLAGS.checkpoint, FLAGS.split)))
    return 0


if __name__ == "__main__":
    flags.run(main, USAGE, own=("model_dir", "checkpoint", "split"))
