"""Results kept over commits: a file of lines for each machine, and the page that plots them.

    add(results.read("result.json"), "history")
    html = show(read("history"))

A line is written once and never changed. Numbers of two machines are never in one curve: what a machine is, is told by
its CPU, cores and GPUs. A newer kernel or driver makes it no other one.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
from collections import defaultdict
from html import escape
from typing import Any

import numpy as np

from evenkeel.benchmarks.results import Report, short
from evenkeel.models.report import charts
from evenkeel.models.report.charts import Axis, Curve
from evenkeel.models.report.style import page
from evenkeel.pipeline.errors import UsageError, require

MACHINE = ("cpu", "cores", "gpu", "os")
NAMED = 8  # newest commits listed below each curve


def fingerprint(environment: dict[str, Any]) -> str:
    """12 hexadecimal digits that results of one machine share."""
    gpus = [str(gpu).partition(",")[0] for gpu in environment.get("gpu") or ()]  # without the driver's version
    machine = [environment.get("cpu"), environment.get("cores"), gpus]
    return hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:12]


def add(report: Report, directory: str) -> str:
    """Writes the report's line; the file it went to. It is on disk, whole, before this returns.

    Raises:
      UsageError: it cannot be written.
    """
    line = {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": report.environment.get("git_commit"),
        "machine": {name: report.environment.get(name) for name in MACHINE},
        "results": [
            {**dataclasses.asdict(each), "samples": len(each.samples), "median": each.median, "ci95": each.ci95}
            for each in report.results
        ],
    }
    path = os.path.join(directory, f"{fingerprint(report.environment)}.jsonl")
    try:
        os.makedirs(directory, exist_ok=True)
        with open(path, "ab+") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)  # what a kill cut short would spoil the line behind it
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(f"--history ({directory}) cannot be written: {error.strerror}; choose another.") from error
    return path


def read(directory: str) -> dict[str, list[dict[str, Any]]]:
    """{fingerprint: its lines, oldest first}; what a kill cut short at the end of a file is left out.

    Raises:
      UsageError: there is no such directory or no line in it, or a line is none.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(pathlib.Path(directory).glob("*.jsonl")):
        text = path.read_text(encoding="utf-8")
        try:
            lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        except ValueError as error:
            raise UsageError(f"{path} is no history ({error}): mend or remove it.") from error
        for line in lines:
            found.setdefault(fingerprint(line["machine"]), []).append(line)
    require(bool(found), f"--history ({directory}) holds no lines yet: add a result file first.")
    return found


def show(history: dict[str, list[dict[str, Any]]]) -> str:
    """The page: a section for each machine, in it a chart for each metric, the interval around its median."""
    sections = "".join(_machine(lines) for lines in history.values())
    return page("evenkeel: benchmarks over commits", f"<h1>Benchmarks over commits</h1>{sections}")


def _machine(lines: list[dict[str, Any]]) -> str:
    machine = lines[-1]["machine"]
    gpus = "".join(f", {gpu}" for gpu in machine["gpu"] or ())
    points = defaultdict(list)
    for number, line in enumerate(lines):
        for each in line["results"]:
            points[each["suite"], each["case"], each["metric"], each["unit"], each["better"]].append((number, each))
    figures = "".join(_figure(lines, name, of) for name, of in sorted(points.items()))
    head = f"{escape(str(machine['cpu']))}, {machine['cores']} cores{escape(gpus)}"
    return (
        f'<section><h2>{head}</h2><p class="lead">{escape(str(machine["os"]))}; {len(lines)} results.</p>'
        f'<div class="multiples">{figures}</div></section>'
    )


def _figure(lines: list[dict[str, Any]], name: tuple[str, ...], points: list[tuple[int, dict[str, Any]]]) -> str:
    suite, case, metric, unit, better = name
    x = np.array([number for number, _ in points], np.float64)
    median, low, high = (
        np.array(values, np.float64)
        for values in zip(*((each["median"], *each["ci95"]) for _, each in points), strict=True)
    )
    curves = [Curve("lower end", x, low, "base"), Curve("upper end", x, high, "base"), Curve("median", x, median)]
    curves.append(Curve("median", x, median, "dots"))
    title = f"{suite} {case} {metric}"
    y_axis = Axis.of(low, high, log=False)
    drawn = charts.line_chart(curves, title, unit, charts.span(x), y_axis, x_label="result", size="small")
    newest = "".join(
        f"<li>{number}: <code>{escape(short(str(lines[number]['commit'])))}</code>,"
        f" {escape(lines[number]['time'][:10])}: {charts.number(each['median'])} {escape(unit)}</li>"
        for number, each in points[-NAMED:][::-1]
    )
    return (
        f"<figure><figcaption>{escape(metric)}</figcaption>"
        f'<p class="note">{escape(suite)}, {escape(case)}; {better} is better</p>{drawn}'
        f'<details><summary class="soft">commits</summary><ul class="evidence">{newest}</ul></details></figure>'
    )
