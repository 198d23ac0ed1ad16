"""The benchmark of the first start: every case reads a batch."""

from __future__ import annotations

import pathlib

import pytest

from evenkeel.benchmarks import results
from tests import forked


@pytest.mark.slow
def test_all_cases_are_measured(tmp_path: pathlib.Path) -> None:
    output = tmp_path / "result.json"
    flags = ("--images=200", "--image_size=16", "--rounds=1", f"--output={output}")
    done = forked.run("benchmarks.speed.first_start", *flags)
    assert done.returncode == 0, done.stderr
    measured = {(each.case, each.metric): each.samples[0] for each in results.read(str(output)).results}
    cases = {"evenkeel/first", "evenkeel/next", "evenkeel/added", "keras", "tfds"}
    assert {case for case, _ in measured} >= cases
    for case in cases:
        assert measured[case, "cpu_seconds"] > 0
        assert measured[case, "peak_mb"] > 100
