"""The figures of a diagnosis: curves and alarms of the run, heat maps of its layers, and its replays side by side.

Each function returns the values of one section of report.html, or None if the diagnosis has no data for it.
"""

from __future__ import annotations

import math
import re
import shlex
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from evenkeel.models.report import charts, heat_map
from evenkeel.models.report.charts import Axis, Curve, Mark, format_number
from evenkeel.models.report.verdict import replays_by_accuracy
from evenkeel.models.report.wording import capitalize, format_count, to_words
from evenkeel.models.stability import detectors
from evenkeel.models.stability.diagnosis import Diagnosis, Replay, command_line
from evenkeel.models.stability.trace import Alarm, first_loss

MIN_STEPS_TO_SMOOTH = 100  # curves with fewer steps are drawn without a running median
SMOOTHING_STEPS = 32  # window of the running median, as in detectors.stall
MAX_LOSS_RATIO = 10.0  # times the first loss; the axis ends here, because an exploding replay would flatten all others
REPLAY_COLUMNS = 240  # pixel columns of a replay's chart
MAX_REPLAYS = 8  # replays that are shown; the others are folded
MAX_LISTED_STEPS = 12  # steps listed for one kind of alarm

Key = tuple[str, str]  # (class of the style sheet, name), an entry of a legend


def run_figures(diagnosis: Diagnosis) -> dict[str, Any] | None:
    """Returns charts of the loss (with alarms marked), the gradient norm and the learning rate over the run's steps."""
    trace = diagnosis.trace
    if not len(trace.steps):
        return None
    x_axis = charts.span_axis(trace.steps, trace.validated)
    kinds = dict.fromkeys(alarm.kind for alarm in diagnosis.alarms)
    letters = dict(zip(kinds, string.ascii_uppercase + string.ascii_lowercase, strict=False))
    loss = _figure("Loss", *_loss_chart(diagnosis, x_axis, letters))
    norm = Curve("gradient norm", trace.steps, trace.gradient_norm)
    rate = Curve("learning rate", trace.steps, trace.learning_rate)
    alarms = format_count(len(diagnosis.alarms), "alarm") if diagnosis.alarms else "no alarm"
    return {
        "lead": f"{format_count(len(trace.steps), 'step')}, {trace.steps[0]:,} to {trace.steps[-1]:,}; {alarms}.",
        "loss": loss,
        "alarms": [_describe_alarms(kind, letter, diagnosis.alarms) for kind, letter in letters.items()],
        "others": [
            _single_curve_figure("Gradient norm", norm, "Euclidean norm", x_axis, Axis.fit(norm.y, log=True), ""),
            _single_curve_figure("Learning rate", rate, "learning rate", x_axis, Axis.fit(rate.y, log=False), "low"),
        ],
    }


def layer_figures(diagnosis: Diagnosis) -> dict[str, Any] | None:
    """Returns a heat map and a table for each layer statistic: relative gradients and updates, dead and saturated."""
    trace = diagnosis.trace
    layers = {name: values for name, values in trace.layers.items() if values.ndim == 2 and values.size}
    maps = []
    with np.errstate(all="ignore"):
        if {"gradient_norm", "weight_norm"} <= set(layers):
            ratio = layers["gradient_norm"] / np.maximum(layers["weight_norm"], 1e-12)
            maps.append(("Gradient against weight", ratio, True, "gradient / weight norm", diagnosis.places))
        if {"update_norm", "weight_norm"} <= set(layers):
            ratio = layers["update_norm"] / np.maximum(layers["weight_norm"], 1e-12)
            maps.append(("Update against weight", ratio, True, "update / weight norm", diagnosis.places))
    maps += [
        (title, layers[name], False, legend, diagnosis.activations)
        for name, title, legend in (
            ("dead", "Dead channels", "share of channels"),
            ("saturated", "Saturated values", "share of values"),
        )
        if name in layers and np.isfinite(layers[name]).any()
    ]
    if not maps:
        return None
    figures, tables = [], []
    for title, values, log, legend, known_names in maps:
        names = _row_names(known_names, values.shape[1])
        figures.append(_figure(title, heat_map.draw_heat_map(values, trace.due, names, title, log, legend)))
        tables.append({"title": title, "rows": _statistics_rows(values, names)})
    return {"samples": format_count(len(trace.due), "sampled step"), "figures": figures, "tables": tables}


