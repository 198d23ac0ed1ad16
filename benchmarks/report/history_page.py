"""Renders a benchmark history as an HTML page: one section per machine, and one chart over commits per metric.

html = render_history(history_store.read_history("history"))
"""

from __future__ import annotations

import pathlib
from collections import defaultdict
from typing import Any

import numpy as np

from evenkeel.benchmarks.results import short_commit
from evenkeel.models.report import charts
from evenkeel.models.report.charts import Axis, Curve
from evenkeel.models.report.markup import render_page

TEMPLATES = pathlib.Path(__file__).parent / "templates"
MAX_COMMITS = 8  # number of newest commits that are listed below each chart


def render_history(history: dict[str, list[dict[str, Any]]]) -> str:
    """Renders `history` as an HTML page. Each chart shows the median of one metric and its 95% interval."""
    return render_page("history.html", TEMPLATES, machines=[_describe_machine(lines) for lines in history.values()])


def _describe_machine(lines: list[dict[str, Any]]) -> dict[str, Any]:
    machine = lines[-1]["machine"]
    series = defaultdict(list)
    for number, line in enumerate(lines):
        for result in line["results"]:
            key = (result["suite"], result["case"], result["metric"], result["unit"], result["better"])
            series[key].append((number, result))
    return {
        "hardware": ", ".join([str(machine["cpu"]), f"{machine['cores']} cores", *map(str, machine["gpu"] or ())]),
        "os": machine["os"],
        "count": len(lines),
        "figures": [_metric_figure(lines, key, points) for key, points in sorted(series.items())],
    }


def _metric_figure(
    lines: list[dict[str, Any]], key: tuple[str, ...], points: list[tuple[int, dict[str, Any]]]
) -> dict[str, Any]:
    """Returns the chart of one metric. `points` are pairs (number of the line in `lines`, result)."""
    suite, case, metric, unit, better = key
    x = np.array([number for number, _ in points], np.float64)
    median, low, high = (
        np.array(values, np.float64)
        for values in zip(*((result["median"], *result["ci95"]) for _, result in points), strict=True)
    )
    curves = [
        Curve("lower end", x, low, "base"),
        Curve("upper end", x, high, "base"),
        Curve("median", x, median),
        Curve("median", x, median, "dots"),
    ]
    y_axis = Axis.fit(low, high, log=False)
    title = f"{suite} {case} {metric}"
    return {
        "metric": metric,
        "note": f"{suite}, {case}; {better} is better",
        "chart": charts.line_chart(curves, title, unit, charts.span_axis(x), y_axis, x_label="result", size="small"),
        "commits": [
            {
                "number": number,
                "commit": short_commit(str(lines[number]["commit"])),
                "date": lines[number]["time"][:10],
                "median": f"{charts.format_number(result['median'])} {unit}",
            }
            for number, result in reversed(points[-MAX_COMMITS:])
        ],
    }
