"""Result files: written, read and checked; intervals; the environment of a measurement."""

import json
import os

import numpy as np
import pytest

from evenkeel.benchmarks import results
from evenkeel.benchmarks.results import (
    Result,
    Skipped,
    environment,
    median_ci95,
    read,
    table,
    write,
)
from evenkeel.pipeline.errors import UsageError

SPEED = Result("throughput", "raw224", "images_per_second", "images/s", "higher", (10.0, 30.0, 20.0))
COST = Result("throughput", "raw224", "cpu_ms_per_image", "ms", "lower", (0.5,))


def test_a_written_file_is_read_back(tmp_path):
    path = tmp_path / "deeper" / "result.json"
    skipped = [Skipped("torch/raw224", "no wheel for this machine")]
    write(path, [SPEED, COST], {"cpu": "EPYC"}, skipped)
    report = read(path)
    assert report.results == [SPEED, COST]
    assert report.environment == {"cpu": "EPYC"}
    assert report.skipped == skipped


def test_the_file_has_the_documented_fields(tmp_path):
    write(tmp_path / "result.json", [SPEED], environment())
    document = json.loads((tmp_path / "result.json").read_text())
    assert set(document) == {"environment", "results", "skipped"}
    assert document["results"][0] == {
        "suite": "throughput",
        "case": "raw224",
        "metric": "images_per_second",
        "unit": "images/s",
        "better": "higher",
        "samples": [10.0, 30.0, 20.0],
        "median": 20.0,
        "ci95": [10.0, 30.0],
    }


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write(path, [SPEED], {})
    before = path.read_text()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write(path, [COST], {})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(path, [COST], {"load": float("nan")})
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]
    write(path, [COST], {})
    assert read(path).results == [COST]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"environment": {}}', "KeyError: 'results'"),
        ('{"environment": {}, "results": [{"suite": "a"}]}', "KeyError: 'case'"),
    ],
)
def test_a_file_that_is_no_result_file_is_an_error_of_one_line(tmp_path, text, cause):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="is not a result file") as error:
        read(path)
    assert cause in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_an_error_of_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"absent.json\) cannot be read: No such file"):
        read(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("better", "samples", "message"),
    [
        ("faster", (1.0,), r"better \('faster'\) must be one of lower, higher"),
        ("lower", (), "there are no samples"),
        ("lower", (1.0, float("inf")), "must be finite"),
    ],
)
def test_a_result_checks_its_fields(better, samples, message):
    with pytest.raises(UsageError, match=message):
        Result("suite", "case", "metric", "ms", better, samples)


def test_the_interval_is_deterministic_and_covers_the_median():
    samples = list(np.random.default_rng(5).normal(100.0, 10.0, 60))
    low, high = median_ci95(samples)
    assert median_ci95(samples) == (low, high)
    assert low < np.median(samples) < high
    # The standard error of a median is 1.25 sigma / sqrt(n), here 1.6; the interval is 1.96 of them to either side.
    assert 3 < high - low < 11
    assert median_ci95([7.0]) == (7.0, 7.0)


def test_the_interval_covers_the_true_median_in_about_95_percent_of_cases():
    rng = np.random.default_rng(0)
    intervals = [median_ci95(list(rng.normal(0.0, 1.0, 25))) for _ in range(200)]
    covered = sum(low <= 0.0 <= high for low, high in intervals)
    assert 176 <= covered <= 200


def test_the_table_has_one_line_per_result():
    lines = table([SPEED, COST]).splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["throughput", "raw224", "images_per_second", "20", "10", "..", "30", "images/s", "3"]
    assert lines[0].index("unit") == lines[1].index("images/s") == lines[2].index("ms", 60)


def test_the_environment_names_hardware_system_and_versions(monkeypatch):
    described = environment(packages=("numpy", "no-such-package"), config_hash="0123")
    assert described["cpu"]
    assert described["cores"] >= 1
    assert described["versions"] == {"numpy": np.__version__, "no-such-package": None}
    assert described["config_hash"] == "0123"
    json.dumps(described)
    monkeypatch.setenv("PATH", "/nonexistent")
    without_tools = environment()
    assert without_tools["gpu"] is None
    assert without_tools["git_commit"] is None


def test_the_commit_is_that_of_the_checkout(tmp_path, monkeypatch):
    def git(*arguments):
        return results._command_output(
            "git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=b", *arguments
        )

    git("init", "--quiet")
    (tmp_path / "file.py").write_text("one")
    git("add", "file.py")
    git("commit", "--quiet", "-m", "one")
    git("tag", "-m", "a tag must not stand in for the commit", "v1")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    commit = environment()["git_commit"]
    assert commit == git("rev-parse", "HEAD")
    (tmp_path / "result.json").write_text("a result file is no source file")
    assert environment()["git_commit"] == commit
    (tmp_path / "file.py").write_text("two")
    assert environment()["git_commit"] == f"{commit}-dirty"
    (tmp_path / "file.py").write_text("one")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "module.py").write_text("not added yet")
    assert environment()["git_commit"] == f"{commit}-dirty"
