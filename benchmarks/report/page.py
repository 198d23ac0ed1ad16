"""Renders a result file as an HTML page: CPU times of evenkeel and of other libraries, with their 95% intervals.

    html = render_page(results.read("result.json"))

The page needs no other files and looks like the report of a run. A table lists the results that have no figure.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from evenkeel.benchmarks.report import tables
from evenkeel.benchmarks.results import Result, ResultFile, short_commit
from evenkeel.models.report import charts, markup
from evenkeel.models.report.charts import Axis, Curve, Mark

TEMPLATES = pathlib.Path(__file__).parent / "templates"
LOSS_AT_RATE = "loss_at_rate"  # a metric of `benchmarks.stability`; its cases are named NETWORK/DATA/RATE
DECODER_STAGE = "decoder"  # TensorFlow's decoder alone, which `benchmarks.speed.stages` measures in addition
OBSERVE_CASES = {
    "observed": "telemetry of every step and histograms, compared with a plain Keras model",
    "guarded": "the guard and layer statistics, compared with telemetry and histograms alone",
    "keras_tensorboard": "Keras's TensorBoard callback, weights only, compared with a plain Keras model",
}


def render_page(report: ResultFile) -> str:
    """Renders `report` as an HTML page, with a section for each suite that has figures."""
    suites: dict[str, list[Result]] = {}
    for result in report.results:
        suites.setdefault(result.suite, []).append(result)
    decoder = {result.case.split("/")[0]: result for result in suites.get("stages", ()) if _is_decoder(result)}
    return markup.render_page(
        "benchmarks.html",
        TEMPLATES,
        machine=_describe_machine(report.environment),
        peers=_peer_figures(suites.get("peers", ()), decoder),
        stages=_stage_figures(suites.get("stages", ())),
        observe=_observe_bars(suites.get("observe", ())),
        # The backticks of Markdown are removed.
        stability=[
            [cell.replace("`", "") for cell in row] for row in tables.stability_rows(suites.get("stability", ()))
        ],
        rates=_rate_figures(suites.get("stability", ())),
        train=[_table_row(result) for result in suites.get("train", ())],
        others=[_table_row(result) for result in report.results if not _has_figure(result)],
        skipped=report.skipped,
        software=_describe_software(report.environment),
    )


def _has_figure(result: Result) -> bool:
    """Whether the section of its suite shows the result."""
    if result.suite in ("peers", "stages"):
        return result.metric == "cpu_ms_per_image"
    if result.suite == "observe":
        return result.metric == "added_cpu_fraction"
    if result.suite == "train":
        return True
    if result.metric == LOSS_AT_RATE:
        return True
    half, *baseline = result.case.split("/")
    rows = tables.STABILITY_ROWS
    metrics = {metric for _, metric, *_ in rows} | {count_metric for _, _, count_metric, _ in rows}
    baselines = {"autotrainer", *(case for *_, cases in rows for case in cases.values())}
    return result.suite == "stability" and half == "heldout" and result.metric in metrics and set(baseline) <= baselines


def _is_decoder(result: Result) -> bool:
    return result.case.endswith(f"/{DECODER_STAGE}")


def _describe_machine(environment: dict[str, Any]) -> str:
    cores = f"{environment.get('cores')} cores of {environment.get('cpu')}"
    return ", ".join([cores, *map(str, environment.get("gpu") or ())])


def _describe_software(environment: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in (environment.get("versions") or {}).items())
    commit = short_commit(str(environment.get("git_commit")))
    return f"Commit {commit}; Python {environment.get('python')}; {versions}; {environment.get('os')}."


def _peer_figures(measured: Sequence[Result], decoder: dict[str, Result]) -> list[dict[str, Any]]:
    """Returns bars of all libraries for each task, fastest first. `decoder` is {task: result of the decoder alone}."""
    tasks: dict[str, list[tuple[str, Result, str]]] = {}
    for result in measured:
        if result.metric == "cpu_ms_per_image":
            peer, task = result.case.split("/", 1)
            bar = (tables.peer_name(peer, task), result, _format_milliseconds(result.median))
            tasks.setdefault(task, []).append(bar)
    figures = []
    for task, bars in tasks.items():
        floor = decoder.get(task)
        note = f"; the line is TensorFlow's decoder alone, {_format_milliseconds(floor.median)}" if floor else ""
        figures.append(
            {
                "title": task,
                "note": f"{tables.TASKS.get(task, '')}; CPU time per image, shorter is better{note}",
                "bars": _interval_bars(sorted(bars, key=lambda bar: bar[1].median), floor),
            }
        )
    return figures


def _stage_figures(measured: Sequence[Result]) -> list[dict[str, Any]]:
    """Returns a waterfall chart for each task: each stage begins where the previous stage ends; the decoder is last."""
    tasks: dict[str, list[tuple[str, Result]]] = {}
    for result in measured:
        task, stage = result.case.split("/", 1)
        tasks.setdefault(task, []).append((stage, result))
    figures = []
    for task, rows in tasks.items():
        stages = [(stage, result) for stage, result in rows if not _is_decoder(result)]
        total = sum(result.median for _, result in stages) or 1.0
        start, bars = 0.0, []
        for stage, result in stages:
            bars.append(_waterfall_bar(stage, result, start, total))
            start += result.median
        bars += [_waterfall_bar("the decoder alone", result, 0.0, total) for _, result in rows if _is_decoder(result)]
        note = f"{_format_milliseconds(total)} of CPU time per image in total"
        figures.append({"title": task, "note": note, "bars": bars})
    return figures


def _observe_bars(measured: Sequence[Result]) -> list[dict[str, Any]]:
    costs = [result for result in measured if result.metric == "added_cpu_fraction"]
    bars = [(OBSERVE_CASES.get(result.case, result.case), result, tables.format_percent(result)) for result in costs]
    return _interval_bars(bars)


def _waterfall_bar(name: str, result: Result, start: float, total: float) -> dict[str, Any]:
    place = f"left:{start / total:.2%};width:{max(0.0, result.median) / total:.2%}"
    return {
        "name": name,
        "value": _format_milliseconds(result.median),
        "highlight": not _is_decoder(result),
        "bar": place,
        "interval": "",
        "mark": "",
    }


def _interval_bars(bars: Iterable[tuple[str, Result, str]], floor: Result | None = None) -> list[dict[str, Any]]:
    """Returns, for each (name, result, text), a bar from 0 to the median, the 95% interval and a mark at `floor`."""
    bars = list(bars)
    longest = max((max(result.median, result.ci95[1]) for _, result, _ in bars), default=1.0) or 1.0
    mark = f"left:{min(1.0, floor.median / longest):.2%}" if floor else ""
    described = []
    for name, result, text in bars:
        low, high = (max(0.0, end) / longest for end in result.ci95)
        described.append(
            {
                "name": name,
                "value": text,
                "highlight": name == tables.OWN_NAME,
                "bar": f"width:{max(0.0, result.median) / longest:.2%}",
                "interval": f"left:{low:.2%};width:{high - low:.2%}",
                "mark": mark,
            }
        )
    return described


def _rate_figures(measured: Sequence[Result]) -> list[dict[str, Any]]:
    """Returns one chart for each network and data set: the final validation loss over the learning rate."""
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for result in measured:
        if result.metric == LOSS_AT_RATE:
            network, data, rate = result.case.split("/")
            curves.setdefault((network, data), []).append((float(rate), result.median))
    stable_rates = {result.case: result.median for result in measured if result.metric == "largest_stable_rate"}
    figures = []
    for (network, data), points in curves.items():
        x, y = np.array(sorted(points)).T
        # All networks on one data set share the y axis.
        losses = [loss for (_, other_data), others in curves.items() if other_data == data for _, loss in others]
        stable_rate = stable_rates.get(f"{network}/{data}", 0.0)
        note = f"largest stable rate {charts.format_number(stable_rate)}" if stable_rate else "no rate is stable"
        chart = charts.line_chart(
            [Curve("loss", x, y), Curve("loss", x, y, "dots")],
            f"{network} on {data}",
            "nats",
            Axis.fit(x, log=True),
            Axis.fit(np.array([0.0, *losses]), log=False),
            x_label="learning rate, log scale",
            marks=[Mark(stable_rate, "", note)] if stable_rate else [],
            size="small",
        )
        note = f"{note}, marked" if stable_rate else note
        figures.append({"title": f"{network} on {data}", "note": note, "chart": chart})
    return figures


def _table_row(result: Result) -> list[str]:
    low, high = map(charts.format_number, result.ci95)
    return [
        result.suite,
        result.case,
        result.metric,
        charts.format_number(result.median),
        f"{low} to {high}",
        result.unit,
        str(len(result.samples)),
    ]


def _format_milliseconds(value: float) -> str:
    """Formats `value`, in milliseconds; below 0.1 ms, in microseconds."""
    return f"{value * 1000:.3g} µs" if value < 0.1 else f"{value:.3g} ms"
