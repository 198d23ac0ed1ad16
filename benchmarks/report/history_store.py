"""Stores benchmark results over commits, in one file of JSON lines per machine.

    append_results(results.read("result.json"), "history")
    history = read_history("history")  # {machine: its lines, oldest first}

Lines are appended and never changed. CPU, cores and GPUs identify a machine, so that a curve never
mixes the results of two machines. A machine with a newer kernel or driver counts as the same machine.
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
    """Appends one line with the results to the file of the machine they come from, and returns the path of the file.

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
            # A killed process may have left an incomplete line, to which the new line would be joined.
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UsageError(
            f"--history ({directory}) cannot be written: {error.strerror}; choose another directory."
        ) from error
    return path


def read_history(directory: str) -> dict[str, list[dict[str, Any]]]:
    """Returns {machine fingerprint: its lines, oldest first}.

    An incomplete last line, left by a killed process, is ignored.

    Raises:
      UsageError: the directory does not exist, has no lines, or has a line that is not JSON.
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
    """Returns 12 hexadecimal digits that identify the machine: equal for all results of one machine."""
    gpus = [str(gpu).partition(",")[0] for gpu in environment.get("gpu") or ()]  # without the version of the driver
    machine = [environment.get("cpu"), environment.get("cores"), gpus]
    return hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:12]
