"""python -m tools.prepare --source=/data/pets --output=/data/pets-256 --tier=jpeg:256:90"""

from __future__ import annotations

import sys
from typing import Any

from absl import flags as absl_flags

from evenkeel.pipeline.config import PrepareConfig
from evenkeel.tools import flags, quiet

FLAGS = absl_flags.FLAGS
USAGE = """
Stores images the way training reads them fastest, and says what is in them.

  python -m tools.prepare --source=/data/pets --output=/data/pets-256 --tier=jpeg:256:90
  python -m tools.prepare --source=/data/pets --output=/data/pets-raw --tier=raw:256 --outliers=drop
  python -m tools.train --data.source=/data/pets-256

A run that was stopped goes on when it is started again.
"""
ANOMALIES = 4

flags.define(PrepareConfig, presets=False)
absl_flags.DEFINE_string("output", "", "the directory to write: any TFDS reader opens it")
absl_flags.DEFINE_bool("overwrite", False, "replace an --output that was prepared otherwise")


def main(argv: list[str]) -> int:
    config = flags.config(PrepareConfig, presets=False)
    flags.need("output", "the directory to write")
    quiet.import_tensorflow()
    from evenkeel.pipeline.prepare.prepare import prepare

    summary = prepare(config, FLAGS.output, FLAGS.overwrite)
    print(text(summary, FLAGS.output))
    counts = summary["anomalies"]
    too_bad = counts["error"] + (counts["warning"] if config.severity == "warning" else 0)
    if too_bad:
        print(f"error: {too_bad} anomalies; see {FLAGS.output}/anomalies.pbtxt", file=sys.stderr)
    return ANOMALIES if too_bad else 0


def text(summary: dict[str, Any], output: str) -> str:
    """What a person wants to know of a prepared data set, a line each."""
    shown = lambda counts: ", ".join(f"{name} {count}" for name, count in counts.items())  # noqa: E731
    numbers = lambda values: " ".join(f"{value:.2f}" for value in values)  # noqa: E731
    lines = {
        "images": f"{shown(summary['images'])}; {summary['shards']} shards, {summary['bytes'] / 2**20:.1f} MiB",
        "left out": f"{summary['left_out']} (quarantine.csv)",
        "mean, deviation": f"{numbers(summary['mean'])}, {numbers(summary['std'])}",
        "outliers": f"{shown(summary['outliers'])} (outliers.csv, outliers.png); {summary['dropped']} dropped",
        "duplicates": f"{shown(summary['duplicates'])} (duplicates.csv)",
        "anomalies": f"{shown(summary['anomalies'])} (anomalies.pbtxt)",
        "train with": f"--data.source={output}",
    }
    return "\n".join([f"{name:<18} {line}" for name, line in lines.items()] + summary["anomaly_lines"])


if __name__ == "__main__":
    flags.run(main, USAGE, PrepareConfig, own=("output", "overwrite"), presets=False)
