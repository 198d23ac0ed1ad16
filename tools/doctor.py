"""evenkeel doctor --model_dir=runs/first: why does this run not train well?"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import sys
import typing

from absl import flags

from evenkeel.models.config import TrainConfig, config_json
from evenkeel.pipeline.errors import UsageError, require
from evenkeel.pipeline.system.atomic_write import write_text
from evenkeel.tools import cli
from evenkeel.tools.flags import config_from_flags, define_flags, options
from evenkeel.tools.tensorflow_import import import_tensorflow

if typing.TYPE_CHECKING:
    from evenkeel.models.preflight.lr_range_test import RangeTestResult
    from evenkeel.models.stability.diagnosis import Diagnosis, Finding

FLAGS = flags.FLAGS
USAGE = """
Finds out why a CNN does not train well, and proves the cause by controlled replays. With --preflight_only it checks
data, settings and network before a run starts, prints a line for each check, and exits with 4 if a check fails.

  evenkeel doctor --model_dir=runs/first
  evenkeel doctor --model.name=mine.py:network --data.source=/data/pets --fix
  evenkeel doctor --preflight_only --preset=cifar --data.source=/data/pets --output=health
"""
CHECK_FAILED = 4  # exit code
OWN = ("model_dir", "output", "probe_steps", "budget", "fix", "preflight_only")

define_flags(TrainConfig)
flags.DEFINE_string("model_dir", "", "directory of the run to examine: its configuration, incidents and checkpoints")
flags.DEFINE_string(
    "output", "", "directory for report.html and diagnosis.json; default: --model_dir or runs/doctor-DATE"
)
flags.DEFINE_integer(
    "probe_steps",
    300,
    "maximum number of steps of the probe and of each replay; more if a batch has 16 images or fewer",
)
flags.DEFINE_float("budget", 0.0, "minutes of CPU time for all replays; 0: ten times the time of the probe")
flags.DEFINE_bool("fix", False, "train again with the fix, in OUTPUT/fixed, and compare")
flags.DEFINE_bool(
    "preflight_only", False, "run only the checks before training: all of them, or those that --preflight names"
)


def main(argv: list[str]) -> int:
    require(
        FLAGS.probe_steps >= 20, f"--probe_steps ({FLAGS.probe_steps}) must be at least 20: fewer steps show nothing."
    )
    require(FLAGS.budget >= 0, f"--budget ({FLAGS.budget:g}) must be 0 or more minutes.")
    named = {*OWN, "preset", "config", *(option.name for option in options(TrainConfig))}
    require(
        any(FLAGS[name].present for name in named - {"preflight", "preflight_only"}),
        "say what to examine: --model_dir=RUN, or flags of evenkeel train such as --preset=quick.",
    )
    if FLAGS.model_dir and not FLAGS["config"].present:
        FLAGS["config"].parse(os.path.join(FLAGS.model_dir, "config.json"))
    config = config_from_flags(TrainConfig)
    if FLAGS.preflight_only and not FLAGS["preflight"].present:
        config = dataclasses.replace(config, preflight="full")
    if FLAGS.print_config:
        print(config_json(config))
        return 0
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    output = FLAGS.output or FLAGS.model_dir
    if not output and not FLAGS.preflight_only:
        output = os.path.join("runs", f"doctor-{now}")
    if output:
        try:
            os.makedirs(output, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"--output ({output}) cannot be created: {error.strerror}; choose another path."
            ) from error
    import_tensorflow()
    return run_preflight(config, output) if FLAGS.preflight_only else run_diagnosis(config, output)


def run_diagnosis(config: TrainConfig, output: str) -> int:
    import tensorflow as tf

    from evenkeel.models.doctor import runner
    from evenkeel.models.report.text import render_text

    # TensorFlow warns of functions that are traced repeatedly; here each trace is for a different model.
    tf.get_logger().setLevel("ERROR")
    last = None

    def update(diagnosis: Diagnosis, line: str) -> None:
        nonlocal last
        last = diagnosis
        write_report(dataclasses.replace(diagnosis, source=f"{diagnosis.source} (unfinished)"), output)
        print(line, file=sys.stderr)

    try:
        diagnosis = runner.diagnose_run(
            config, FLAGS.model_dir, output, FLAGS.probe_steps, FLAGS.budget * 60 or None, update
        )
    except KeyboardInterrupt:
        if last is None:
            raise
        print(f"{render_text(last)}\nstopped: the report rests on the replays until now", flush=True)
        print(f"report: {os.path.join(output, 'report.html')}", flush=True)
        raise
    write_report(diagnosis, output)
    print(render_text(diagnosis))
    print(f"report: {os.path.join(output, 'report.html')}")
    if FLAGS.fix:
        print(runner.train_with_fix(config, diagnosis, FLAGS.model_dir, output))
    return 0


def write_report(diagnosis: Diagnosis, output: str) -> None:
    """Writes diagnosis.json and report.html; each is whole at any time."""
    from evenkeel.models.report.diagnosis_json import to_json as diagnosis_to_json
    from evenkeel.models.report.page import render_html

    values = json.dumps(diagnosis_to_json(diagnosis), indent=2, allow_nan=False)
    write_text(os.path.join(output, "diagnosis.json"), values + "\n")
    write_text(os.path.join(output, "report.html"), render_html(diagnosis) + "\n")


def run_preflight(config: TrainConfig, output: str) -> int:
    findings = check(config, output)
    for finding in findings:
        print(f"{'ok' if finding.ok else 'FAIL':<4} {finding.line}")
    return 0 if all(finding.ok for finding in findings) else CHECK_FAILED


def check(config: TrainConfig, output: str) -> list[Finding]:
    """Runs the preflight checks; writes preflight.json and range_test.png into `output` if it is not empty."""
    from PIL import Image

    from evenkeel.models.distribute import strategy
    from evenkeel.models.optim import schedules
    from evenkeel.models.preflight import lr_range_test, preflight
    from evenkeel.models.training import build_model
    from evenkeel.pipeline import dataset

    devices = strategy.create_strategy(config.strategy)
    build_model.configure_process(config)

    def draw(result: RangeTestResult) -> None:
        peak = schedules.peak_learning_rate(config.optimizer, config.data.batch_size)
        Image.fromarray(lr_range_test.draw_curve(result, peak)).save(os.path.join(output, "range_test.png"))

    data = dataset.load_dataset(config.data)
    findings = preflight.run_checks(config, data, devices, draw if output else None)
    if output:
        with open(os.path.join(output, "preflight.json"), "w") as file:
            # JSON has no infinity and no NaN: these values are written as strings.
            json.dump([to_json(finding) for finding in findings], file, indent=2, allow_nan=False)
    return findings


def to_json(finding: Finding) -> dict[str, typing.Any]:
    values = dataclasses.asdict(finding)
    finite = lambda value: value if abs(value) < float("inf") else str(value)  # noqa: E731
    return {**values, "evidence": {name: finite(value) for name, value in finding.evidence.items()}}


COMMAND = cli.Command(
    main,
    USAGE,
    TrainConfig,
    OWN,
    common=(*OWN, "preset", "config", "data.source", "data.image_size", "model.name"),
)

if __name__ == "__main__":
    cli.run(COMMAND)