def replay_figures(diagnosis: Diagnosis) -> dict[str, Any] | None:
    """Returns a chart for each replay of its loss and the unchanged run's, on the same axes; most accurate first."""
    if len(diagnosis.replays) < 2:
        return None
    unchanged = diagnosis.replays[0]
    losses = [replay.loss for replay in diagnosis.replays]
    first_losses = [first_loss(loss) for loss in losses if np.isfinite(loss).any()]
    x_axis = charts.span_axis(*(np.arange(len(loss)) for loss in losses))
    # On a linear axis up to `MAX_LOSS_RATIO` times the first loss, the relevant curves would fill a tenth of the chart.
    log = all((loss[np.isfinite(loss)] > 0).all() for loss in losses) or None
    max_loss = MAX_LOSS_RATIO * float(np.median(first_losses)) if first_losses else math.inf
    y_axis = Axis.fit(*losses, log=log, max_value=max_loss)
    figures = [_replay_figure(replay, unchanged, x_axis, y_axis) for replay in replays_by_accuracy(diagnosis)]
    keys: list[Key] = [("base", "unchanged"), ("main", "with the change")]
    if any(replay.generic for replay in diagnosis.replays):
        keys.append(("control", "control: it calms any run, so it explains none"))
    if any((~np.isfinite(loss) | (loss > y_axis.high)).any() for loss in losses):
        keys.append(("off", "not finite, or above the axis"))
    return {
        "unchanged": f"{describe_accuracy(unchanged, None)}; loss {format_number(unchanged.validation_loss)}",
        "legend": keys,
        "shown": figures[:MAX_REPLAYS],
        "folded": figures[MAX_REPLAYS:],
    }


def describe_accuracy(replay: Replay, unchanged: Replay | None) -> str:
    """Describes the accuracy of a replay, and the difference to the unchanged run in percentage points."""
    if not math.isfinite(replay.accuracy):
        return "no accuracy"
    accuracy = f"accuracy {replay.accuracy:.1%}"
    if unchanged is None or not math.isfinite(unchanged.accuracy):
        return accuracy
    return f"{accuracy} ({100 * (replay.accuracy - unchanged.accuracy):+.1f} points)".replace("-", charts.MINUS)


def _figure(title: str, chart: str, keys: Sequence[Key] = ()) -> dict[str, Any]:
    """Returns a chart with its title and legend; the legend is empty if the main curve is the only one."""
    needs_legend = len(keys) > 1 or any(style != "main" for style, _ in keys)
    return {"title": title, "chart": chart, "legend": keys if needs_legend else ()}


def _loss_chart(diagnosis: Diagnosis, x_axis: Axis, letters: dict[str, str]) -> tuple[str, list[Key]]:
    trace = diagnosis.trace
    marks = [
        Mark(alarm.step, letters[alarm.kind], f"{to_words(alarm.kind)}, step {alarm.step}")
        for alarm in diagnosis.alarms
    ]
    curves = _smooth("training loss", trace.steps, trace.loss)
    keys = [(curve.style, curve.name) for curve in curves]
    if len(trace.validated):
        curves.append(Curve("validation loss", trace.validated, trace.validation_loss, "dots"))
        keys.append(("dots", "validation loss"))
    y_axis = Axis.fit(trace.loss, trace.validation_loss)
    if any(charts.find_off_scale_runs(curve, x_axis, y_axis) for curve in curves):
        keys.append(("off", "not finite"))
    if marks:
        keys.append(("mark", "alarm"))
    return charts.line_chart(curves, "Loss", "loss in nats", x_axis, y_axis, marks=marks), keys


