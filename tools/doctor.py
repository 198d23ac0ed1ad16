"""python -m tools.doctor --model_dir=runs/first: why does this run not train well?"""

from __future__ import annotations

import datetime
import json
import os

from absl import flags as absl_flags

from models.config import TrainConfig
from pipeline.config import require
from tools import flags, quiet

FLAGS = absl_flags.FLAGS
USAGE = """
Says why a CNN does not train well, and proves it by controlled replays.

  python -m tools.doctor --model_dir=runs/first
  python -m tools.doctor --preset=cifar --data.source=/data/pets --optimizer.learning_rate=3
  python -m tools.doctor --model.name=mine.py:network --data.source=/data/pets --fix
"""

flags.define(TrainConfig)
absl_flags.DEFINE_string("model_dir", "", "a run to examine: its configuration, incidents and checkpoints")
absl_flags.DEFINE_string(
    "output", "", "where report.html and diagnosis.json go; default --model_dir or runs/doctor-DATE"
)
absl_flags.DEFINE_integer("probe_steps", 300, "steps of the probe and of each replay, at most")
absl_flags.DEFINE_bool("fix", False, "train again with the fix, in OUTPUT/fixed, and compare")


def main(argv: list[str]) -> int:
    require(FLAGS.probe_steps >= 20, f"--probe_steps ({FLAGS.probe_steps}) must be at least 20: fewer show nothing.")
    if FLAGS.model_dir and not FLAGS["config"].present:
        FLAGS["config"].parse(os.path.join(FLAGS.model_dir, "config.json"))
    config = flags.config(TrainConfig)
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    output = FLAGS.output or FLAGS.model_dir or os.path.join("runs", f"doctor-{now}")
    quiet.import_tensorflow()
    from models import examination
    from models.report import html
    from models.report_text import text, to_json
    from models.run_directory import write

    os.makedirs(output, exist_ok=True)
    diagnosis = examination.examine(config, FLAGS.model_dir, output, FLAGS.probe_steps)
    write(os.path.join(output, "diagnosis.json"), json.dumps(to_json(diagnosis), indent=2, allow_nan=False))
    write(os.path.join(output, "report.html"), html(diagnosis))
    print(text(diagnosis))
    print(f"report: {os.path.join(output, 'report.html')}")
    if FLAGS.fix:
        print(examination.fixed(config, diagnosis, FLAGS.model_dir, output))
    return 0


if __name__ == "__main__":
    flags.run(main, USAGE, TrainConfig, own=("model_dir", "output", "probe_steps", "fix"))
