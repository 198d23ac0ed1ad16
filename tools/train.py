"""python -m tools.train --preset=quick --model_dir=runs/first"""

from __future__ import annotations

import datetime
import os
import sys

from absl import flags as absl_flags

from evenkeel.models.config import TrainConfig, config_json
from evenkeel.tools import flags, quiet

FLAGS = absl_flags.FLAGS
USAGE = """
Trains an image-classification CNN.

  python -m tools.train --preset=quick
  python -m tools.train --preset=cifar --data.source=/data/pets --model_dir=runs/pets --epochs=20
  python -m tools.train --resume --config=runs/pets/config.json --model_dir=runs/pets
"""

OWN = ("model_dir", "resume", "allow_config_change", "overwrite")

flags.define(TrainConfig)
absl_flags.DEFINE_string("model_dir", "", "where the run lives; default runs/PRESET-DATE-TIME")
absl_flags.DEFINE_bool("resume", False, "go on with the run in --model_dir from its newest checkpoint")
absl_flags.DEFINE_bool("allow_config_change", False, "with --resume: the flags need not be those of the run so far")
absl_flags.DEFINE_bool("overwrite", False, "start over in a --model_dir that holds a run")


def main(argv: list[str]) -> int:
    config = flags.config(TrainConfig)
    if FLAGS.print_config:
        print(config_json(config))
        return 0
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    model_dir = FLAGS.model_dir or os.path.join("runs", f"{FLAGS.preset or 'run'}-{now}")
    quiet.import_tensorflow()
    from evenkeel.models.distribute.collective import WorkerLost
    from evenkeel.models.train import train
    from evenkeel.models.training.summary import PREEMPTED, exit_code, text

    try:
        summary = train(config, model_dir, FLAGS.resume, FLAGS.overwrite, FLAGS.allow_config_change)
    except WorkerLost as loss:
        print(f"error: {loss}: start all again, with --resume where they had begun.", file=sys.stderr)
        return PREEMPTED
    print(text(summary, model_dir))
    if "reason" in summary:
        print(f"error: {summary['reason']}", file=sys.stderr)
    return exit_code(summary)


if __name__ == "__main__":
    flags.run(main, USAGE, TrainConfig, OWN)