def _single_curve_figure(title: str, curve: Curve, unit: str, x_axis: Axis, y_axis: Axis, size: str) -> dict[str, Any]:
    keys = [("off", "not finite")] if charts.find_off_scale_runs(curve, x_axis, y_axis) else []
    return _figure(title, charts.line_chart([curve], title, unit, x_axis, y_axis, size=size), keys)


def _smooth(name: str, steps: np.ndarray, values: np.ndarray) -> list[Curve]:
    """Returns the curve and, from `MIN_STEPS_TO_SMOOTH` steps on, the running median of its finite values."""
    if len(values) < MIN_STEPS_TO_SMOOTH:
        return [Curve(name, steps, values)]
    finite = np.where(np.isfinite(values), values, np.nan)
    windows = sliding_window_view(np.concatenate([np.full(SMOOTHING_STEPS - 1, np.nan), finite]), SMOOTHING_STEPS)
    medians = np.full(len(values), np.nan)
    medians[np.isfinite(finite)] = np.nanmedian(windows[np.isfinite(finite)], axis=1)
    return [Curve(name, steps, values, "raw"), Curve(f"median of the last {SMOOTHING_STEPS} steps", steps, medians)]


def _describe_alarms(kind: str, letter: str, alarms: Sequence[Alarm]) -> dict[str, str]:
    """Describes one kind of alarm: its letter in the chart, its steps, its rule, and the numbers of the first alarm."""
    alarms = [alarm for alarm in alarms if alarm.kind == kind]
    steps = ", ".join(f"{alarm.step:,}" for alarm in alarms[:MAX_LISTED_STEPS])
    if len(alarms) > MAX_LISTED_STEPS:
        steps += f" and {len(alarms) - MAX_LISTED_STEPS} more"
    numbers = ", ".join(f"{to_words(name)} {format_number(value)}" for name, value in alarms[0].evidence.items())
    return {
        "letter": letter,
        "kind": capitalize(to_words(kind)),
        "steps": steps,
        "rule": _detector_rule(kind),
        "numbers": numbers,
    }


def _detector_rule(kind: str) -> str:
    """The first line of the detector's docstring, with the values of its constants instead of their names."""
    detector = detectors.STANDALONE.get(kind) or detectors.CORROBORATED.get(kind)
    line = (detector.__doc__ or "").split("\n")[0] if detector else ""
    return re.sub("`([A-Z_]+)`", lambda name: format_number(getattr(detectors, name[1])), line)


def _row_names(names: Sequence[str], count: int) -> list[str]:
    """Returns `names`, or numbered activations if the number of names is not `count`."""
    return list(names) if len(names) == count else [f"activation {number}" for number in range(1, count + 1)]


def _statistics_rows(values: np.ndarray, names: Sequence[str]) -> list[list[str]]:
    """Returns [name, first, minimum, median, maximum, last] for each layer of `values` [samples, layers]."""
    rows = []
    for name, series in zip(names, values.T, strict=True):
        finite = series[np.isfinite(series)]
        median = float(np.median(finite)) if len(finite) else math.nan
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (math.nan, math.nan)
        numbers = (float(series[0]), low, median, high, float(series[-1]))
        rows.append([name, *map(format_number, numbers)])
    return rows


def _replay_figure(replay: Replay, unchanged: Replay, x_axis: Axis, y_axis: Axis) -> dict[str, Any]:
    curves = [
        Curve("unchanged", np.arange(len(unchanged.loss)), unchanged.loss, "base"),
        Curve(replay.name, np.arange(len(replay.loss)), replay.loss, "control" if replay.generic else "main"),
    ]
    return {
        "title": capitalize(replay.name),
        "control": replay.generic,
        "chart": charts.line_chart(
            curves, replay.name, "loss in nats", x_axis, y_axis, size="small", columns=REPLAY_COLUMNS
        ),
        "accuracy": capitalize(describe_accuracy(replay, unchanged)),
        "loss": format_number(replay.validation_loss),
        "flags": shlex.join(command_line(replay.flags)),
    }
