"""The bound that is named, the gains that are predicted, and the report of both."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evenkeel.benchmarks.speed import profiler_validation
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.jpeg import worker
from evenkeel.pipeline.profile import profile
from evenkeel.pipeline.profile.profile import Report, StageTiming, Suggestion, _Resources
from evenkeel.tools import profile_pipeline
from tests.command_line import refused, tool
from tests.pipeline.jpeg.jpegs import run_forked_workers
from tests.short_measurements import CHANGES


@pytest.mark.parametrize(
    ("threads", "cores", "cpu", "wait", "rate"),
    [
        (1, 1, 2.0, 0.0, 500),
        (4, 4, 2.0, 0.0, 2000),
        (4, 4, 2.0, 6.0, 500),  # a waiting thread cannot do anything else
        (16, 4, 2.0, 6.0, 2000),  # with enough threads, the cores are the bound
        (2, 8, 1.0, 0.0, 2000),
    ],
)
def test_the_scarcest_resource_sets_the_rate(threads: int, cores: int, cpu: float, wait: float, rate: float) -> None:
    assert _Resources(threads, cores, float("inf")).training_rate(cpu, wait) == pytest.approx(rate)
    assert _Resources(threads, cores, rate / 2).training_rate(cpu, wait) == pytest.approx(rate / 2)


@pytest.fixture
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name, value in CHANGES:
        monkeypatch.setattr(owner, name, value)
    monkeypatch.setattr(worker, "run_workers", run_forked_workers)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slow disk", "heavy decode", "heavy augmentation", "slow model"])
@pytest.mark.usefixtures("short_measurements")
def test_four_inputs_have_the_bound_that_they_were_made_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Suggestions help. How much needs a quiet machine: see benchmarks/speed/profiler_validation.py."""
    case = profiler_validation.cases(batch_size=16)[name]
    data = dataclasses.replace(case.data, shapes=dataclasses.replace(case.data.shapes, count=100))
    if name == "heavy decode":  # heavier, because short measurements beside other programs are wrong by 0.3 ms
        data = dataclasses.replace(data, shapes=dataclasses.replace(data.shapes, size=512, count=50))
    if name == "heavy augmentation":  # without RandAugment, whose graphs take a minute to build, each time anew
        data = dataclasses.replace(data, augment=AugmentConfig(rotation=20, noise=10, hue=0.1, sharpness=1))
    reports: list[Report] = []
    monkeypatch.setattr(profile, "profile", keep_results(profile.profile, reports))
    found = profiler_validation.follow_first_suggestion(dataclasses.replace(case, data=data))
    assert found.bound == case.bound
    if name == "slow model":
        assert found.measured is None
    else:
        assert found.measured is not None
        assert found.predicted > 1.05
        assert found.measured > 1
    (report,) = reports
    check_stages(report, data)


def keep_results(function: Callable[..., Report], results: list[Report]) -> Callable[..., Report]:
    """The function, which also appends what it returns to `results`."""

    def keeping(*args: Any, **options: Any) -> Report:
        results.append(function(*args, **options))
        return results[-1]

    return keeping


def check_stages(report: Report, data: DataConfig) -> None:
    """The stages add up to the whole chain, and have their facts."""
    bytes_per_image = data.image_size**2 * 3
    assert sum(stage.share for stage in report.stages) == pytest.approx(1)
    assert sum(stage.cpu_ms + stage.wait_ms for stage in report.stages) == pytest.approx(report.thread_ms)
    assert report.decoder_floor_ms > 0
    assert report.host_to_device_bytes == bytes_per_image
    stages = {stage.name: stage for stage in report.stages}
    assert stages["prefetch"].buffer is not None
    if data.cache == "none":
        assert list(stages) == ["read", "plan", "decode", "augment", "prefetch"]
        assert stages["decode"].bytes_per_image == bytes_per_image
        assert stages["decode"].parallelism is not None
    assert report.sentence.startswith(f"{report.bound} bound: ")


def report(bound: str = "decode") -> Report:
    stages = (
        StageTiming("read", "read", 0.1, 0.4, 0.25, 4000.0, 1000.0, None, None),
        StageTiming("decode", "decode", 1.4, 0.0, 0.7, 1000.0, 3072.0, 2, None),
        StageTiming("prefetch", "augment", 0.1, 0.0, 0.05, 900.0, 3072.0, None, 8),
    )
    suggestions = (Suggestion("smaller files", 1.8, {"tier": "jpeg:32:90"}),)
    sentence = f"{bound} bound: 70%; best change: smaller files, 1.80 times as fast."
    return Report(stages, 2, 2, 2.0, 1000.0, 1.2, 3072, 5000.0, bound, suggestions, sentence)


def test_the_text_holds_every_stage_and_ends_with_the_sentence() -> None:
    lines = profile_pipeline.report_text(report()).splitlines()
    assert lines[2].split() == ["decode", "1,000", "1.4000", "0.0000", "70.0%", "2", "3,072"]
    assert lines[3].split() == ["prefetch", "900", "0.1000", "0.0000", "5.0%", "8", "3,072"]
    assert lines[-2] == " 1.80 times as fast: smaller files"
    assert lines[-1] == report().sentence


def test_the_json_file_holds_the_report(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "profile.json"
    profile_pipeline.write_json(report(), str(path))
    read = json.loads(path.read_text())
    assert read["bound"] == "decode"
    assert [stage["cpu_ms"] for stage in read["stages"]] == [0.1, 1.4, 0.1]
    assert read["suggestions"] == [{"change": "smaller files", "gain": 1.8, "options": {"tier": "jpeg:32:90"}}]


def test_each_bar_of_the_picture_begins_where_the_previous_one_ends(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "profile.png"
    profile_pipeline.draw(report(), str(path))
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    columns_of = lambda rgb: np.nonzero((abs(pixels - rgb).sum(axis=2) < 12).any(axis=0))[0]  # noqa: E731
    blue, orange, green = columns_of([31, 119, 180]), columns_of([255, 127, 14]), columns_of([44, 160, 44])
    assert abs(orange.min() - blue.max()) <= 3
    assert abs(green.min() - orange.max()) <= 3
    assert len(orange) == pytest.approx(1.4 / 0.1 * len(green), rel=0.15)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--step", "--step_ms=3"], "--step measures the time that --step_ms (3.0) gives"),
        (["--step_ms=-1"], "--step_ms (-1.0) must not be negative"),
        (["--picture=a.jpg"], "--picture (a.jpg) must end in .png"),
        (
            ["--json=no/such/a.json"],
            "--json (no/such/a.json) lies in a directory that does not exist: create no/such first",
        ),
    ],
)
def test_bad_flags_are_refused_in_one_line(arguments: list[str], words: str) -> None:
    assert words in refused(tool("profile", *arguments))
