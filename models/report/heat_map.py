"""Heat maps as inline SVG: a row for each layer, from the input on, a column for each look.

    heat_map.draw(values, trace.due, places, "Gradient against weight", log=True)

Cells are pixels of a PNG, so that 100 layers at 500 looks take 50 kB and not 50,000 rectangles.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from evenkeel.models.report import charts

COLUMNS = 240  # as many pixels as a phone has for it: fewer are enlarged, more would be left out at random
LABELLED = 40  # rows; of more, every so manieth is named
NAME, LONG_NAME = 17, 32  # characters of a layer's name that there is room for, on a phone and on a desktop
# Viridis (van der Walt and Smith 2015): monotone in lightness, and alike for the colour-blind; from a tenth of it on,
# so that black is left for zero.
COLOURS = np.array(
    [
        (72, 36, 117),
        (65, 68, 135),
        (53, 95, 141),
        (42, 120, 142),
        (33, 145, 140),
        (34, 168, 132),
        (68, 191, 112),
        (122, 209, 81),
        (189, 223, 38),
        (253, 231, 37),
    ],
    np.float64,
)
ZERO = (0, 0, 0)


def draw(
    values: np.ndarray, steps: np.ndarray, places: Sequence[str], title: str, log: bool = False, legend: str = ""
) -> str:
    """An <svg> of `values` [looks, places] (no negative ones), and the scale of its colours below.

    With `log`, colour goes by the logarithm and zero is black; otherwise by the share from 0 to 1. What is not finite
    is hatched. `steps` [looks] are those looked at.
    """
    axis = charts.Axis.of(values, log=True) if log else charts.Axis(0.0, 1.0)
    shown, of_each = gathered(values, axis)
    rows = shown.shape[1]
    hatch = "hatch-" + "".join(each for each in title.lower() if each.isalnum())
    pattern = f'id="{hatch}" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"'
    cells = png(colours(shown, axis).swapaxes(0, 1))
    parts = [
        f"<title>{escape(title)}</title>",
        f'<defs><pattern {pattern}><line class="hatch" x1="0" x2="0" y1="0" y2="6"/></pattern></defs>',
        f'<rect width="100%" height="100%" fill="url(#{hatch})"/>',
        f'<image width="100%" height="100%" preserveAspectRatio="none" href="{cells}"/>',
        '<rect class="frame" width="100%" height="100%"/>',
    ]
    for row in range(0, rows, -(-rows // LABELLED)):
        for most, kind in ((NAME, "phone"), (LONG_NAME, "desktop")):
            label = f"{escape(shortened(places[row], most))}<title>{escape(places[row])}</title>"
            parts.append(f'<text class="y {kind}" x="-8" y="{(row + 0.5) / rows:.2%}" dy="4">{label}</text>')
    parts.append('<text class="label" x="0" y="-8">from the input on</text>')
    parts += charts.x_ticks(_looks(steps), "step")
    height = min(max(rows * 16, 32), 480)
    said = escape(describe(values, places, title))
    chart = f'<svg class="plot heat" style="height:{height}px" role="img" aria-label="{said}">{"".join(parts)}</svg>'
    note = f"Of every {of_each} looks, the one farthest from the layer's median." if of_each > 1 else ""
    return chart + _scale(axis, hatch, legend or title) + (f'<p class="note">{note}</p>' if note else "")


def gathered(values: np.ndarray, axis: charts.Axis) -> tuple[np.ndarray, int]:
    """At most `COLUMNS` looks, and of how many each is made: per place, the value farthest from the place's median.

    A value that is not finite is farther than any other. Distances are those on the axis.
    """
    looks = len(values)
    of_each = -(-looks // COLUMNS)
    if of_each <= 1:
        return values, 1
    finite = np.isfinite(values)
    at = np.where(finite, axis.at(np.where(finite, values, 0.0)), np.nan)
    middle = np.array([np.median(each[ok]) if ok.any() else 0.0 for each, ok in zip(at.T, finite.T, strict=True)])
    distance = np.where(finite, np.abs(at - middle), np.inf)
    starts = range(0, looks, of_each)
    farthest = np.stack([start + distance[start : start + of_each].argmax(axis=0) for start in starts])
    return np.take_along_axis(values, farthest, axis=0), of_each


def colours(values: np.ndarray, axis: charts.Axis) -> np.ndarray:
    """uint8 [..., 4] of values [...]: nothing is seen of what is not finite."""
    finite = np.isfinite(values)
    plain = np.where(finite, values, axis.low)
    at = np.clip(axis.at(plain), 0, 1)
    stops = np.linspace(0, 1, len(COLOURS))
    rgb = np.stack([np.interp(at, stops, channel) for channel in COLOURS.T], axis=-1)
    if axis.log:
        rgb = np.where((plain <= 0)[..., None], ZERO, rgb)
    return np.concatenate([np.rint(rgb), np.where(finite, 255, 0)[..., None]], axis=-1).astype(np.uint8)


def png(pixels: np.ndarray) -> str:
    """A data: address of uint8 [h, w, 1, 3 or 4]."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)).save(
        file, "PNG", optimize=True
    )
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def shortened(name: str, most: int) -> str:
    """The two ends of a name longer than `most`: what tells layers apart is at either."""
    return name if len(name) <= most else f"{name[: most // 2]}…{name[-((most - 1) // 2) :]}"


