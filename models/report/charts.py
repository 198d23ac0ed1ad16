"""Line charts as inline SVG: axes with round numbers, curves of any length that keep their spikes.

    charts.line_chart([Curve("loss", steps, loss)], "Training loss", "nats", charts.span_axis(steps), Axis.fit(loss))
    charts.linear_ticks(0, 93, 5)  # [0, 20, 40, 60, 80]

A chart is as wide as the element around it, and its text keeps its size: positions are percentages, and only the curves
use a separate coordinate system that is stretched. The page's style sheet sets the colors, by class.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from evenkeel.models.report.markup import element

CHART_COLUMNS = 600  # pixel columns, about a chart's width on a desktop; each keeps its minimum and its maximum
VIEW_BOX_SIZE = 1000  # units of the stretched coordinate system, in both directions
LOG_SCALE_MIN_RATIO = 50.0  # maximum / minimum: a linear axis would squeeze a fiftieth of its range into 4 pixels
LETTER_WIDTH = 0.04  # width of one letter, as a fraction of a chart's width on a phone
MAX_LINEAR_VALUE = 1e300  # linear axes clip larger values, so that ranges stay finite
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """One curve of a chart.

    Attributes:
      name: the name in tooltips and in the text alternative
      x: float64 [n], ascending
      y: float64 [n]; the curve has gaps where it is not finite
      style: a class of the style sheet; "dots" draws separate points
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    style: str = "main"


@dataclasses.dataclass(frozen=True)
class Mark:
    """A vertical line in a chart.

    Attributes:
      x: its position, in units of the x axis
      letter: the letter above the line
      title: the tooltip
    """

    x: float
    letter: str
    title: str


@dataclasses.dataclass(frozen=True)
class Axis:
    """The range of an axis.

    Attributes:
      low: the lower end, finite
      high: the upper end, finite, larger than `low`
      log: whether the axis is logarithmic
      empty: whether there is no finite value to show
    """

    low: float
    high: float
    log: bool = False
    empty: bool = False

    @staticmethod
    def fit(*values: np.ndarray, log: bool | None = None, max_value: float = math.inf) -> Axis:
        """An axis with a margin for all finite `values` up to `max_value`.

        By default (`log=None`) it is logarithmic if no value is negative and the positive ones span more than
        `LOG_SCALE_MIN_RATIO`.
        """
        y = np.concatenate([np.ravel(array) for array in values] or [np.zeros(0)]).astype(np.float64)
        y = np.clip(y[np.isfinite(y)], -MAX_LINEAR_VALUE, min(max_value, MAX_LINEAR_VALUE))
        positive = y[y > 0]
        if log is None:
            log = bool(len(positive)) and bool((y >= 0).all()) and positive.max() / LOG_SCALE_MIN_RATIO > positive.min()
        y = positive if log else y
        if not len(y):
            return Axis(0.0, 1.0, empty=True)
        low, high = float(y.min()), float(y.max())
        if log:
            margin = max(0.04 * (math.log(high) - math.log(low)), 0.05)
            # Clipped to the smallest and the largest float64.
            return Axis(max(low * math.exp(-margin), 5e-324), min(high * math.exp(margin), 1.7e308), log=True)
        if 0 <= low < 0.5 * high:
            low = 0.0
        margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
        return Axis(low - (margin if low else 0.0), high + margin)

    def positions(self, values: np.ndarray) -> np.ndarray:
        """Returns `values` as fractions of the axis, float64: 0 at `low` and 1 at `high`.

        Values that a logarithmic axis cannot show become 0.
        """
        values = np.asarray(values, np.float64)
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return (np.log(np.maximum(values, self.low)) - low) / (high - low)
        return (np.clip(values, -MAX_LINEAR_VALUE, MAX_LINEAR_VALUE) - self.low) / (self.high - self.low)

    def position(self, value: float) -> float:
        """One value as a fraction of the axis."""
        return float(self.positions(np.array(value)))

    def ticks(self, count: int) -> list[float]:
        """About `count` round numbers on the axis."""
        if self.empty:
            return []
        return log_ticks(self.low, self.high, count) if self.log else linear_ticks(self.low, self.high, count)


