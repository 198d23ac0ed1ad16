"""Seek points that the tests of this folder share."""

from __future__ import annotations

import pytest

from evenkeel.pipeline.jpeg.seek_points import SeekPoints
from tests.pipeline.jpeg.jpegs import (
    SUPPORTED,
    find_all,
)


@pytest.fixture(scope="module")
def seek_points() -> dict[str, SeekPoints]:
    points = find_all(SUPPORTED)
    assert None not in points.values()
    return points  # type: ignore[return-value]
