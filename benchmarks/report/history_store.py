"""Benchmark results over commits: one file of JSON lines per machine.

    append_results(results.read("result.json"), "history")
    history = read_history("history")  # {machine: its lines, oldest first}

Lines are only ever appended. CPU, cores and GPUs identify a machine, so that one curve never mixes results of two
machines; a newer kernel or driver does not make it another machine.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
from typing import Any

from evenkeel.benchmarks.results import ResultFile
from evenkeel.pipeline.errors import UsageError, require

MACHINE_FIELDS = ("cpu", "cores", "gpu", "os")


def append_results(report: ResultFile, directory: str) -> str:
    """Appends one line with the results to the file of their machine and returns the file's path.

    When the function returns, the whole line is on disk.

    Raises:
      UsageError: the file cannot be written.
    """
    line = {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": report.environment.get("git_commit"),
        "machine": {name: report.environment.get(name) for name in MACHINE_FIELDS},
        "results": [
            {**dataclasses.asdict(result), "samples": len(result.samples), "median": result.median, "ci95": result.ci95}
            for result in report.results
        ],
    }
    path = os.path.join(directory, f"{machine_fingerprint(report.environment)}.jsonl")
    try:
        os.makedirs(directory, exist_ok=True)
        with open(path, "ab+") as file:
            file.seek(0)
            # A killed process may have left an incomplete line, which would spoil this one.
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(f"--history ({directory}) cannot be written: {error.strerror}; choose another.") from error
    return path


def read_history(directory: str) -> dict[str, list[dict[str, Any]]]:
    """{machine fingerprint: its lines, oldest first}, without an incomplete last line of a killed process.

    Raises:
      UsageError: the directory does not exist or has no lines, or a line is not JSON.
    """
    history: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(pathlib.Path(directory).glob("*.jsonl")):
        text = path.read_text(encoding="utf-8")
        try:
            lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        except ValueError as error:
            raise UsageError(f"{path} is not a history file ({error}): repair or remove it.") from error
        for line in lines:
            history.setdefault(machine_fingerprint(line["machine"]), []).append(line)
    require(bool(history), f"--history ({directory}) has no results yet: add a result file first.")
    return history


def machine_fingerprint(environment: dict[str, Any]) -> str:
    """12 hexadecimal digits that all results of one machine share."""
    gpus = [str(gpu).partition(",")[0] for gpu in environment.get("gpu") or ()]  # without the driver's version
    machine = [environment.get("cpu"), environment.get("cores"), gpus]
    return hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:12]