def span_axis(*x: np.ndarray) -> Axis:
    """A linear axis, such as steps, from the smallest to the largest value of all `x`, without a margin."""
    values = np.concatenate([np.ravel(array) for array in x] or [np.zeros(0)])
    if not len(values):
        return Axis(0.0, 1.0, empty=True)
    low, high = float(values.min()), float(values.max())
    return Axis(low, high) if low < high else Axis(low - 0.5, high + 0.5)


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """At most `count` + 1 multiples of 1, 2, 2.5 or 5 times a power of ten within [low, high]."""
    min_step = max((high - low) / count, 1e-300)
    power = 10.0 ** math.floor(math.log10(min_step))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= min_step * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{multiple * step:.15g}") for multiple in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` powers of ten within [low, high].

    If there are fewer than three such powers, returns multiples of powers by 1, 2 and 5; if there are fewer than two
    such multiples, returns `linear_ticks`.
    """
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    exponents = list(range(first, last + 1))
    if len(exponents) >= 3:
        stride = -(-len(exponents) // count)
        return [_power_of_ten(exponent) for exponent in exponents if exponent % stride == 0]
    multiples = [factor * _power_of_ten(exponent) for exponent in range(first - 1, last + 1) for factor in (1, 2, 5)]
    multiples = [tick for tick in multiples if low <= tick <= high]
    return multiples if len(multiples) >= 2 else linear_ticks(low, high, count)


def format_number(value: float) -> str:
    """A number for people, with three significant digits: 0.02, 20,000, 2.5 times 10⁻⁷."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞" if value > 0 else f"{MINUS}∞"
    size = abs(value)
    if size == 0:
        return "0"
    if 1e-3 <= size < 1e6:
        return (f"{value:,.0f}" if size >= 1000 else f"{value:.3g}").replace("-", MINUS)
    mantissa, exponent = f"{value:.2e}".split("e")
    power = "10" + str(int(exponent)).translate(SUPERSCRIPTS)
    mantissa = f"{float(mantissa):g}".replace("-", MINUS)
    return power if mantissa == "1" else f"{mantissa}{TIMES}{power}"


def decimate(column: np.ndarray, y: np.ndarray, columns: int) -> np.ndarray:
    """Returns ascending indices, int64, of the smallest and the largest finite `y` of each of `columns` pixel columns.

    `column` (int64 [n], not falling) is the column of each point. If there are on average at most two points per
    column, returns the indices of all points, including points that are not finite, where a curve has a gap. Otherwise,
    a column without a finite value keeps its first point.
    """
    if len(y) <= 2 * columns:
        return np.arange(len(y))
    finite = np.isfinite(y)
    indices = []
    for points in np.split(np.arange(len(y)), np.flatnonzero(np.diff(column)) + 1):
        valid = points[finite[points]]
        extremes = {int(valid[y[valid].argmin()]), int(valid[y[valid].argmax()])} if len(valid) else {int(points[0])}
        indices += sorted(extremes)
    return np.array(indices, np.int64)


def path_data(curve: Curve, x_axis: Axis, y_axis: Axis, columns: int = CHART_COLUMNS) -> str:
    """The `d` attribute of a curve's SVG path, in a square of `VIEW_BOX_SIZE`.

    The path has gaps where the curve is not finite; a point between two gaps is a dot.
    """
    positions = x_axis.positions(curve.x)
    indices = decimate(np.floor(positions * columns).astype(np.int64), curve.y, columns)
    finite = np.isfinite(curve.y[indices])
    x = np.rint(VIEW_BOX_SIZE * positions[indices]).astype(int)
    heights = np.clip(y_axis.positions(np.where(finite, curve.y[indices], y_axis.low)), 0, 1)
    y = np.rint(VIEW_BOX_SIZE * (1 - heights)).astype(int)  # SVG's y axis points down
    commands, drawing = [], False
    for i in range(len(indices)):
        if finite[i]:
            lone = not drawing and (i + 1 == len(indices) or not finite[i + 1])
            commands.append(f"{'L' if drawing else 'M'}{x[i]} {y[i]}" + ("h0" if lone else ""))
        drawing = bool(finite[i])
    return "".join(commands)


