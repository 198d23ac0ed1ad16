"""Lines of progress where there is no terminal."""

from __future__ import annotations

import re

import pytest

from evenkeel.pipeline.system.progress import SECONDS_BETWEEN_LINES, progress


def test_a_line_now_and_then_gives_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter([0.0, 1.0, *[SECONDS_BETWEEN_LINES + 20] * 2, SECONDS_BETWEEN_LINES + 21])
    with progress(1000, "reading images", clock=lambda: next(seconds)) as advance:
        for _ in range(3):
            advance(100)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"reading images: +20% 200/1000 \[00:50<03:20, *4\.00 images/s\]", line)


def test_short_work_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(10, "reading images") as advance:
        advance(10)
    assert capsys.readouterr().err == ""
