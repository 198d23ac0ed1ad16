"""Charts: round numbers on their axes, curves that keep their spikes, marks where nothing can be drawn."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenkeel.models.report import charts
from evenkeel.models.report.charts import Axis, Curve, Mark


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def points(d: str) -> np.ndarray:
    """[n, 2] of a path."""
    return np.array([[int(x), int(y)] for x, y in re.findall(r"[ML](\d+) (\d+)", d)])


def chart(y: np.ndarray, **others: object) -> str:
    x = np.arange(len(y))
    return charts.line_chart([Curve("loss", x, y)], "Loss", "nats", charts.span(x), Axis.of(y), **others)


# Axes.


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
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert charts.ticks(low, high, 5) == pytest.approx(expected, abs=1e-12)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_lie_within_and_are_few(low: float, width: float, most: int) -> None:
    found = charts.ticks(low, low + width, most)
    assert len(found) <= most + 1
    assert all(low - 1e-6 * width - 1e-9 <= tick <= low + width * (1 + 1e-6) + 1e-9 for tick in found)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.5, 5000, [1, 10, 100, 1000]),
        (0.15, 40, [0.2, 0.5, 1, 2, 5, 10, 20]),
        (1.0, 1.1, [1.0, 1.02, 1.04, 1.06, 1.08, 1.1]),
        (1e-12, 1e3, [1e-12, 1e-9, 1e-6, 1e-3, 1, 1e3]),
    ],
)
def test_logarithmic_ticks_are_powers_of_ten_where_there_are_some(
    low: float, high: float, expected: list[float]
) -> None:
    assert charts.log_ticks(low, high, 6) == pytest.approx(expected)


def test_an_axis_is_logarithmic_where_a_linear_one_would_hide_numbers() -> None:
    assert not Axis.of(np.array([0.1, 4.9])).log
    assert Axis.of(np.array([0.1, 5.1])).log
    assert Axis.of(np.array([0.0, 0.1, 5.1])).log
    assert not Axis.of(np.array([-0.1, 0.1, 5.1])).log, "it has no place for a negative number"
    assert not Axis.of(np.zeros(3)).log


def test_where_numbers_lie_on_an_axis() -> None:
    assert Axis(0, 4).at(np.array([0, 1, 4])).tolist() == [0, 0.25, 1]
    assert Axis(1, 100, log=True).at(np.array([1, 10, 100])).tolist() == pytest.approx([0, 0.5, 1])
    assert Axis(1, 100, log=True).at(np.array([0.0, -5.0])).tolist() == [0, 0]


@pytest.mark.parametrize("values", [[], [np.nan], [np.inf, -np.inf]])
def test_an_axis_of_no_finite_number_has_no_ticks(values: list[float]) -> None:
    assert Axis.of(np.array(values)).ticks(5) == []


@pytest.mark.parametrize("values", [[7.0], [0.0], [-1e308, 1e308], [5e-324, 1e308], [1e-300, 2e-300], [3.0, 3.0]])
def test_an_axis_has_room_for_all_finite_numbers(values: list[float]) -> None:
    axis = Axis.of(np.array(values))
    assert np.isfinite([axis.low, axis.high]).all()
    assert axis.low < axis.high
    at = axis.at(np.array(values))
    assert ((at >= 0) & (at <= 1)).all()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"), (0.02, "0.02"), (20_000, "20,000"), (1e-5, "10⁻⁵"), (2.5e-7, "2.5\N{MULTIPLICATION SIGN}10⁻⁷"),
        (-3, "\N{MINUS SIGN}3"), (float("nan"), "not a number"), (float("inf"), "∞"), (1e20, "10²⁰"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_a_person_does(value: float, expected: str) -> None:
    assert charts.number(value) == expected


# Curves.


def test_a_spike_of_one_step_in_ten_thousand_survives() -> None:
    y = np.full(10_000, 1.0)
    y[6_789], y[1_234] = 40.0, 0.9
    x_axis, y_axis = charts.span(np.arange(10_000)), Axis.of(y)
    drawn = points(charts.path(Curve("loss", np.arange(10_000), y), x_axis, y_axis))
    assert len(drawn) <= 2 * charts.COLUMNS + 2
    top, bottom = drawn[drawn[:, 1].argmin()], drawn[drawn[:, 1].argmax()]
    assert top.tolist() == [679, round(1000 * (1 - float(y_axis.at(np.array(40.0)))))]
    assert bottom.tolist() == [123, round(1000 * (1 - float(y_axis.at(np.array(0.9)))))]


@given(st.integers(1, 3000), st.integers(1, 50), st.integers(0, 2**31))
def test_each_column_keeps_its_least_and_largest(count: int, columns: int, seed: int) -> None:
    y = np.random.default_rng(seed).normal(size=count)
    column = np.arange(count) * columns // count
    kept = charts.thin(column, y, columns)
    assert (np.diff(kept) > 0).all()
    assert len(kept) <= max(2 * columns, 1)
    for each in np.unique(column):
        of_it = kept[column[kept] == each]
        assert y[of_it].min() == y[column == each].min()
        assert y[of_it].max() == y[column == each].max()


def test_a_short_curve_is_drawn_as_it_is_with_gaps() -> None:
    curve = Curve("loss", np.arange(6), np.array([0, 1, np.nan, 2, np.inf, 4.0]))
    d = charts.path(curve, charts.span(curve.x), Axis(0, 4))
    assert d == "M0 1000L200 750M600 500h0M1000 0h0", "a lone point is a dot"


@pytest.mark.parametrize("steps", [600, 10_000])
def test_steps_that_are_not_finite_are_marked_on_the_top_edge(steps: int) -> None:
    y = np.ones(steps)
    y[steps // 2 : steps // 2 + steps // 10] = np.nan
    (mark,) = [line for line in parsed(chart(y)).iter("line") if "off" in line.get("class", "")]
    assert float(mark.get("x1", "").rstrip("%")) == pytest.approx(50, abs=0.2)
    assert float(mark.get("x2", "").rstrip("%")) == pytest.approx(60, abs=0.2)
    assert mark.get("y1") == mark.get("y2") == "0"
    assert "not finite" in "".join(mark.itertext())
    assert 'class="off' not in chart(np.ones(steps))


def test_what_lies_above_the_axis_is_marked_too() -> None:
    curve, x_axis = Curve("loss", np.arange(4), np.array([1, 2, 9, 9.0])), charts.span(np.arange(4))
    ((first, last, what),) = charts.off_scale(curve, x_axis, Axis(0, 8))
    assert (first, last) == pytest.approx((2 / 3, 1))
    assert "above the axis" in what
    assert charts.off_scale(curve, x_axis, Axis(0, 9)) == []


def test_a_chart_names_axes_units_and_numbers() -> None:
    svg = parsed(chart(np.linspace(5, 90, 400)))
    texts = ["".join(each.itertext()) for each in svg.iter("text")]
    assert {"nats", "step", "0", "100", "200", "300", "20", "80"} <= set(texts)
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == "Loss: loss from 5 to 90, least 5, largest 90."
    assert "nats, log scale" in chart(np.logspace(-3, 3, 50))


@pytest.mark.parametrize("y", [[], [1.0], [np.nan], [np.nan] * 2000, [0.0] * 2000, [1e308, -1e308]])
def test_odd_curves_have_charts_too(y: list[float]) -> None:
    svg = parsed(chart(np.array(y)))
    none = [each for each in svg.iter("text") if each.get("class") == "none"]
    assert bool(none) == (not np.isfinite(y).any())
    assert "nan" not in ElementTree.tostring(svg, encoding="unicode").replace("nats", "")


def test_letters_that_would_collide_are_written_together() -> None:
    marks = [Mark(100, "A", "first"), Mark(101, "B", "second"), Mark(700, "A", "third"), Mark(5000, "C", "outside")]
    svg = parsed(chart(np.ones(1000), marks=marks))
    assert ["".join(each.itertext()) for each in svg.iter("text") if each.get("class") == "letter"] == ["AB", "A"]


def test_five_hundred_marks_leave_the_curve_to_be_seen() -> None:
    svg = parsed(chart(np.ones(1000), marks=[Mark(2 * at, "A", "spike") for at in range(500)]))
    lines = [each for each in svg.iter("line") if each.get("class") == "mark"]
    assert len(lines) == 500
    assert sum(each.get("y1") == "0" for each in lines) <= 25


def test_names_are_escaped() -> None:
    evil = '<script>alert("x")</script>'
    x = np.arange(3)
    svg = charts.line_chart(
        [Curve(evil, x, x * np.nan)], evil, evil, charts.span(x), Axis.of(x), evil, [Mark(1, "A", evil)]
    )
    assert "<script" not in svg
    assert parsed(svg).find("title").text == evil  # type: ignore[union-attr]
