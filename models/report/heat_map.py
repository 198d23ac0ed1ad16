"""Heat maps as inline SVG: one row per layer, the first layer on top, and one column per sampled step.

    heat_map.draw_heat_map(values, steps, layer_names, "Gradient against weight", log=True)

The cells are the pixels of a PNG, so that 100 layers at 500 steps take 50 kB instead of 50,000 rectangles.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from PIL import Image

from evenkeel.models.report import charts
from evenkeel.models.report.markup import element, join

MAX_COLUMNS = (
    240  # about the map's pixels on a phone: fewer columns are enlarged, but browsers drop some if there are more
)
MAX_LABELED_ROWS = 40  # with more rows, every second (third ...) one is labeled
PHONE_LABEL_LENGTH, DESKTOP_LABEL_LENGTH = 17, 32  # characters of a layer's name that fit
# Viridis (van der Walt and Smith 2015): monotone in lightness, and the same to color-blind readers. It starts at a
# tenth of the original scale, so that only zero is black.
VIRIDIS = np.array(
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
ZERO_COLOR = (0, 0, 0)


def draw_heat_map(
    values: np.ndarray, steps: np.ndarray, names: Sequence[str], title: str, log: bool = False, legend: str = ""
) -> Markup:
    """Returns an <svg> of `values`, with the color scale below. Values that are not finite are hatched.

    Args:
      values: float64 [samples, layers], not negative.
      steps: int64 [samples], the sampled steps.
      names: the layers' names, from the input on.
      log: whether color follows the logarithm, with black for zero; otherwise it follows the share from 0 to 1.
      legend: the label of the color scale; the title by default.
    """
    axis = charts.Axis.fit(values, log=True) if log else charts.Axis(0.0, 1.0)
    columns, samples_per_column = reduce_columns(values, axis)
    rows = columns.shape[1]
    hatch_id = "hatch-" + "".join(character for character in title.lower() if character.isalnum())
    hatch_line = element("line", class_="hatch", x1=0, x2=0, y1=0, y2=6)
    hatch = element(
        "pattern",
        hatch_line,
        id=hatch_id,
        width=6,
        height=6,
        patternUnits="userSpaceOnUse",
        patternTransform="rotate(45)",
    )
    cells = png_data_url(to_rgba(columns, axis).swapaxes(0, 1))
    parts = [
        element("title", title),
        element("defs", hatch),
        element("rect", width="100%", height="100%", fill=f"url(#{hatch_id})"),
        element("image", width="100%", height="100%", preserveAspectRatio="none", href=cells),
        element("rect", class_="frame", width="100%", height="100%"),
    ]
    for row in range(0, rows, -(-rows // MAX_LABELED_ROWS)):
        tooltip, y = element("title", names[row]), f"{(row + 0.5) / rows:.2%}"
        for max_length, device in ((PHONE_LABEL_LENGTH, "phone"), (DESKTOP_LABEL_LENGTH, "desktop")):
            parts.append(
                element("text", shorten(names[row], max_length), tooltip, class_=f"y {device}", x=-8, y=y, dy=4)
            )
    parts.append(element("text", "from the input on", class_="label", x=0, y=-8))
    parts += charts.x_tick_labels(_step_ticks(steps), "step")
    style = f"height:{min(max(rows * 16, 32), 480)}px"
    chart = element(
        "svg", *parts, class_="plot heat", style=style, role="img", aria_label=describe_heat_map(values, names, title)
    )
    scale = _color_scale(axis, hatch_id, legend or title)
    if samples_per_column == 1:
        return join([chart, scale])
    note = f"Each column shows the one of {samples_per_column} samples that is farthest from the layer's median."
    return join([chart, scale, element("p", note, class_="note")])


def reduce_columns(values: np.ndarray, axis: charts.Axis) -> tuple[np.ndarray, int]:
    """Returns (values, float64 [at most `MAX_COLUMNS`, layers]; the number of samples in each column).

    In each column, a layer keeps the sample with the largest distance on the axis from the layer's median. A value that
    is not finite counts as the farthest.
    """
    samples = len(values)
    per_column = -(-samples // MAX_COLUMNS)
    if per_column <= 1:
        return values, 1
    finite = np.isfinite(values)
    positions = np.where(finite, axis.positions(np.where(finite, values, 0.0)), np.nan)
    medians = np.array(
        [np.median(layer[valid]) if valid.any() else 0.0 for layer, valid in zip(positions.T, finite.T, strict=True)]
    )
    distance = np.where(finite, np.abs(positions - medians), np.inf)
    starts = range(0, samples, per_column)
    farthest = np.stack([start + distance[start : start + per_column].argmax(axis=0) for start in starts])
    return np.take_along_axis(values, farthest, axis=0), per_column


def to_rgba(values: np.ndarray, axis: charts.Axis) -> np.ndarray:
    """Returns the colors of `values` [...], uint8 [..., 4]; values that are not finite are transparent."""
    finite = np.isfinite(values)
    filled = np.where(finite, values, axis.low)
    positions = np.clip(axis.positions(filled), 0, 1)
    stops = np.linspace(0, 1, len(VIRIDIS))
    rgb = np.stack([np.interp(positions, stops, channel) for channel in VIRIDIS.T], axis=-1)
    if axis.log:
        rgb = np.where((filled <= 0)[..., None], ZERO_COLOR, rgb)
    return np.concatenate([np.rint(rgb), np.where(finite, 255, 0)[..., None]], axis=-1).astype(np.uint8)


def png_data_url(pixels: np.ndarray) -> str:
    """A data: URL of the pixels as a PNG; `pixels` is uint8 [h, w, 1, 3 or 4]."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)).save(
        file, "PNG", optimize=True
    )
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def shorten(name: str, max_length: int) -> str:
    """Shortens a name to `max_length` characters; keeps both ends, because the names of layers differ there."""
    return name if len(name) <= max_length else f"{name[: max_length // 2]}…{name[-((max_length - 1) // 2) :]}"


