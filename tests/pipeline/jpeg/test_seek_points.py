"""Seek points: found in all supported JPEGs, and None for others."""

from __future__ import annotations

import pytest

from evenkeel.pipeline.jpeg import huffman
from evenkeel.pipeline.jpeg.layout import read_layout, read_scan
from evenkeel.pipeline.jpeg.seek_points import SeekPoints
from tests.pipeline.jpeg.jpegs import (
    SUPPORTED,
    UNSUPPORTED,
    find_all,
)


@pytest.mark.slow
def test_every_row_of_mcus_has_seek_points(seek_points: dict[str, SeekPoints]) -> None:
    for name, image in SUPPORTED.items():
        layout, points = read_layout(image), seek_points[name]
        assert layout is not None
        points_per_row = -(-layout.mcus_across // points.record.grid_step)
        assert len(points.points) == layout.mcus_down * points_per_row + 1, name
        assert points_per_row <= huffman.MAX_GRID_COLUMNS
        # The last point is the end of the codes; the last bits of the last byte are padding.
        assert read_scan(image, layout) is not None
        assert points.points[-1, 0] == len(image) - layout.scan_offset - len(b"\xff\xd9"), name


def test_unsupported_files_have_none_and_do_not_stop_the_others() -> None:
    points = find_all({**UNSUPPORTED, "good": SUPPORTED["4:2:0"]})
    assert points.pop("good") is not None
    assert points == dict.fromkeys(UNSUPPORTED)
