"""A result file in other tools' formats.

    python -m benchmarks.export result.json --format=bencher --output=bmf.json
    python -m benchmarks.export result.json --format=github --output=benchmarks   # benchmarks-lower.json, -higher.json

bencher: Bencher Metric Format. github: the two custom tools of github-action-benchmark, each of which takes metrics of
one direction: `customSmallerIsBetter` the file -lower.json, `customBiggerIsBetter` -higher.json.
"""

from __future__ import annotations

import json
from typing import Any

from absl import flags

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.results import Report
from evenkeel.pipeline.errors import one_of, require

FLAGS = flags.FLAGS
flags.DEFINE_string("format", "bencher", "bencher | github")
flags.DEFINE_string("output", "", "file to write; of github, what the names of its two files begin with")


def main(argv: list[str]) -> int:
    require(len(argv) == 2, "give one result file: python -m benchmarks.export result.json --output=FILE")
    one_of("format", FLAGS.format, ("bencher", "github"))
    require(bool(FLAGS.output), "--output is missing: give the file to write.")
    report = results.read(argv[1])
    if FLAGS.format == "bencher":
        command.write("output", FLAGS.output, as_text(bencher(report)))
    else:
        for better in ("lower", "higher"):
            path, entries = f"{FLAGS.output}-{better}.json", github(report, better)
            if entries:
                command.write("output", path, as_text(entries))
            else:  # the action takes no empty file
                print(f"{path} is not written: no metric is better {better}.")
    return 0


def as_text(document: Any) -> str:
    return json.dumps(document, indent=1) + "\n"


def bencher(report: Report) -> dict[str, dict[str, dict[str, float]]]:
    """{benchmark: {measure: {value, lower_value, upper_value}}}, as https://bencher.dev/bmf.json has it."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for each in report.results:
        low, high = each.ci95
        values = {"value": each.median, "lower_value": low, "upper_value": high}
        found.setdefault(f"{each.suite}/{each.case}", {})[each.metric] = values
    return found


def github(report: Report, better: str) -> list[dict[str, Any]]:
    """[{name, unit, value, range, extra}] of the metrics that are better `lower` or `higher`."""
    where = f"{report.environment.get('cpu')}, {report.environment.get('cores')} cores"
    entries = []
    for each in report.results:
        if each.better == better:
            low, high = each.ci95
            entries.append(
                {
                    "name": f"{each.suite}/{each.case}/{each.metric}",
                    "unit": each.unit,
                    "value": each.median,
                    "range": f"{low:.4g} to {high:.4g}",
                    "extra": f"n = {len(each.samples)}; {where}; commit {report.environment.get('git_commit')}",
                }
            )
    return entries


if __name__ == "__main__":
    command.run(main)