def describe(values: np.ndarray, places: Sequence[str], title: str) -> str:
    """What a heat map shows, in words."""
    finite = np.isfinite(values)
    if not finite.any():
        return f"{title}: no finite value in {len(places)} layers."
    low, high = (charts.number(float(each)) for each in (values[finite].min(), values[finite].max()))
    off = f"; {values.size - finite.sum()} of {values.size} are not finite" if not finite.all() else ""
    return f"{title} in {len(places)} layers at {len(values)} looks: least {low}, largest {high}{off}."


def _looks(steps: np.ndarray) -> list[tuple[float, float]]:
    """Round steps and where they lie, 0 to 1: columns are as wide as each other, however far apart the looks are."""
    if not len(steps):
        return []
    axis, middle = charts.span(steps), (np.arange(len(steps)) + 0.5) / len(steps)
    inside = [tick for tick in axis.ticks(3) if steps[0] <= tick <= steps[-1]]
    return [(tick, float(np.interp(tick, steps, middle))) for tick in inside]


def _scale(axis: charts.Axis, hatch: str, label: str) -> str:
    """The bar of colours with its numbers, and what black and hatching mean."""
    stops = "".join(
        f'<stop offset="{at:.2%}" stop-color="rgb{tuple(int(each) for each in colour)}"/>'
        for at, colour in zip(np.linspace(0, 1, len(COLOURS)), COLOURS, strict=True)
    )
    ramp = hatch.replace("hatch", "ramp")
    missing = f'<svg width="14" height="14"><rect width="14" height="14" fill="url(#{hatch})"/></svg>not finite'
    if axis.empty:
        return f'<div class="scale"><span>{escape(label)}</span><span class="key">{missing}</span></div>'
    numbers = "".join(
        f'<text class="x" x="{float(axis.at(np.array(tick))):.2%}" y="10" dy="16">{charts.number(tick)}</text>'
        for tick in axis.ticks(4)
    )
    zero = '<span class="key"><i class="zero"></i>exactly zero</span>' if axis.log else ""
    return (
        f'<div class="scale"><span>{escape(label)}</span><svg class="ramp" role="img" aria-label="colour scale">'
        f'<defs><linearGradient id="{ramp}">{stops}</linearGradient></defs>'
        f'<rect width="100%" height="10" fill="url(#{ramp})"/>{numbers}</svg>'
        f'{zero}<span class="key">{missing}</span></div>'
    )
