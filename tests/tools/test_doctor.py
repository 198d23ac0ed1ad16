"""The doctor's command line."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from tests import forked

ROOT = pathlib.Path(__file__).parents[2]


def test_help_of_the_doctor_needs_no_tensorflow() -> None:
    code = "import runpy, sys; sys.modules['tensorflow'] = sys.modules['tf_keras'] = None; sys.argv[0] = 'doctor'\n"
    code += "runpy.run_module('tools.doctor', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--preflight" in done.stdout


@pytest.mark.parametrize("flags", [[], ["--preflight=off"]])
def test_the_doctor_asks_for_a_run(flags: list[str]) -> None:
    done = forked.run("tools.doctor", *flags)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: say what to examine: --model_dir=RUN")


@pytest.mark.slow
def test_the_doctor_prints_and_writes_every_finding(tmp_path: pathlib.Path) -> None:
    tiny = ["--data.shapes.size=16", "--data.shapes.count=300", "--data.image_size=16", "--batch_size=20"]
    tiny += [
        "--model.name=cnn",
        "--model.width=4",
        "--epochs=50",
        "--precision=float32",
        "--optimizer.learning_rate=.02",
    ]
    done = forked.run("tools.doctor", "--preflight_only", *tiny, f"--output={tmp_path / 'health'}")
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / "health" / "preflight.json").read_text())
    assert len(done.stdout.splitlines()) == len(written) == 44
    assert all(line.startswith("ok ") for line in done.stdout.splitlines())
    assert (tmp_path / "health" / "range_test.png").read_bytes().startswith(b"\x89PNG")
    refused = forked.run("tools.doctor", "--preflight_only", "--preflight=on", *tiny, "--nodata.normalize")
    assert refused.returncode == 4, refused.stderr
    assert any(line.startswith("FAIL input_scale: ") for line in refused.stdout.splitlines())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--probe_steps=5"], "--probe_steps (5) must be at least 20: fewer steps show nothing."),
        (["--model_dir=/nowhere/run"], "/nowhere/run/config.json cannot be read"),
        (["--fixx"], "Unknown command line flag 'fixx'"),
        (["--model.patch=rleu"], "Did you mean 'relu'?"),
    ],
)
def test_bad_flags_are_one_line(flags: list[str], words: str) -> None:
    done = forked.run("tools.doctor", *flags)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert words in line
