"""The benchmark of augmentations runs, knows every one of them, and writes what it prints."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys

import pytest

from evenkeel.benchmarks.results import read
from evenkeel.pipeline.config import AugmentConfig
from tests import forked

ROOT = pathlib.Path(__file__).parents[3]


def test_no_augmentation_is_left_out() -> None:
    # In a process of its own: each command line defines its flags on import.
    code = "import dataclasses, evenkeel.benchmarks.speed.augment as b; print(*{f for c in b.CASES.values()"
    code += " for f, v in dataclasses.asdict(c).items() if v != dataclasses.asdict(type(c)())[f]})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    # A random resized crop is part of decoding, and the magnitude of RandAugment's operations is its default.
    left_out = {"random_resized_crop", "randaugment_magnitude"}
    assert {*done.stdout.split()} == {field.name for field in dataclasses.fields(AugmentConfig)} - left_out


@pytest.mark.slow
def test_a_short_run_writes_what_it_prints(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "result.json"
    done = forked.run("evenkeel.benchmarks.speed.augment", "--rounds=1", "--batches=1", f"--output={path}")
    assert done.returncode == 0, done.stderr
    report = read(path)
    assert {r.metric for r in report.results} == {"cpu_us_per_image", "share_of_decoding"}
    assert all(len(r.samples) == 1 for r in report.results)
    cases = {r.case for r in report.results}
    assert {"decode/32", "decode/224", "flip/224", "randaugment, 2 operations/32"} <= cases
    lines = done.stdout.splitlines()
    assert len(lines) == len(cases) + 1
    for case in cases:
        name, size = case.rsplit("/", 1)
        assert any(line.startswith(size) and f" {name} " in line for line in lines), case
    shares = [r.samples for r in report.results if r.metric == "share_of_decoding" and r.case.startswith("decode/")]
    assert shares == [(1.0,)] * 2


def test_bad_input_is_one_line_and_exit_code_2() -> None:
    for flag in ("--rounds=0", "--batches=0"):
        done = forked.run("evenkeel.benchmarks.speed.augment", flag)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {flag.split('=')[0]} (0) must be at least 1.")