def find_off_scale_runs(
    curve: Curve, x_axis: Axis, y_axis: Axis, columns: int = CHART_COLUMNS
) -> list[tuple[float, float, str]]:
    """Returns [(start, end, description)] of the stretches where a curve is not finite or lies above the axis.

    Start and end are fractions of the x axis.
    """
    off_scale = ~np.isfinite(curve.y) | (curve.y > y_axis.high)
    if not off_scale.any():
        return []
    indices = np.flatnonzero(off_scale)
    positions = x_axis.positions(curve.x)
    column = np.floor(positions * columns).astype(np.int64)
    # Runs that end in the column in which the next run begins, or in the column before it, look like one run.
    runs = []
    for run in np.split(indices, np.flatnonzero((np.diff(indices) > 1) & (np.diff(column[indices]) > 1)) + 1):
        first, last = curve.x[run[0]], curve.x[run[-1]]
        problem = "above the axis" if np.isfinite(curve.y[run]).all() else "not finite"
        many = f"{len(run)} times, {format_number(first)} to {format_number(last)}"
        steps = f"at step {format_number(first)}" if len(run) == 1 else many
        runs.append((float(positions[run[0]]), float(positions[run[-1]]), f"{curve.name}: {problem} {steps}"))
    return runs


def line_chart(
    curves: Sequence[Curve],
    title: str,
    unit: str,
    x_axis: Axis,
    y_axis: Axis,
    x_label: str = "step",
    marks: Sequence[Mark] = (),
    size: str = "",
    columns: int = CHART_COLUMNS,
) -> Markup:
    """Draws a chart as an <svg> element. Values that are not finite or above the axis are marked at the top edge.

    Args:
      curves: drawn in this order, later ones on top.
      unit: the label of the y axis.
      size: a class of the style sheet: "small", "low" or none.
      columns: pixel columns; each keeps the minimum and the maximum of a curve.
    """
    scale = ", log scale" if y_axis.log else ""
    parts = [element("title", title), *_draw_axes(x_axis, y_axis, f"{unit}{scale}", x_label, size)]
    parts += _draw_marks(marks, x_axis)
    paths = [
        element("path", class_=f"curve {curve.style}", d=path_data(curve, x_axis, y_axis, columns))
        for curve in curves
        if curve.style != "dots" and not y_axis.empty
    ]
    view_box = f"0 0 {VIEW_BOX_SIZE} {VIEW_BOX_SIZE}"
    parts.append(element("svg", *paths, viewBox=view_box, preserveAspectRatio="none", width="100%", height="100%"))
    for curve in curves:
        if curve.style == "dots":
            parts += _draw_dots(curve, x_axis, y_axis)
        for start, end, description in find_off_scale_runs(curve, x_axis, y_axis, columns):
            tooltip = element("title", description)
            parts.append(
                element("line", tooltip, class_=f"off {curve.style}", x1=f"{start:.2%}", x2=f"{end:.2%}", y1=0, y2=0)
            )
    if y_axis.empty:
        parts.append(element("text", "no finite value", class_="none", x="50%", y="50%"))
    kind = f"plot {size}".strip()
    return element("svg", *parts, class_=kind, role="img", aria_label=describe_curves(curves, title))


