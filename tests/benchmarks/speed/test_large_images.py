"""The benchmark of large images runs, writes what it prints, and its scaled pixels are closer to the exact ones."""

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
    found = {(r.case, r.metric): r.median for r in read(path).results}
    assert set(found) == {(c, m) for c in ("whole", "fused", "scaled") for m in ("cpu_ms_per_image", "difference")}
    assert found["scaled", "difference"] < found["fused", "difference"]
    assert all(case in done.stdout for case in ("whole", "fused", "scaled"))
