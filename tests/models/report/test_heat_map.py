"""Heat maps: colors, values that are not finite, zeros, and maps with many columns and rows."""

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


def decode_cells(svg: str) -> np.ndarray:
    """The map's cells, uint8 [rows, columns, 4]."""
    (data,) = re.findall(r'href="data:image/png;base64,([^"]+)"', svg)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def find_labels(svg: str, style: str) -> list[str]:
    return re.findall(rf'<text class="{style}"[^>]*>([^<]*)', svg)


def test_colors_are_those_of_viridis() -> None:
    rgba = [matplotlib.colormaps["viridis"](position) for position in np.linspace(0.1, 1, len(heat_map.VIRIDIS))]
    np.testing.assert_array_equal(heat_map.VIRIDIS, np.rint(255 * np.array(rgba)[:, :3]))


def test_each_row_is_a_layer_and_each_column_a_sample() -> None:
    values = np.array([[1e-4, 1.0], [1e-2, 1.0], [1e-3, 1.0]])
    cells = decode_cells(heat_map.draw_heat_map(values, np.array([0, 20, 40]), ("first", "last"), "ratio", log=True))
    assert cells.shape == (2, 3, 4)
    green = cells[0, :, 1].astype(int)
    assert green[0] < green[2] < green[1], "viridis gets greener"
    assert (cells[1] == cells[1, 0]).all()


def test_values_that_are_not_finite_are_transparent_and_zero_is_black() -> None:
    values = np.array([[np.nan, 0.0], [np.inf, 1e-30], [1.0, 1.0]])
    cells = decode_cells(heat_map.draw_heat_map(values, np.arange(3), ("a", "b"), "ratio", log=True))
    assert cells[..., 3].tolist() == [[0, 0, 255], [255, 255, 255]]
    assert cells[1, 0].tolist() == [0, 0, 0, 255]
    assert cells[1, 1, :3].any(), "the smallest number is not zero"


def test_a_share_of_zero_has_the_first_color_of_the_scale() -> None:
    cells = decode_cells(heat_map.draw_heat_map(np.array([[0.0, 1.0]]), np.arange(1), ("a", "b"), "dead"))
    assert cells[0, 0, :3].tolist() == [72, 36, 117]
    assert cells[1, 0, :3].tolist() == [253, 231, 37]


def test_one_unusual_sample_of_thousands_is_shown() -> None:
    values = np.full((5000, 2), 1e-3)
    values[3333, 0], values[1111, 1] = 1.0, np.nan
    columns, samples_per_column = heat_map.reduce_columns(values, Axis.fit(values, log=True))
    assert len(columns) <= heat_map.MAX_COLUMNS
    assert samples_per_column == 21
    assert columns[3333 // 21, 0] == 1.0
    assert np.isnan(columns[1111 // 21, 1])
    assert np.count_nonzero(columns != 1e-3) == 2
    assert "of 21 samples" in heat_map.draw_heat_map(values, np.arange(5000), ("a", "b"), "ratio", log=True)


def test_few_samples_have_a_column_each() -> None:
    values = np.random.default_rng(0).random((heat_map.MAX_COLUMNS, 3))
    columns, samples_per_column = heat_map.reduce_columns(values, Axis(0, 1))
    assert samples_per_column == 1
    np.testing.assert_array_equal(columns, values)


def test_the_color_scale_has_numbers() -> None:
    svg = heat_map.draw_heat_map(np.array([[1e-5, 1.0]]), np.arange(1), ("a", "b"), "ratio", log=True, legend="label")
    scale = svg[svg.index('class="scale"') :]
    assert {"10⁻⁴", "0.01", "1"} <= set(find_labels(scale, "x"))
    assert "label" in scale
    assert "not finite" in scale


def test_step_ticks_follow_the_sampled_steps() -> None:
    steps = np.array([0, 10, 20, 30, 1000])
    positions = dict(heat_map._step_ticks(steps))
    assert positions[0] == pytest.approx(0.1)
    assert positions[1000] == pytest.approx(0.9)
    assert 0.7 < positions[500] < 0.9


@pytest.mark.parametrize("count", [1, 40, 100])
def test_rows_are_labeled(count: int) -> None:
    names = [f"layer_{i}" for i in range(count)]
    svg = heat_map.draw_heat_map(np.ones((4, count)), np.arange(4), names, "ratio", log=True)
    shown = find_labels(svg, "y phone")
    assert shown[0] == "layer_0"
    assert len(shown) <= heat_map.MAX_LABELED_ROWS
    assert find_labels(svg, "y desktop") == shown


def test_long_names_keep_both_ends() -> None:
    assert heat_map.shorten("a" * 17, 17) == "a" * 17
    assert heat_map.shorten("stage_1_block_2_convolution", 17) == "stage_1_…volution"
    assert "Ü&lt;b&gt;" in heat_map.draw_heat_map(np.ones((1, 1)), np.arange(1), ("Ü<b>",), "ratio")


def test_a_map_without_finite_values_is_hatched_and_says_so() -> None:
    svg = heat_map.draw_heat_map(np.full((3, 2), np.nan), np.arange(3), ("a", "b"), "ratio", log=True)
    assert not decode_cells(svg)[..., 3].any()
    assert 'aria-label="ratio: no finite value in 2 layers."' in svg
    assert 'class="ramp"' not in svg
    description = heat_map.describe_heat_map(np.array([[0.5, np.nan]]), ("a", "b"), "ratio")
    assert description == "ratio (layers: 2, sampled steps: 1): minimum 0.5, maximum 0.5; 1 of 2 are not finite."
    assert charts.format_number(0.5) in description
