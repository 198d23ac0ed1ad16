"""The formats of other tools, against their schema and example."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys

import pytest

from evenkeel.benchmarks import results
from evenkeel.benchmarks.results import Result

ROOT = pathlib.Path(__file__).parents[2]
# https://bencher.dev/docs/reference/bencher-metric-format: objects of objects of these, `value` required.
BMF = {"value", "lower_value", "upper_value"}
RESULTS = [
    Result("pipeline", "decode", "cpu_ms_per_image", "ms", "lower", (1.0, 1.2, 1.1)),
    Result("pipeline", "decode", "throughput", "images/s", "higher", (900.0, 800.0)),
    Result("stability", "heldout", "recall", "share", "higher", (0.95,), interval=(0.9, 0.98)),
]


def run_export(tmp_path: pathlib.Path, *flags: str) -> subprocess.CompletedProcess:
    results.write(tmp_path / "result.json", RESULTS, {"cpu": "a CPU", "cores": 2, "git_commit": "abc"})
    command = [sys.executable, "-m", "benchmarks.export", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_bencher_metric_format(tmp_path: pathlib.Path) -> None:
    done = run_export(tmp_path, str(tmp_path / "result.json"), f"--output={tmp_path / 'bmf.json'}")
    assert done.returncode == 0, done.stderr
    benchmarks = json.loads((tmp_path / "bmf.json").read_text())
    assert set(benchmarks) == {"pipeline/decode", "stability/heldout"}
    for measures in benchmarks.values():
        for name, values in measures.items():
            assert len(name) <= 64
            assert set(values) <= BMF
            assert values["lower_value"] <= values["value"] <= values["upper_value"]
            assert all(type(value) is float for value in values.values())
    assert benchmarks["pipeline/decode"]["cpu_ms_per_image"]["value"] == 1.1
    assert benchmarks["stability/heldout"]["recall"] == {"value": 0.95, "lower_value": 0.9, "upper_value": 0.98}


def test_github_gets_one_file_per_direction(tmp_path: pathlib.Path) -> None:
    flags = ["--format=github", f"--output={tmp_path / 'bench'}"]
    done = run_export(tmp_path, str(tmp_path / "result.json"), *flags)
    assert done.returncode == 0, done.stderr
    lower, higher = (json.loads((tmp_path / f"bench-{better}.json").read_text()) for better in ("lower", "higher"))
    assert [entry["name"] for entry in lower] == ["pipeline/decode/cpu_ms_per_image"]
    assert [entry["name"] for entry in higher] == ["pipeline/decode/throughput", "stability/heldout/recall"]
    for entry in [*lower, *higher]:
        # The action's extractCustomBenchmarkResult takes name, unit and value, and strings for range and extra.
        assert set(entry) == {"name", "unit", "value", "range", "extra"}
        assert type(entry["value"]) is float
        assert re.fullmatch(r"\S+ to \S+", entry["range"])
    assert lower[0]["extra"] == "n = 3; a CPU, 2 cores; commit abc"


def test_no_file_is_written_for_a_direction_without_metrics(tmp_path: pathlib.Path) -> None:
    results.write(tmp_path / "lower.json", RESULTS[:1], {"cpu": "a CPU", "cores": 2, "git_commit": "abc"})
    done = run_export(tmp_path, str(tmp_path / "lower.json"), "--format=github", f"--output={tmp_path / 'bench'}")
    assert done.returncode == 0, done.stderr
    assert "bench-higher.json is not written: the results have no metric for which higher is better." in done.stdout
    assert [path.name for path in tmp_path.glob("bench-*")] == ["bench-lower.json"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "give one result file"),
        (["none.json", "--output=x"], "result file (none.json) cannot be read"),
        (["result.json"], "--output is missing"),
        (["result.json", "--output=x", "--format=csv"], "format ('csv') must be one of bencher, github"),
        (["result.json", "--output=/nowhere/x"], "--output (/nowhere/x) cannot be written"),
    ],
)
def test_bad_arguments_are_errors_of_one_line(flags: list[str], words: str, tmp_path: pathlib.Path) -> None:
    arguments = [str(tmp_path / flag) if flag == "result.json" else flag for flag in flags]
    done = run_export(tmp_path, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
