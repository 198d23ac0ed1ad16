"""Result files, which all benchmarks write: raw samples, their median with a 95% interval, and the machine.

    results = [Result("peers", "torch/step32", "cpu_ms_per_image", "ms", "lower", samples)]
    write("result.json", results, environment())
    print(table(read("result.json").results))

The file is `{"environment": {...}, "results": [{suite, case, metric, unit, better, samples, median, ci95}, ...],
"skipped": [{case, reason}, ...]}`. `benchmarks.export` converts it to other formats.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evenkeel.pipeline.errors import UsageError, one_of, require
from evenkeel.pipeline.system.atomic_write import write_text
from evenkeel.pipeline.system.cpu import cores

PACKAGES = ("evenkeel", "tensorflow", "tf_keras", "tensorflow-datasets", "tfa-nightly", "numpy")
ROOT = Path(__file__).resolve().parents[1]
BOOTSTRAP_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Result:
    """One metric of one case.

    Attributes:
      suite: the benchmark.
      case: what was measured, for instance "torch/step32".
      metric: what is counted, for instance "cpu_ms_per_image".
      unit: unit of the samples.
      better: "lower" or "higher".
      samples: all samples, in the order in which they were taken.
      interval: the 95% interval, where a formula gives one, as for a share of runs. None means that the interval is
        the bootstrap interval of the median.

    Raises:
      UsageError: there are no samples, or a sample is not finite.
    """

    suite: str
    case: str
    metric: str
    unit: str
    better: str
    samples: tuple[float, ...]
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        one_of("better", self.better, ("lower", "higher"))
        object.__setattr__(self, "samples", tuple(float(x) for x in self.samples))
        if self.interval is not None:
            object.__setattr__(self, "interval", tuple(float(x) for x in self.interval))
        require(bool(self.samples), f"{self.case} {self.metric}: there are no samples: a result needs at least one.")
        bad = [x for x in self.samples if not math.isfinite(x)]
        require(not bad, f"{self.case} {self.metric}: the samples contain {bad[:1]}: every sample must be finite.")

    @property
    def median(self) -> float:
        return float(np.median(self.samples))

    @property
    def ci95(self) -> tuple[float, float]:
        return self.interval or median_ci95(self.samples)


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A case that could not be measured, and the reason; a result file lists every such case."""

    case: str
    reason: str


@dataclasses.dataclass(frozen=True)
class ResultFile:
    """A result file in memory."""

    environment: dict[str, Any]
    results: list[Result]
    skipped: list[Skipped]


def median_ci95(samples: Sequence[float]) -> tuple[float, float]:
    """Returns the 95% interval (low, high) of the median, by the percentile bootstrap (Efron 1979).

    The random numbers are seeded, so equal samples give equal intervals.
    With fewer than about six samples, the interval spans nearly all of them. With one sample, the width is 0, which
    means that the spread is unknown, not that the spread is zero.

    Uses NumPy instead of scipy.stats.bootstrap, so that reading a result file needs no SciPy and the intervals in
    committed files do not change.
    """
    values = np.asarray(samples, np.float64)
    rows = np.random.default_rng(0).integers(len(values), size=(BOOTSTRAP_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[rows], axis=1), [2.5, 97.5])
    return float(low), float(high)


def environment(packages: Iterable[str] = PACKAGES, config_hash: str | None = None) -> dict[str, Any]:
    """Describes this machine: hardware, system, versions of `packages` (None if not installed) and git commit.

    Imports no framework: the versions come from package metadata, the GPUs from nvidia-smi, the commit from git.
    """
    gpus = _command_output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "gpu": gpus.splitlines() if gpus else None,
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in packages},
        "git_commit": git_commit(ROOT),
        "config_hash": config_hash,
    }


def git_commit(root: Path) -> str | None:
    """The hash of the checked-out commit, plus "-dirty" if there are changed or new sources; None without git."""
    git = ("git", "-C", str(root))
    head = _command_output(*git, "rev-parse", "HEAD")
    changed = _command_output(*git, "status", "--porcelain", "--untracked-files=all", "--", "*.py", "*.lock", "*.toml")
    return f"{head}-dirty" if head and changed else head


def package_version(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write(
    path: str | os.PathLike[str],
    results: Iterable[Result],
    environment: dict[str, Any],
    skipped: Iterable[Skipped] = (),
) -> None:
    """Writes a result file atomically."""
    document = {
        "environment": environment,
        "results": [_result_entry(result) for result in results],
        "skipped": [dataclasses.asdict(entry) for entry in skipped],
    }
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    write_text(path, text)


def _result_entry(result: Result) -> dict[str, Any]:
    fields = {name: value for name, value in dataclasses.asdict(result).items() if value is not None}
    return {**fields, "median": result.median, "ci95": result.ci95}


def read(path: str | os.PathLike[str]) -> ResultFile:
    """Reads a result file. Medians and bootstrap intervals are computed from the samples, not read.

    Raises:
      UsageError: the file is missing or not a result file.
    """
    try:
        document = json.loads(Path(path).read_text())
        fields = [f.name for f in dataclasses.fields(Result) if f.name != "interval"]
        results = [
            Result(**{name: entry[name] for name in fields}, interval=entry.get("interval"))
            for entry in document["results"]
        ]
        skipped = [Skipped(entry["case"], entry["reason"]) for entry in document.get("skipped", [])]
        return ResultFile(dict(document["environment"]), results, skipped)
    except OSError as error:
        raise UsageError(
            f"result file ({path}) cannot be read: {error.strerror}; give a file that a benchmark wrote."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path} is not a result file ({cause}): give a file that a benchmark wrote.") from error


def table(results: Iterable[Result]) -> str:
    """A text table with one line per result: suite, case, metric, median, 95% interval, unit, n."""
    rows = [("suite", "case", "metric", "median", "95% interval", "unit", "n")]
    for result in results:
        low, high = result.ci95
        interval, count = f"{low:.4g} .. {high:.4g}", str(len(result.samples))
        rows.append((result.suite, result.case, result.metric, f"{result.median:.4g}", interval, result.unit, count))
    return align_columns(rows)


def short_commit(commit: str) -> str:
    """The first 12 digits of a commit's hash, followed by "-dirty" if `commit` ends with it."""
    digits, dirty, _ = commit.partition("-dirty")
    return digits[:12] + dirty


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Joins rows of cells into lines, each column as wide as its widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _command_output(*command: str) -> str | None:
    """The stripped output of a command; None if the command is missing, fails, prints nothing or takes over 20 s."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip() or None
