"""python -m tools.doctor --preflight --preset=quick"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import typing

from absl import flags as absl_flags

from models.config import TrainConfig, config_json
from pipeline.config import UsageError, require
from tools import flags, quiet

if typing.TYPE_CHECKING:
    from models.diagnosis import Finding
    from models.range_test import RangeTest

FLAGS = absl_flags.FLAGS
USAGE = """
Says what is wrong with a run before it starts: data, settings and network, each check in a line.

  python -m tools.doctor --preflight --preset=quick
  python -m tools.doctor --preflight --config=runs/pets/config.json --output=health

Exit code 4 where a check says no. --preflight=on leaves out the checks that take ten seconds each.
"""
UNSOUND = 4

flags.define(TrainConfig)
absl_flags.DEFINE_string("output", "", "directory for preflight.json and range_test.png")


def main(argv: list[str]) -> int:
    config = flags.config(TrainConfig)
    if FLAGS.print_config:
        print(config_json(config))
        return 0
    require(FLAGS["preflight"].present > 0, "say what to do: --preflight.")
    require(config.preflight != "off", "--preflight=off leaves nothing to do: use --preflight.")
    if FLAGS.output:
        try:
            os.makedirs(FLAGS.output, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--output ({FLAGS.output}) cannot be made: {error.strerror}; choose another.") from error
    quiet.import_tensorflow()
    findings = check(config, FLAGS.output)
    for finding in findings:
        print(f"{'ok' if finding.ok else 'NO':<3} {finding.line}")
    return 0 if all(finding.ok for finding in findings) else UNSOUND


def check(config: TrainConfig, output: str) -> list[Finding]:
    """The findings; they and the range test's picture are written into `output`, where that is given."""
    from PIL import Image

    from models import preflight, range_test, schedules, strategy, train
    from pipeline import opening

    devices = strategy.create(config.strategy)
    train.set_up(config)

    def draw(found: RangeTest) -> None:
        peak = schedules.peak(config.optimizer, config.data.batch_size)
        Image.fromarray(range_test.picture(found, peak)).save(os.path.join(output, "range_test.png"))

    data = opening.open_data(config.data)
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


if __name__ == "__main__":
    # An option of a run takes a value; alone it says what to do.
    sys.argv = ["--preflight=full" if argument == "--preflight" else argument for argument in sys.argv]
    flags.run(main, USAGE, TrainConfig, own=("output",))
