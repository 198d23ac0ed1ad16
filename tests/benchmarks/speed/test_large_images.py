"""The benchmark of large images writes what it prints, and scaled decoding is closer to the exact pixels."""

from __future__ import annotations

import pathlib

import pytest

from evenkeel.benchmarks.results import read
from tests import forked


@pytest.mark.slow
def test_a_short_run_writes_what_it_prints(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "result.json"
    done = forked.run("evenkeel.benchmarks.speed.large_images", "--rounds=1", "--images=2", f"--output={path}")
    assert done.returncode == 0, done.stderr
    medians = {(result.case, result.metric): result.median for result in read(path).results}
    assert set(medians) == {
        (case, metric) for case in ("whole", "fused", "scaled") for metric in ("cpu_ms_per_image", "difference")
    }
    assert medians["scaled", "difference"] < medians["fused", "difference"]
    assert all(case in done.stdout for case in ("whole", "fused", "scaled"))