def describe_heat_map(values: np.ndarray, names: Sequence[str], title: str) -> str:
    """The text alternative of a heat map: its smallest and largest number, and how many are not finite."""
    finite = np.isfinite(values)
    if not finite.any():
        return f"{title}: no finite value in {len(names)} layers."
    low, high = (charts.format_number(float(value)) for value in (values[finite].min(), values[finite].max()))
    missing = f"; {values.size - finite.sum()} of {values.size} are not finite" if not finite.all() else ""
    size = f"layers: {len(names)}, sampled steps: {len(values)}"
    return f"{title} ({size}): minimum {low}, maximum {high}{missing}."


def _step_ticks(steps: np.ndarray) -> list[tuple[float, float]]:
    """Returns [(round step, fraction of the width)]; all columns have the same width, however many steps apart."""
    if not len(steps):
        return []
    axis, centers = charts.span_axis(steps), (np.arange(len(steps)) + 0.5) / len(steps)
    ticks = [tick for tick in axis.ticks(3) if steps[0] <= tick <= steps[-1]]
    return [(tick, float(np.interp(tick, steps, centers))) for tick in ticks]


def _color_scale(axis: charts.Axis, hatch_id: str, label: str) -> Markup:
    """The color bar with its numbers, and the keys for zero (black) and for values that are not finite (hatched)."""
    swatch = element("svg", element("rect", width=14, height=14, fill=f"url(#{hatch_id})"), width=14, height=14)
    parts = [element("span", label)]
    if not axis.empty:
        gradient_id = hatch_id.replace("hatch", "ramp")
        stops = [
            element("stop", offset=f"{position:.2%}", stop_color=f"rgb{tuple(int(channel) for channel in color)}")
            for position, color in zip(np.linspace(0, 1, len(VIRIDIS)), VIRIDIS, strict=True)
        ]
        gradient = element("linearGradient", *stops, id=gradient_id)
        bar = element("rect", width="100%", height=10, fill=f"url(#{gradient_id})")
        numbers = [
            element("text", charts.format_number(tick), class_="x", x=f"{axis.position(tick):.2%}", y=10, dy=16)
            for tick in axis.ticks(4)
        ]
        parts.append(
            element(
                "svg", element("defs", gradient), bar, *numbers, class_="ramp", role="img", aria_label="color scale"
            )
        )
        if axis.log:
            parts.append(element("span", element("i", "", class_="zero"), "exactly zero", class_="key"))
    parts.append(element("span", swatch, "not finite", class_="key"))
    return element("div", *parts, class_="scale")
