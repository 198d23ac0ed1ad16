"""evenkeel train: trains a CNN."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import sys

from absl import flags

from evenkeel.models.config import TrainConfig, config_json
from evenkeel.pipeline.errors import require
from evenkeel.pipeline.system.printable import one_line
from evenkeel.tools import cli
from evenkeel.tools.flags import config_from_flags, define_flags
from evenkeel.tools.tensorflow_import import import_tensorflow

FLAGS = flags.FLAGS
USAGE = """
Trains an image-classification CNN.

  evenkeel train --preset=quick
  evenkeel train --preset=cifar --data.source=/data/pets --model_dir=runs/pets --epochs=20
  evenkeel train --resume --config=runs/pets/config.json --model_dir=runs/pets
"""

OWN = ("model_dir", "resume", "allow_config_change", "allow_data_change", "overwrite", "evaluate_test")
COMMON = (
    "preset",
    "data.source",
    "data.image_size",
    "batch_size",
    "epochs",
    "model.name",
    "optimizer.learning_rate",
    "guard",
    "model_dir",
    "resume",
)

define_flags(TrainConfig)
flags.DEFINE_string("model_dir", "", "directory of the run; default runs/PRESET-DATE-TIME")
flags.DEFINE_bool("resume", False, "continue the run in --model_dir from its newest checkpoint")
flags.DEFINE_bool("allow_config_change", False, "with --resume: allow flags that differ from the run's")
flags.DEFINE_bool("allow_data_change", False, "with --resume: allow images that differ from the run's")
flags.DEFINE_bool("overwrite", False, "delete the run that --model_dir holds and start again")
flags.DEFINE_bool("evaluate_test", False, "after training, evaluate the best checkpoint on the test split")


def main(argv: list[str]) -> int:
    config = config_from_flags(TrainConfig)
    if FLAGS.print_config:
        print(config_json(config))
        return 0
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    model_dir = FLAGS.model_dir or os.path.join("runs", f"{FLAGS.preset or 'run'}-{now}")
    import_tensorflow()
    from evenkeel.models.distribute.collective import WorkerLost
    from evenkeel.models.run.summary import EXIT_PREEMPTED, exit_code, format_text
    from evenkeel.models.train import train

    if FLAGS.evaluate_test:
        check_test_split(config)
    try:
        summary = train(
            config, model_dir, FLAGS.resume, FLAGS.overwrite, FLAGS.allow_config_change, FLAGS.allow_data_change
        )
    except WorkerLost as loss:
        print(f"error: {loss}: start all workers again, with --resume if training had begun.", file=sys.stderr)
        return EXIT_PREEMPTED
    print(format_text(summary, model_dir))
    if FLAGS.evaluate_test and summary["status"] in ("completed", "stopped_early"):
        print(evaluate_test(model_dir))
    if "reason" in summary:
        print(f"error: {one_line(summary['reason'])}", file=sys.stderr)
    return exit_code(summary)


def check_test_split(config: TrainConfig) -> None:
    """Raises `UsageError` before training if the data has no test split, or if it serves as validation."""
    from evenkeel.pipeline.dataset import load_dataset

    test = dataclasses.replace(config.data, validation_split="test", fold="")
    require(
        load_dataset(test).validation_split != load_dataset(config.data).validation_split,
        "--evaluate_test: the test split serves as validation, because there is no other: add a validation split, or"
        " hold images out with --data.fold=1/10.",
    )


def evaluate_test(model_dir: str) -> str:
    """Evaluates the best checkpoint of a run on its test split; a line for the terminal, the numbers in test.json."""
    from evenkeel.models.evaluation import evaluate_run
    from evenkeel.pipeline.system.atomic_write import write_text

    found = evaluate_run(model_dir, split="test")
    numbers = {"accuracy": found.accuracy, "loss": found.loss, "images": int(found.matrix.sum()), **found.scores}
    write_text(os.path.join(model_dir, "test.json"), json.dumps(numbers, indent=2) + "\n")
    return f"{'test':<18} accuracy {found.accuracy:.4f}  loss {found.loss:.4f}  {found.matrix.sum():.0f} images"


COMMAND = cli.Command(main, USAGE, TrainConfig, OWN, COMMON)

if __name__ == "__main__":
    cli.run(COMMAND)