def describe_curves(curves: Sequence[Curve], title: str) -> str:
    """The text alternative of a chart: the first, smallest, largest and last number of each curve."""
    sentences = []
    for curve in curves:
        finite = curve.y[np.isfinite(curve.y)]
        missing = len(curve.y) - len(finite)
        if len(finite):
            first, low, high, last = map(format_number, (finite[0], finite.min(), finite.max(), finite[-1]))
            sentences.append(f"{curve.name} from {first} to {last}, minimum {low}, maximum {high}")
        if missing:
            sentences.append(f"{curve.name} not finite at {missing} of {len(curve.y)} points")
    return f"{title}: {'; '.join(sentences) or 'nothing to show'}."


def x_tick_labels(ticks: Sequence[tuple[float, float]], label: str) -> list[Markup]:
    """The numbers below a chart and the label of its x axis; `ticks` are (number, fraction of the axis)."""
    numbers = [
        element("text", format_number(number), class_="x", x=f"{position:.2%}", y="100%", dy=18)
        for number, position in ticks
    ]
    return [*numbers, element("text", label, class_="x label", x="100%", y="100%", dy=34)]


def _draw_axes(x_axis: Axis, y_axis: Axis, y_label: str, x_label: str, size: str) -> list[Markup]:
    parts = [element("rect", class_="frame", width="100%", height="100%")]
    for tick in y_axis.ticks(3 if size else 5):
        y = f"{1 - y_axis.position(tick):.2%}"
        parts.append(element("line", class_="grid", x1=0, x2="100%", y1=y, y2=y))
        parts.append(element("text", format_number(tick), class_="y", x=-8, y=y, dy=4))
    parts += x_tick_labels([(tick, x_axis.position(tick)) for tick in x_axis.ticks(3 if size else 4)], x_label)
    parts.append(element("text", y_label, class_="label", x=-8, y=-12 if size else -24))
    return parts


def _draw_marks(marks: Sequence[Mark], x_axis: Axis) -> list[Markup]:
    """A line with a letter for each mark inside the axis.

    If marks are too close for separate letters, the first mark gets the line and all the letters, and the other marks
    get a short line at the bottom. So 500 alarms do not hide the curve.
    """
    parts: list[Markup] = []
    groups: list[tuple[float, list[str]]] = []
    last_drawn = -1.0
    for mark in sorted(marks, key=lambda mark: mark.x):
        x = x_axis.position(mark.x)
        if not 0 <= x <= 1:
            continue
        starts_group = not groups or x - groups[-1][0] > LETTER_WIDTH * len(groups[-1][1])
        if starts_group:
            groups.append((x, []))
        if mark.letter not in groups[-1][1]:
            groups[-1][1].append(mark.letter)
        if starts_group or x - last_drawn >= 1 / CHART_COLUMNS:
            tooltip, top = element("title", mark.title), "0" if starts_group else "92%"
            parts.append(element("line", tooltip, class_="mark", x1=f"{x:.2%}", x2=f"{x:.2%}", y1=top, y2="100%"))
            last_drawn = x
    parts += [element("text", *letters, class_="letter", x=f"{x:.2%}", y=-6) for x, letters in groups]
    return parts


def _draw_dots(curve: Curve, x_axis: Axis, y_axis: Axis) -> list[Markup]:
    if y_axis.empty:
        return []
    x, finite = x_axis.positions(curve.x), np.isfinite(curve.y)
    indices = decimate(np.floor(x * CHART_COLUMNS).astype(np.int64), curve.y, CHART_COLUMNS)
    y = 1 - np.clip(y_axis.positions(np.where(finite, curve.y, y_axis.low)), 0, 1)
    dots = []
    for i in indices[finite[indices]]:
        tooltip = element("title", f"{curve.name} {format_number(curve.y[i])} at {format_number(curve.x[i])}")
        dots.append(element("circle", tooltip, class_="dot", cx=f"{x[i]:.2%}", cy=f"{y[i]:.2%}", r=3.5))
    return dots


def _power_of_ten(exponent: int) -> float:
    return float(f"1e{exponent}")
