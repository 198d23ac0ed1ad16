"""The time of the first call, of a fake version whose `tools.train` only writes summary.json."""

from __future__ import annotations

import pathlib
import sys

import pytest

from evenkeel.benchmarks.regression.first_call import measure_first_call
from evenkeel.benchmarks.timing import Sample
from evenkeel.pipeline.errors import UsageError

TRAIN = """
import json, pathlib, sys
flags = dict(flag[2:].split("=") for flag in sys.argv[1:])
if flags["preset"] != "quick" or flags.get("preflight") == "none":
    sys.exit("error: bad flag")
run = pathlib.Path(flags["model_dir"])
run.mkdir()
(run / "summary.json").write_text(json.dumps({"first_call": {"wall_seconds": 9.0, "cpu_seconds": 12.0}}))
"""


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").touch()
    (tmp_path / "tools" / "train.py").write_text(TRAIN)
    return tmp_path


def test_the_time_is_that_of_the_summary(root: pathlib.Path) -> None:
    assert measure_first_call(sys.executable, root) == Sample(cpu_seconds=12.0, wall_seconds=9.0)


def test_a_failing_command_is_an_error_with_its_message(root: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="ended with exit code 1: error: bad flag"):
        measure_first_call(sys.executable, root, "--preflight=none")
