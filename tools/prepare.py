"""evenkeel prepare: stores images in the form that training reads fastest."""

from __future__ import annotations

import sys
from typing import Any

from absl import flags

from evenkeel.pipeline.config import PrepareConfig
from evenkeel.tools import cli
from evenkeel.tools.flags import config_from_flags, define_flags, require_flag
from evenkeel.tools.tensorflow_import import import_tensorflow

FLAGS = flags.FLAGS
USAGE = """
Stores images in the form that training reads fastest, and reports on them: statistics, anomalies, outliers, duplicates.

  evenkeel prepare --source=/data/pets --output=/data/pets-256 --tier=jpeg:256:90
  evenkeel prepare --source=/data/pets --output=/data/pets-raw --tier=raw:256 --outliers=drop
  evenkeel train --data.source=/data/pets-256

An interrupted run continues when the same command is run again.
"""
ANOMALIES_FOUND = 4  # exit code

define_flags(PrepareConfig, presets=False)
flags.DEFINE_string("output", "", "directory to write; any TFDS reader opens it")
flags.DEFINE_bool("overwrite", False, "replace an --output that was prepared with other options")


def main(argv: list[str]) -> int:
    config = config_from_flags(PrepareConfig, presets=False)
    require_flag("output", "the directory to write")
    import_tensorflow()
    from evenkeel.pipeline.prepare.prepare import prepare

    summary = prepare(config, FLAGS.output, FLAGS.overwrite)
    print(summary_text(summary, FLAGS.output))
    counts = summary["anomalies"]
    failures = counts["error"] + (counts["warning"] if config.severity == "warning" else 0)
    if failures:
        print(
            f"error: found {failures} anomalies, listed in {FLAGS.output}/anomalies.pbtxt: correct the data or the"
            " schema.",
            file=sys.stderr,
        )
    return ANOMALIES_FOUND if failures else 0


def summary_text(summary: dict[str, Any], output: str) -> str:
    """The summary of a prepared data set, a line for each topic."""
    list_counts = lambda counts: ", ".join(f"{name} {count}" for name, count in counts.items())  # noqa: E731
    list_numbers = lambda values: " ".join(f"{value:.2f}" for value in values)  # noqa: E731
    lines = {
        "images": f"{list_counts(summary['images'])}; {summary['shards']} shards, {summary['bytes'] / 2**20:.1f} MiB",
        "left out": f"{summary['left_out']} (quarantine.csv)",
        "mean, deviation": f"{list_numbers(summary['mean'])}, {list_numbers(summary['std'])}",
        "outliers": f"{list_counts(summary['outliers'])} (outliers.csv, outliers.png); {summary['dropped']} dropped",
        "duplicates": f"{list_counts(summary['duplicates'])} (duplicates.csv)",
        "near duplicates": f"{list_counts(summary['near_duplicates'])} (near_duplicates.csv, near_duplicates.png)",
        "anomalies": f"{list_counts(summary['anomalies'])} (anomalies.pbtxt)",
        "train with": f"--data.source={output}",
    }
    return "\n".join([f"{name:<18} {line}" for name, line in lines.items()] + summary["anomaly_lines"])


COMMAND = cli.Command(main, USAGE, PrepareConfig, own=("output", "overwrite"), presets=False)

if __name__ == "__main__":
    cli.run(COMMAND)
