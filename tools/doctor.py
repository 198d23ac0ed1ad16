"""python -m tools.doctor --model_dir=runs/first: why does this run not train well?"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import sys
import typing

from absl import flags as absl_flags

from evenkeel.models.config import TrainConfig, config_json
from evenkeel.pipeline.errors import UsageError, require
from evenkeel.pipeline.system.atomic_write import write_text
from evenkeel.tools import flags, quiet

if typing.TYPE_CHECKING:
    from evenkeel.models.preflight.lr_range_test import RangeTest
    from evenkeel.models.stability.diagnosis import Finding

FLAGS = absl_flags.FLAGS
USAGE = """
Says why a CNN does not train well, and proves it by controlled replays; or, with --preflight alone, what is wrong with
a run before it starts: data, settings and network, each check in a line (exit code 4 where one says no).

  python -m tools.doctor --model_dir=runs/first
  python -m tools.doctor --model.name=mine.py:network --data.source=/data/pets --fix
  python -m tools.doctor --preflight --preset=cifar --data.source=/data/pets --output=health
"""
UNSOUND = 4
ONLY = "preflight_only"

flags.define(TrainConfig)
absl_flags.DEFINE_string("model_dir", "", "a run to examine: its configuration, incidents and checkpoints")
absl_flags.DEFINE_string(
    "output", "", "where reports go: report.html and diagnosis.json; default --model_dir or runs/doctor-DATE"
)
absl_flags.DEFINE_integer("probe_steps", 300, "steps of the probe and of each replay, at most")
absl_flags.DEFINE_bool("fix", False, "train again with the fix, in OUTPUT/fixed, and compare")
absl_flags.DEFINE_bool(ONLY, False, "what --preflight without a value means: those checks and no replays")


def main(argv: list[str]) -> int:
    require(FLAGS.probe_steps >= 20, f"--probe_steps ({FLAGS.probe_steps}) must be at least 20: fewer show nothing.")
    named = {"model_dir", "preset", "config", ONLY, *(option.name for option in flags.options(TrainConfig))}
    require(
        any(FLAGS[name].present for name in named - {"preflight"}),
        "say what to examine: --model_dir=RUN, or what tools.train would be given, --preset=quick for one.",
    )
    if FLAGS.model_dir and not FLAGS["config"].present:
        FLAGS["config"].parse(os.path.join(FLAGS.model_dir, "config.json"))
    config = flags.config(TrainConfig)
    if FLAGS.print_config:
        print(config_json(config))
        return 0
    only = FLAGS[ONLY].value
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    output = FLAGS.output or FLAGS.model_dir or ("" if only else os.path.join("runs", f"doctor-{now}"))
    if output:
        try:
            os.makedirs(output, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--output ({output}) cannot be made: {error.strerror}; choose another.") from error
    quiet.import_tensorflow()
    return checked(config, output) if only else examined(config, output)


def examined(config: TrainConfig, output: str) -> int:
    import tensorflow as tf

    from evenkeel.models.doctor import runner
    from evenkeel.models.report.report import html
    from evenkeel.models.report.text import text, to_json

    # It warns of models that are compiled again and again; here each is another one.
    tf.get_logger().setLevel("ERROR")
    diagnosis = runner.examine(config, FLAGS.model_dir, output, FLAGS.probe_steps)
    write_text(os.path.join(output, "diagnosis.json"), json.dumps(to_json(diagnosis), indent=2, allow_nan=False) + "\n")
    write_text(os.path.join(output, "report.html"), html(diagnosis) + "\n")
    print(text(diagnosis))
    print(f"report: {os.path.join(output, 'report.html')}")
    if FLAGS.fix:
        print(runner.fixed(config, diagnosis, FLAGS.model_dir, output))
    return 0


def checked(config: TrainConfig, output: str) -> int:
    findings = check(config, output)
    for finding in findings:
        print(f"{'ok' if finding.ok else 'NO':<3} {finding.line}")
    return 0 if all(finding.ok for finding in findings) else UNSOUND


def check(config: TrainConfig, output: str) -> list[Finding]:
    """The findings; they and the range test's picture are written into `output`, where that is given."""
    from PIL import Image

    from evenkeel.models.distribute import strategy
    from evenkeel.models.optim import schedules
    from evenkeel.models.preflight import lr_range_test, preflight
    from evenkeel.models.training import build_model
    from evenkeel.pipeline import dataset

    devices = strategy.create(config.strategy)
    build_model.set_up(config)

    def draw(found: RangeTest) -> None:
        peak = schedules.peak(config.optimizer, config.data.batch_size)
        Image.fromarray(lr_range_test.picture(found, peak)).save(os.path.join(output, "range_test.png"))

    data = dataset.load_dataset(config.data)
    findings = preflight.preflight(config, data, devices, draw if output else None)
    if output:
        with open(os.path.join(output, "preflight.json"), "w") as file:
            # JSON knows no infinity: a number that is not one is written as its name.
            json.dump([plain(finding) for finding in findings], file, indent=2, allow_nan=False)
    return findings


def plain(finding: Finding) -> dict[str, typing.Any]:
    values = dataclasses.asdict(finding)
    finite = lambda value: value if abs(value) < float("inf") else str(value)  # noqa: E731
    return {**values, "evidence": {name: finite(value) for name, value in finding.evidence.items()}}


def as_written(argument: str) -> list[str]:
    """An option of a run takes a value; alone it says what to do."""
    return ["--preflight=full", f"--{ONLY}"] if argument == "--preflight" else [argument]


if __name__ == "__main__":
    sys.argv = [each for argument in sys.argv for each in as_written(argument)]
    flags.run(main, USAGE, TrainConfig, own=("model_dir", "output", "probe_steps", "fix"))
