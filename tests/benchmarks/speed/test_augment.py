"""The benchmark of augmentations has a case for each of them, and writes what it prints."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
import subprocess
import sys
from collections.abc import Callable

import pytest

from evenkeel.benchmarks import command
from evenkeel.benchmarks.results import read
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from tests import forked

ROOT = pathlib.Path(__file__).parents[3]


def test_every_augmentation_has_a_case() -> None:
    # In its own process, because each command defines its flags on import.
    code = "import dataclasses, evenkeel.benchmarks.speed.augment as b; print(*{f for c in b.CASES.values()"
    code += " for f, v in dataclasses.asdict(c).items() if v != dataclasses.asdict(type(c)())[f]})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    # A random resized crop is part of decoding, and RandAugment has its default magnitude.
    without_case = {"random_resized_crop", "randaugment_magnitude"}
    assert {*done.stdout.split()} == {field.name for field in dataclasses.fields(AugmentConfig)} - without_case


def run_augment(*flags: str) -> None:
    """Runs in its own process, on small batches; one half of the cases has small images, the other large ones."""
    benchmark = importlib.import_module("evenkeel.benchmarks.speed.augment")
    cases, build_cases = list(benchmark.CASES.items()), benchmark.build_cases

    def build_half(config: DataConfig, batches: int) -> dict[str, Callable[[], object]]:
        benchmark.CASES = dict(cases[len(cases) // 2 :] if config.image_size == 32 else cases[: len(cases) // 2])
        return build_cases(config, batches)

    benchmark.BATCH_SIZES, benchmark.build_cases = {32: 16, 224: 4}, build_half
    sys.argv = [benchmark.__file__, *flags]
    command.run(benchmark.main)


@pytest.mark.slow
def test_a_short_run_writes_what_it_prints(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "result.json"
    done = forked.run(run_augment, "--rounds=1", "--batches=1", f"--output={path}")
    assert done.returncode == 0, done.stderr
    report = read(path)
    assert {result.metric for result in report.results} == {"cpu_us_per_image", "share_of_decoding"}
    assert all(len(result.samples) == 1 for result in report.results)
    cases = {result.case for result in report.results}
    assert {"decode/32", "decode/224", "flip/224", "randaugment, 2 operations/32"} <= cases
    assert len(cases) == 14 + 2
    lines = done.stdout.splitlines()
    assert len(lines) == len(cases) + 1
    for case in cases:
        name, size = case.rsplit("/", 1)
        assert any(line.startswith(size) and f" {name} " in line for line in lines), case
    shares = [
        result.samples
        for result in report.results
        if result.metric == "share_of_decoding" and result.case.startswith("decode/")
    ]
    assert shares == [(1.0,)] * 2


def test_a_bad_flag_is_one_line_and_exit_code_2() -> None:
    for flag in ("--rounds=0", "--batches=0"):
        done = forked.run("evenkeel.benchmarks.speed.augment", flag)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {flag.split('=')[0]} (0) must be at least 1.")
