"""Converts a result file to the formats of other tools.

    python -m benchmarks.export result.json --format=bencher --output=bmf.json
    python -m benchmarks.export result.json --format=github --output=benchmarks   # benchmarks-lower.json, -higher.json

`bencher` writes the Bencher Metric Format. `github` writes one file for each of the two custom tools of
github-action-benchmark: -lower.json for `customSmallerIsBetter`, -higher.json for `customBiggerIsBetter`.
"""

from __future__ import annotations

import json
from typing import Any

from absl import flags

from evenkeel.benchmarks import command, results
from evenkeel.benchmarks.results import ResultFile
from evenkeel.pipeline.errors import one_of, require

FLAGS = flags.FLAGS
flags.DEFINE_string("format", "bencher", "bencher | github")
flags.DEFINE_string("output", "", "file to write; for github, the start of the names of its two files")


def main(argv: list[str]) -> int:
    require(len(argv) == 2, "give one result file: python -m benchmarks.export result.json --output=FILE")
    one_of("format", FLAGS.format, ("bencher", "github"))
    require(bool(FLAGS.output), "--output is missing: give the file to write.")
    report = results.read(argv[1])
    if FLAGS.format == "bencher":
        command.write_output("output", FLAGS.output, to_json(to_bencher(report)))
    else:
        for better in ("lower", "higher"):
            path, entries = f"{FLAGS.output}-{better}.json", to_github(report, better)
            if entries:
                command.write_output("output", path, to_json(entries))
            else:  # the action rejects an empty file
                print(f"{path} is not written: the results have no metric for which {better} is better.")
    return 0


def to_json(document: Any) -> str:
    return json.dumps(document, indent=1) + "\n"


def to_bencher(report: ResultFile) -> dict[str, dict[str, dict[str, float]]]:
    """Returns {benchmark: {measure: {value, lower_value, upper_value}}}, as https://bencher.dev/bmf.json defines it."""
    benchmarks: dict[str, dict[str, dict[str, float]]] = {}
    for result in report.results:
        low, high = result.ci95
        values = {"value": result.median, "lower_value": low, "upper_value": high}
        benchmarks.setdefault(f"{result.suite}/{result.case}", {})[result.metric] = values
    return benchmarks


def to_github(report: ResultFile, better: str) -> list[dict[str, Any]]:
    """Returns [{name, unit, value, range, extra}] one for each metric with this value of `better`."""
    machine = f"{report.environment.get('cpu')}, {report.environment.get('cores')} cores"
    entries = []
    for result in report.results:
        if result.better == better:
            low, high = result.ci95
            entries.append(
                {
                    "name": f"{result.suite}/{result.case}/{result.metric}",
                    "unit": result.unit,
                    "value": result.median,
                    "range": f"{low:.4g} to {high:.4g}",
                    "extra": f"n = {len(result.samples)}; {machine}; commit {report.environment.get('git_commit')}",
                }
            )
    return entries


if __name__ == "__main__":
    command.run(main, positional=True)
