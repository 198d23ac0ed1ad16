"""The stages of the pipeline on rendered images: every stage of the chain, and the decoder."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from evenkeel.benchmarks import results
from evenkeel.benchmarks.peers import sources
from evenkeel.benchmarks.report.page import DECODER_STAGE
from evenkeel.pipeline.sources import shapes
from tests import forked
from tests.short_measurements import shorten

ROOT = pathlib.Path(__file__).parents[3]


def run_stages(*flags: str) -> None:
    """Runs in its own process, with short measurements of few files, which do not change the order."""
    shorten()
    sources.MIN_FILES = 64  # a batch
    forked.main("evenkeel.benchmarks.speed.stages", *flags)


@pytest.mark.slow
def test_stages_are_in_the_order_of_the_chain(tmp_path: pathlib.Path) -> None:
    for number in range(4):
        image = Image.fromarray(shapes.render(number % 2, 280, np.random.default_rng(number)))
        path = tmp_path / "photos" / shapes.CLASSES[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    source, output = f"--data.source={tmp_path / 'photos'}", f"--output={tmp_path / 'result.json'}"
    done = forked.run(run_stages, "--rounds=1", "--only=prepared224", source, output, EVENKEEL_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    stage_results = results.read(str(tmp_path / "result.json")).results
    names = [result.case.removeprefix("prepared224/") for result in stage_results]
    assert names[0] == "read"
    assert names[-1] == DECODER_STAGE
    assert names.index("decode") < names.index("augment")
    milliseconds = dict(zip(names, (result.median for result in stage_results), strict=True))
    assert milliseconds["decode"] > milliseconds["augment"] >= 0
    assert 0 < milliseconds.pop(DECODER_STAGE) < sum(milliseconds.values())


@pytest.mark.parametrize(
    ("flag", "words"),
    [("--only=jpeg", "only ('jpeg') must be one of"), ("--rounds=0", "--rounds (0) must be at least 1")],
)
def test_bad_flags_are_errors_of_one_line(flag: str, words: str) -> None:
    line = [sys.executable, "-m", "benchmarks.speed.stages", flag]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
