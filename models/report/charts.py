"""Line charts as inline SVG: axes with round numbers, curves of any length that keep their spikes.

    charts.line_chart([Curve("loss", steps, loss)], "Training loss", "nats", charts.span(steps), charts.Axis.of(loss))
    charts.ticks(0, 93, 5)  # [0, 20, 40, 60, 80]

A chart is as wide as its place and its text is not scaled with it: positions are percentages, and only curves lie in a
coordinate system of their own, which is stretched. Colours come from the page's style sheet, by class.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from html import escape

import numpy as np

COLUMNS = 600  # of which a chart shows the least and the largest value each: about its pixels on a desktop
UNITS = 1000  # of the stretched coordinate system, either way
LOG_FROM = 50.0  # largest / smallest value: a linear axis would hide a fiftieth of it in 4 pixels
LETTER = 0.04  # of the width of a chart on a phone, that a letter takes
HUGE = 1e300  # clips what is linear, so that ranges stay finite
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """float64 `x` and `y` [n] under a name; `style` is a class of the style sheet, `dots` for points not joined."""

    name: str
    x: np.ndarray
    y: np.ndarray
    style: str = "main"


@dataclasses.dataclass(frozen=True)
class Mark:
    """A vertical line at `x` with a `letter` above it; `title` says what it is."""

    x: float
    letter: str
    title: str


@dataclasses.dataclass(frozen=True)
class Axis:
    """From `low` to `high`, both finite and `low` < `high`; logarithmic if `log`. `empty` if there is no number."""

    low: float
    high: float
    log: bool = False
    empty: bool = False

    @staticmethod
    def of(*values: np.ndarray, log: bool | None = None, most: float = math.inf) -> Axis:
        """Of all finite `values` up to `most`, with some air; by default logarithmic where they span `LOG_FROM`."""
        y = np.concatenate([np.ravel(each) for each in values] or [np.zeros(0)]).astype(np.float64)
        y = np.clip(y[np.isfinite(y)], -HUGE, min(most, HUGE))
        positive = y[y > 0]
        if log is None:
            log = bool(len(positive)) and bool((y >= 0).all()) and positive.max() / LOG_FROM > positive.min()
        y = positive if log else y
        if not len(y):
            return Axis(0.0, 1.0, empty=True)
        low, high = float(y.min()), float(y.max())
        if log:
            air = max(0.04 * (math.log(high) - math.log(low)), 0.05)
            # Within the smallest and the largest number there is.
            return Axis(max(low * math.exp(-air), 5e-324), min(high * math.exp(air), 1.7e308), log=True)
        if 0 <= low < 0.5 * high:
            low = 0.0
        air = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
        return Axis(low - (air if low else 0.0), high + air)

    def at(self, values: np.ndarray) -> np.ndarray:
        """Their places, 0 at `low` and 1 at `high`; what a logarithmic axis cannot show lies at 0."""
        values = np.asarray(values, np.float64)
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            return (np.log(np.maximum(values, self.low)) - low) / (high - low)
        return (np.clip(values, -HUGE, HUGE) - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[float]:
        """Round numbers on it, about `most`."""
        if self.empty:
            return []
        return log_ticks(self.low, self.high, most) if self.log else ticks(self.low, self.high, most)


def span(*x: np.ndarray) -> Axis:
    """From the first to the last of `x`: an axis of steps."""
    every = np.concatenate([np.ravel(each) for each in x] or [np.zeros(0)])
    if not len(every):
        return Axis(0.0, 1.0, empty=True)
    low, high = float(every.min()), float(every.max())
    return Axis(low, high) if low < high else Axis(low - 0.5, high + 0.5)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 1 multiples of 1, 2, 2.5 or 5 times a power of ten within [low, high]."""
    rough = max((high - low) / most, 1e-300)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{count * step:.15g}") for count in range(first, last + 1)]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Powers of ten within [low, high], thinned out to `most`; where there are few, 1-2-5, or as on a linear axis."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    decades = list(range(first, last + 1))
    if len(decades) >= 3:
        every = -(-len(decades) // most)
        return [_power(decade) for decade in decades if decade % every == 0]
    finer = [factor * _power(decade) for decade in range(first - 1, last + 1) for factor in (1, 2, 5)]
    finer = [tick for tick in finer if low <= tick <= high]
    return finer if len(finer) >= 2 else ticks(low, high, most)


def number(value: float) -> str:
    """As a person writes it: 0.02, 20,000, 2 times 10⁻⁷."""
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


def thin(column: np.ndarray, y: np.ndarray, columns: int) -> np.ndarray:
    """int64: where, in each of `columns`, the least and the largest finite `y` are, in the order of time.

    `column` (int64 [n], not falling) is the one of each point. All points are kept where there are at most two for
    each column, those that are not finite included: there a curve has a gap. Otherwise, a column without any finite
    value keeps one of them.
    """
    if len(y) <= 2 * columns:
        return np.arange(len(y))
    finite = np.isfinite(y)
    kept = []
    for part in np.split(np.arange(len(y)), np.flatnonzero(np.diff(column)) + 1):
        whole = part[finite[part]]
        kept += sorted({int(whole[y[whole].argmin()]), int(whole[y[whole].argmax()])}) if len(whole) else [int(part[0])]
    return np.array(kept, np.int64)


def path(curve: Curve, x_axis: Axis, y_axis: Axis, columns: int = COLUMNS) -> str:
    """The `d` of an SVG path in a square of `UNITS`: gaps where the curve is not finite, a dot for a lone point."""
    x = x_axis.at(curve.x)
    kept = thin(np.floor(x * columns).astype(np.int64), curve.y, columns)
    finite = np.isfinite(curve.y[kept])
    right = np.rint(UNITS * x[kept]).astype(int)
    y = np.clip(y_axis.at(np.where(finite, curve.y[kept], y_axis.low)), 0, 1)
    down = np.rint(UNITS * (1 - y)).astype(int)
    parts, drawing = [], False
    for at in range(len(kept)):
        if finite[at]:
            lone = not drawing and (at + 1 == len(kept) or not finite[at + 1])
            parts.append(f"{'L' if drawing else 'M'}{right[at]} {down[at]}" + ("h0" if lone else ""))
        drawing = bool(finite[at])
    return "".join(parts)


def off_scale(curve: Curve, x_axis: Axis, y_axis: Axis, columns: int = COLUMNS) -> list[tuple[float, float, str]]:
    """Where a curve is not finite or above the axis: (from, to, in words), places on the x axis, runs put together."""
    off = ~np.isfinite(curve.y) | (curve.y > y_axis.high)
    if not off.any():
        return []
    at = np.flatnonzero(off)
    x = x_axis.at(curve.x)
    column = np.floor(x * columns).astype(np.int64)
    # Runs that end in the column in which the next begins, or beside it, look like one.
    runs = np.split(at, np.flatnonzero((np.diff(at) > 1) & (np.diff(column[at]) > 1)) + 1)
    found = []
    for run in runs:
        first, last = curve.x[run[0]], curve.x[run[-1]]
        what = "above the axis" if np.isfinite(curve.y[run]).all() else "not finite"
        steps = f"at step {number(first)}" if len(run) == 1 else f"{len(run)} times, {number(first)} to {number(last)}"
        found.append((float(x[run[0]]), float(x[run[-1]]), f"{curve.name}: {what} {steps}"))
    return found


def line_chart(
    curves: Sequence[Curve],
    title: str,
    unit: str,
    x_axis: Axis,
    y_axis: Axis,
    x_label: str = "step",
    marks: Sequence[Mark] = (),
    size: str = "",
    columns: int = COLUMNS,
) -> str:
    """An <svg>. `unit` labels the y axis; `size` is a class of the style sheet; the first curves lie lowest.

    What is not finite, or lies above the axis, is marked on its top edge.
    """
    scale = ", log scale" if y_axis.log else ""
    parts = [f"<title>{escape(title)}</title>", *_axes(x_axis, y_axis, f"{unit}{scale}", x_label, size)]
    parts += _marks(marks, x_axis)
    drawn = "".join(
        f'<path class="curve {curve.style}" d="{path(curve, x_axis, y_axis, columns)}"/>'
        for curve in curves
        if curve.style != "dots" and not y_axis.empty
    )
    parts.append(
        f'<svg viewBox="0 0 {UNITS} {UNITS}" preserveAspectRatio="none" width="100%" height="100%">{drawn}</svg>'
    )
    for curve in curves:
        if curve.style == "dots":
            parts += _dots(curve, x_axis, y_axis)
        for first, last, what in off_scale(curve, x_axis, y_axis, columns):
            parts.append(
                f'<line class="off {curve.style}" x1="{first:.2%}" x2="{last:.2%}" y1="0" y2="0">'
                f"<title>{escape(what)}</title></line>"
            )
    if y_axis.empty:
        parts.append('<text class="none" x="50%" y="50%">no finite value</text>')
    kind = f"plot {size}".strip()
    return f'<svg class="{kind}" role="img" aria-label="{escape(describe(curves, title))}">{"".join(parts)}</svg>'


def describe(curves: Sequence[Curve], title: str) -> str:
    """What a chart shows, in words: of each curve the first, least, largest and last number."""
    said = []
    for curve in curves:
        finite = curve.y[np.isfinite(curve.y)]
        off = len(curve.y) - len(finite)
        if len(finite):
            first, low, high, last = map(number, (finite[0], finite.min(), finite.max(), finite[-1]))
            said.append(f"{curve.name} from {first} to {last}, least {low}, largest {high}")
        if off:
            said.append(f"{curve.name} not finite at {off} of {len(curve.y)} points")
    return f"{title}: {'; '.join(said) or 'nothing to show'}."


def _axes(x_axis: Axis, y_axis: Axis, y_label: str, x_label: str, size: str) -> list[str]:
    parts = ['<rect class="frame" width="100%" height="100%"/>']
    for tick in y_axis.ticks(3 if size else 5):
        y = 1 - float(y_axis.at(np.array(tick)))
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{y:.2%}" y2="{y:.2%}"/>')
        parts.append(f'<text class="y" x="-8" y="{y:.2%}" dy="4">{number(tick)}</text>')
    parts += x_ticks([(tick, float(x_axis.at(np.array(tick)))) for tick in x_axis.ticks(3 if size else 4)], x_label)
    parts.append(f'<text class="label" x="-8" y="{-12 if size else -24}">{escape(y_label)}</text>')
    return parts


def x_ticks(places: Sequence[tuple[float, float]], label: str) -> list[str]:
    """Numbers below a chart at their places, 0 to 1, and what they count."""
    parts = [f'<text class="x" x="{x:.2%}" y="100%" dy="18">{number(tick)}</text>' for tick, x in places]
    return [*parts, f'<text class="x label" x="100%" y="100%" dy="34">{escape(label)}</text>']


def _marks(marks: Sequence[Mark], x_axis: Axis) -> list[str]:
    """Lines with letters; of those too near for a letter of their own only the foot, and the letter beside the first's.

    So that 500 alarms do not hide the curve.
    """
    parts: list[str] = []
    groups: list[tuple[float, list[str]]] = []
    drawn = -1.0
    for mark in sorted(marks, key=lambda mark: mark.x):
        x = float(x_axis.at(np.array(mark.x)))
        if not 0 <= x <= 1:
            continue
        begins = not groups or x - groups[-1][0] > LETTER * len(groups[-1][1])
        if begins:
            groups.append((x, []))
        if mark.letter not in groups[-1][1]:
            groups[-1][1].append(mark.letter)
        if begins or x - drawn >= 1 / COLUMNS:
            title, top = f"<title>{escape(mark.title)}</title>", "0" if begins else "92%"
            parts.append(f'<line class="mark" x1="{x:.2%}" x2="{x:.2%}" y1="{top}" y2="100%">{title}</line>')
            drawn = x
    parts += [f'<text class="letter" x="{x:.2%}" y="-6">{escape("".join(letters))}</text>' for x, letters in groups]
    return parts


def _dots(curve: Curve, x_axis: Axis, y_axis: Axis) -> list[str]:
    if y_axis.empty:
        return []
    x, finite = x_axis.at(curve.x), np.isfinite(curve.y)
    kept = thin(np.floor(x * COLUMNS).astype(np.int64), curve.y, COLUMNS)
    y = 1 - np.clip(y_axis.at(np.where(finite, curve.y, y_axis.low)), 0, 1)
    return [
        f'<circle class="dot" cx="{x[at]:.2%}" cy="{y[at]:.2%}" r="3.5">'
        f"<title>{escape(curve.name)} {number(curve.y[at])} at {number(curve.x[at])}</title></circle>"
        for at in kept
        if finite[at]
    ]


def _power(decade: int) -> float:
    return float(f"1e{decade}")
