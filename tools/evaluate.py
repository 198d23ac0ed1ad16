"""evenkeel evaluate: measures a trained model."""

from __future__ import annotations

from absl import flags

from evenkeel.pipeline.errors import one_of
from evenkeel.tools import cli
from evenkeel.tools.flags import require_flag
from evenkeel.tools.tensorflow_import import import_tensorflow

FLAGS = flags.FLAGS
USAGE = """
Evaluates a run's model on its validation split: accuracy, precision and recall per class, confusion matrix.

  evenkeel evaluate --model_dir=runs/first
"""

flags.DEFINE_string("model_dir", "", "directory of the run")
flags.DEFINE_string("checkpoint", "best", "best (validation accuracy) | last")
flags.DEFINE_string("split", "", "split to evaluate, in TFDS syntax; default: the run's validation split")


def main(argv: list[str]) -> int:
    require_flag("model_dir", "the directory of a run")
    one_of("checkpoint", FLAGS.checkpoint, ("best", "last"))
    import_tensorflow()
    from evenkeel.models.evaluation import evaluate_run, format_text

    print(format_text(evaluate_run(FLAGS.model_dir, FLAGS.checkpoint, FLAGS.split)))
    return 0


COMMAND = cli.Command(main, USAGE, own=("model_dir", "checkpoint", "split"))

if __name__ == "__main__":
    cli.run(COMMAND)
