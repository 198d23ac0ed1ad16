"""The result file of every benchmark: raw samples, their median with a 95% interval, and where they were taken.

    results = [Result("peers", "torch/step32", "cpu_ms_per_image", "ms", "lower", samples)]
    write("result.json", results, environment())
    print(table(read("result.json").results))

The file is `{"environment": {...}, "results": [{suite, case, metric, unit, better, samples, median, ci95}, ...],
"skipped": [{case, reason}, ...]}`. Every other format is an exporter over it.
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
_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Result:
    """One metric of one case: every sample, in the order it was taken.

    `interval` is the 95% interval of a figure that has a formula for it, as a share of runs has.
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
        require(bool(self.samples), f"{self.case} {self.metric}: samples are empty; a result needs at least one.")
        bad = [x for x in self.samples if not math.isfinite(x)]
        require(not bad, f"{self.case} {self.metric}: samples hold {bad[:1]}; every sample must be finite.")

    @property
    def median(self) -> float:
        return float(np.median(self.samples))

    @property
    def ci95(self) -> tuple[float, float]:
        return self.interval or median_ci95(self.samples)


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A case that could not be measured, and why; a result file never leaves one out in silence."""

    case: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    """A result file in memory."""

    environment: dict[str, Any]
    results: list[Result]
    skipped: list[Skipped]


def median_ci95(samples: Sequence[float]) -> tuple[float, float]:
    """Percentile bootstrap of the median (Efron 1979), seeded: equal samples give equal intervals.

    Below about six samples it spans nearly all of them, and one sample has no spread at all: an interval of width 0
    then says that nothing is known, not that nothing varies.
    """
    x = np.asarray(samples, np.float64)
    rows = np.random.default_rng(0).integers(len(x), size=(_RESAMPLES, len(x)))
    low, high = np.percentile(np.median(x[rows], axis=1), [2.5, 97.5])
    return float(low), float(high)


def environment(packages: Iterable[str] = PACKAGES, config_hash: str | None = None) -> dict[str, Any]:
    """Where a number comes from: hardware, system, versions of `packages` (null: not installed) and commit.

    Reads no framework: versions come from package metadata, GPUs from nvidia-smi, the commit from git.
    """
    gpus = _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "gpu": gpus.splitlines() if gpus else None,
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "git_commit": commit(ROOT),
        "config_hash": config_hash,
    }


def commit(root: Path) -> str | None:
    """The hash of what is checked out there, "-dirty" behind it where sources are changed or new; None without git."""
    git = ("git", "-C", str(root))
    head = _output(*git, "rev-parse", "HEAD")
    changed = _output(*git, "status", "--porcelain", "--untracked-files=all", "--", "*.py", "*.lock", "*.toml")
    return f"{head}-dirty" if head and changed else head


def version(package: str) -> str | None:
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
    """Writes a result file, whole or not at all: beside `path` first, then renamed over it."""
    document = {
        "environment": environment,
        "results": [_entry(result) for result in results],
        "skipped": [dataclasses.asdict(s) for s in skipped],
    }
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    write_text(path, text)


def _entry(result: Result) -> dict[str, Any]:
    fields = {name: value for name, value in dataclasses.asdict(result).items() if value is not None}
    return {**fields, "median": result.median, "ci95": result.ci95}


def read(path: str | os.PathLike[str]) -> Report:
    """Reads a result file; median and interval follow from the samples and are not taken from it.

    Raises:
      UsageError: no such file, or not a result file.
    """
    try:
        document = json.loads(Path(path).read_text())
        fields = [f.name for f in dataclasses.fields(Result) if f.name != "interval"]
        results = [
            Result(**{name: entry[name] for name in fields}, interval=entry.get("interval"))
            for entry in document["results"]
        ]
        skipped = [Skipped(entry["case"], entry["reason"]) for entry in document.get("skipped", [])]
        return Report(dict(document["environment"]), results, skipped)
    except OSError as error:
        raise UsageError(
            f"result file ({path}) cannot be read: {error.strerror}. Give one a benchmark wrote."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise UsageError(f"result file ({path}) is not one ({cause}). Give one a benchmark wrote.") from error


def table(results: Iterable[Result]) -> str:
    """One line a result: `suite case metric median [ci95] unit n`, columns aligned."""
    rows = [("suite", "case", "metric", "median", "95% interval", "unit", "n")]
    for r in results:
        low, high = r.ci95
        interval = f"{low:.4g} .. {high:.4g}"
        rows.append((r.suite, r.case, r.metric, f"{r.median:.4g}", interval, r.unit, str(len(r.samples))))
    return aligned(rows)


def short(commit: str) -> str:
    """The first 12 digits, and that there are changes."""
    digits, dirty, _ = commit.partition("-dirty")
    return digits[:12] + dirty


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Text columns, each as wide as its widest cell."""
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


def _output(*command: str) -> str | None:
    """What a command prints, or None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
