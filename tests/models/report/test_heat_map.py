"""Heat maps: colours by number, what is not finite, what is zero, many looks and layers."""

from __future__ import annotations

import base64
import io
import re

import matplotlib
import numpy as np
import pytest
from PIL import Image

from evenkeel.models.report import charts, heat_map
from evenkeel.models.report.charts import Axis


def picture(svg: str) -> np.ndarray:
    """uint8 [rows, columns, 4] of the cells."""
    (data,) = re.findall(r'href="data:image/png;base64,([^"]+)"', svg)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def labels(svg: str, kind: str) -> list[str]:
    return re.findall(rf'<text class="{kind}"[^>]*>([^<]*)', svg)


def test_colours_are_those_of_viridis() -> None:
    rgba = [matplotlib.colormaps["viridis"](at) for at in np.linspace(0.1, 1, len(heat_map.COLOURS))]
    np.testing.assert_array_equal(heat_map.COLOURS, np.rint(255 * np.array(rgba)[:, :3]))


def test_a_row_is_a_layer_and_a_column_a_look() -> None:
    values = np.array([[1e-4, 1.0], [1e-2, 1.0], [1e-3, 1.0]])
    cells = picture(heat_map.draw(values, np.array([0, 20, 40]), ("first", "last"), "ratio", log=True))
    assert cells.shape == (2, 3, 4)
    green = cells[0, :, 1].astype(int)
    assert green[0] < green[2] < green[1], "viridis gets greener"
    assert (cells[1] == cells[1, 0]).all()


def test_what_is_not_finite_shows_the_hatching_and_zero_is_black() -> None:
    values = np.array([[np.nan, 0.0], [np.inf, 1e-30], [1.0, 1.0]])
    cells = picture(heat_map.draw(values, np.arange(3), ("a", "b"), "ratio", log=True))
    assert cells[..., 3].tolist() == [[0, 0, 255], [255, 255, 255]]
    assert cells[1, 0].tolist() == [0, 0, 0, 255]
    assert cells[1, 1, :3].any(), "the smallest number is not zero"


def test_a_share_of_zero_is_a_number_like_others() -> None:
    cells = picture(heat_map.draw(np.array([[0.0, 1.0]]), np.arange(1), ("a", "b"), "dead"))
    assert cells[0, 0, :3].tolist() == [72, 36, 117]
    assert cells[1, 0, :3].tolist() == [253, 231, 37]


def test_one_odd_look_of_thousands_is_seen() -> None:
    values = np.full((5000, 2), 1e-3)
    values[3333, 0], values[1111, 1] = 1.0, np.nan
    shown, of_each = heat_map.gathered(values, Axis.of(values, log=True))
    assert len(shown) <= heat_map.COLUMNS
    assert of_each == 21
    assert shown[3333 // 21, 0] == 1.0
    assert np.isnan(shown[1111 // 21, 1])
    assert np.count_nonzero(shown != 1e-3) == 2
    assert "Of every 21 looks" in heat_map.draw(values, np.arange(5000), ("a", "b"), "ratio", log=True)


def test_few_looks_are_shown_as_they_are() -> None:
    values = np.random.default_rng(0).random((heat_map.COLUMNS, 3))
    shown, of_each = heat_map.gathered(values, Axis(0, 1))
    assert of_each == 1
    np.testing.assert_array_equal(shown, values)


def test_a_scale_has_numbers() -> None:
    svg = heat_map.draw(np.array([[1e-5, 1.0]]), np.arange(1), ("a", "b"), "ratio", log=True, legend="of what")
    scale = svg[svg.index('class="scale"') :]
    assert {"10⁻⁴", "0.01", "1"} <= set(labels(scale, "x"))
    assert "of what" in scale
    assert "not finite" in scale


def test_looks_lie_at_their_steps_however_far_apart() -> None:
    steps = np.array([0, 10, 20, 30, 1000])
    places = dict(heat_map._looks(steps))
    assert places[0] == pytest.approx(0.1)
    assert places[1000] == pytest.approx(0.9)
    assert 0.7 < places[500] < 0.9


@pytest.mark.parametrize("count", [1, 40, 100])
def test_rows_are_named(count: int) -> None:
    names = [f"layer_{at}" for at in range(count)]
    svg = heat_map.draw(np.ones((4, count)), np.arange(4), names, "ratio", log=True)
    shown = labels(svg, "y phone")
    assert shown[0] == "layer_0"
    assert len(shown) <= heat_map.LABELLED
    assert labels(svg, "y desktop") == shown


def test_long_names_keep_both_ends() -> None:
    assert heat_map.shortened("a" * 17, 17) == "a" * 17
    assert heat_map.shortened("stage_1_block_2_convolution", 17) == "stage_1_…volution"
    assert "Ü&lt;b&gt;" in heat_map.draw(np.ones((1, 1)), np.arange(1), ("Ü<b>",), "ratio")


def test_nothing_finite_is_hatched_and_said() -> None:
    svg = heat_map.draw(np.full((3, 2), np.nan), np.arange(3), ("a", "b"), "ratio", log=True)
    assert not picture(svg)[..., 3].any()
    assert 'aria-label="ratio: no finite value in 2 layers."' in svg
    assert 'class="ramp"' not in svg
    finite = heat_map.describe(np.array([[0.5, np.nan]]), ("a", "b"), "ratio")
    assert finite == "ratio in 2 layers at 1 looks: least 0.5, largest 0.5; 1 of 2 are not finite."
    assert charts.number(0.5) in finite
