"""Line charts: round ticks, curves that keep their spikes, and marks where a curve leaves the chart."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.models.report import charts
from evenkeel.models.report.charts import Axis, Curve, Mark


def parse_svg(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def points(d: str) -> np.ndarray:
    """int [n, 2], the points of a path."""
    return np.array([[int(x), int(y)] for x, y in re.findall(r"[ML](\d+) (\d+)", d)])


def loss_chart(y: np.ndarray, **options: object) -> str:
    x = np.arange(len(y))
    return charts.line_chart([Curve("loss", x, y)], "Loss", "nats", charts.span_axis(x), Axis.fit(y), **options)


# Axes


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 93, [0, 20, 40, 60, 80]),
        (0, 9999, [0, 2000, 4000, 6000, 8000]),
        (-0.3, 0.3, [-0.2, 0, 0.2]),
        (2.301, 2.304, [2.301, 2.302, 2.303, 2.304]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
    ],
)
def test_linear_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert charts.linear_ticks(low, high, 5) == pytest.approx(expected, abs=1e-12)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_linear_ticks_lie_within_the_range_and_are_few(low: float, width: float, count: int) -> None:
    ticks = charts.linear_ticks(low, low + width, count)
    assert len(ticks) <= count + 1
    assert all(low - 1e-6 * width - 1e-9 <= tick <= low + width * (1 + 1e-6) + 1e-9 for tick in ticks)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.5, 5000, [1, 10, 100, 1000]),
        (0.15, 40, [0.2, 0.5, 1, 2, 5, 10, 20]),
        (1.0, 1.1, [1.0, 1.02, 1.04, 1.06, 1.08, 1.1]),
        (1e-12, 1e3, [1e-12, 1e-9, 1e-6, 1e-3, 1, 1e3]),
    ],
)
def test_log_ticks_are_powers_of_ten_if_the_range_has_three(low: float, high: float, expected: list[float]) -> None:
    assert charts.log_ticks(low, high, 6) == pytest.approx(expected)


def test_an_axis_is_logarithmic_if_the_values_span_more_than_a_factor_of_50() -> None:
    assert not Axis.fit(np.array([0.1, 4.9])).log
    assert Axis.fit(np.array([0.1, 5.1])).log
    assert Axis.fit(np.array([0.0, 0.1, 5.1])).log
    assert not Axis.fit(np.array([-0.1, 0.1, 5.1])).log, "a logarithmic axis cannot show negative numbers"
    assert not Axis.fit(np.zeros(3)).log


def test_positions_are_fractions_of_the_axis() -> None:
    assert Axis(0, 4).positions(np.array([0, 1, 4])).tolist() == [0, 0.25, 1]
    assert Axis(1, 100, log=True).positions(np.array([1, 10, 100])).tolist() == pytest.approx([0, 0.5, 1])
    assert Axis(1, 100, log=True).positions(np.array([0.0, -5.0])).tolist() == [0, 0]


@pytest.mark.parametrize("values", [[], [np.nan], [np.inf, -np.inf]])
def test_an_axis_without_finite_values_has_no_ticks(values: list[float]) -> None:
    assert Axis.fit(np.array(values)).ticks(5) == []


@pytest.mark.parametrize("values", [[7.0], [0.0], [-1e308, 1e308], [5e-324, 1e308], [1e-300, 2e-300], [3.0, 3.0]])
def test_an_axis_holds_all_finite_values(values: list[float]) -> None:
    axis = Axis.fit(np.array(values))
    assert np.isfinite([axis.low, axis.high]).all()
    assert axis.low < axis.high
    positions = axis.positions(np.array(values))
    assert ((positions >= 0) & (positions <= 1)).all()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"), (0.02, "0.02"), (20_000, "20,000"), (1e-5, "10⁻⁵"), (2.5e-7, "2.5\N{MULTIPLICATION SIGN}10⁻⁷"),
        (-3, "\N{MINUS SIGN}3"), (float("nan"), "not a number"), (float("inf"), "∞"), (1e20, "10²⁰"),
    ],
)  # fmt: skip
def test_numbers_are_formatted_for_people(value: float, expected: str) -> None:
    assert charts.format_number(value) == expected


# Curves


def test_a_spike_of_one_step_in_ten_thousand_is_drawn() -> None:
    y = np.full(10_000, 1.0)
    y[6_789], y[1_234] = 40.0, 0.9
    x_axis, y_axis = charts.span_axis(np.arange(10_000)), Axis.fit(y)
    path = points(charts.path_data(Curve("loss", np.arange(10_000), y), x_axis, y_axis))
    assert len(path) <= 2 * charts.CHART_COLUMNS + 2
    top, bottom = path[path[:, 1].argmin()], path[path[:, 1].argmax()]
    assert top.tolist() == [679, round(1000 * (1 - y_axis.position(40.0)))]
    assert bottom.tolist() == [123, round(1000 * (1 - y_axis.position(0.9)))]


@given(st.integers(1, 3000), st.integers(1, 50), st.integers(0, 2**31))
def test_each_column_keeps_its_minimum_and_maximum(count: int, columns: int, seed: int) -> None:
    y = np.random.default_rng(seed).normal(size=count)
    column = np.arange(count) * columns // count
    indices = charts.decimate(column, y, columns)
    assert (np.diff(indices) > 0).all()
    assert len(indices) <= max(2 * columns, 1)
    for number in np.unique(column):
        points_kept = indices[column[indices] == number]
        assert y[points_kept].min() == y[column == number].min()
        assert y[points_kept].max() == y[column == number].max()


def test_a_short_curve_is_drawn_point_by_point_with_gaps() -> None:
    curve = Curve("loss", np.arange(6), np.array([0, 1, np.nan, 2, np.inf, 4.0]))
    d = charts.path_data(curve, charts.span_axis(curve.x), Axis(0, 4))
    assert d == "M0 1000L200 750M600 500h0M1000 0h0", "a point between two gaps is a dot"


@pytest.mark.parametrize("steps", [600, 10_000])
def test_steps_that_are_not_finite_are_marked_at_the_top_edge(steps: int) -> None:
    y = np.ones(steps)
    y[steps // 2 : steps // 2 + steps // 10] = np.nan
    (mark,) = [line for line in parse_svg(loss_chart(y)).iter("line") if "off" in line.get("class", "")]
    assert float(mark.get("x1", "").rstrip("%")) == pytest.approx(50, abs=0.2)
    assert float(mark.get("x2", "").rstrip("%")) == pytest.approx(60, abs=0.2)
    assert mark.get("y1") == mark.get("y2") == "0"
    assert "not finite" in "".join(mark.itertext())
    assert 'class="off' not in loss_chart(np.ones(steps))


def test_values_above_the_axis_are_marked() -> None:
    curve, x_axis = Curve("loss", np.arange(4), np.array([1, 2, 9, 9.0])), charts.span_axis(np.arange(4))
    ((start, end, description),) = charts.find_off_scale_runs(curve, x_axis, Axis(0, 8))
    assert (start, end) == pytest.approx((2 / 3, 1))
    assert "above the axis" in description
    assert charts.find_off_scale_runs(curve, x_axis, Axis(0, 9)) == []


def test_a_chart_shows_axes_units_and_numbers() -> None:
    svg = parse_svg(loss_chart(np.linspace(5, 90, 400)))
    texts = ["".join(text.itertext()) for text in svg.iter("text")]
    assert {"nats", "step", "0", "100", "200", "300", "20", "80"} <= set(texts)
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == "Loss: loss from 5 to 90, minimum 5, maximum 90."
    assert "nats, log scale" in loss_chart(np.logspace(-3, 3, 50))


@pytest.mark.parametrize("y", [[], [1.0], [np.nan], [np.nan] * 2000, [0.0] * 2000, [1e308, -1e308]])
def test_degenerate_curves_have_a_chart(y: list[float]) -> None:
    svg = parse_svg(loss_chart(np.array(y)))
    messages = [text for text in svg.iter("text") if text.get("class") == "none"]
    assert bool(messages) == (not np.isfinite(y).any())
    assert "nan" not in ElementTree.tostring(svg, encoding="unicode").replace("nats", "")


def test_letters_that_would_overlap_are_joined() -> None:
    marks = [Mark(100, "A", "first"), Mark(101, "B", "second"), Mark(700, "A", "third"), Mark(5000, "C", "outside")]
    svg = parse_svg(loss_chart(np.ones(1000), marks=marks))
    assert ["".join(text.itertext()) for text in svg.iter("text") if text.get("class") == "letter"] == ["AB", "A"]


def test_five_hundred_marks_do_not_hide_the_curve() -> None:
    svg = parse_svg(loss_chart(np.ones(1000), marks=[Mark(2 * i, "A", "spike") for i in range(500)]))
    lines = [line for line in svg.iter("line") if line.get("class") == "mark"]
    assert len(lines) == 500
    assert sum(line.get("y1") == "0" for line in lines) <= 25


def test_names_are_escaped() -> None:
    hostile = '<script>alert("x")</script>'
    x = np.arange(3)
    svg = charts.line_chart(
        [Curve(hostile, x, x * np.nan)],
        hostile,
        hostile,
        charts.span_axis(x),
        Axis.fit(x),
        hostile,
        [Mark(1, "A", hostile)],
    )
    assert "<script" not in svg
    assert parse_svg(svg).find("title").text == hostile  # type: ignore[union-attr]
