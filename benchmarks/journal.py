"""A file with one line per finished case, so that an interrupted benchmark continues where it stopped.

    journal = Journal("result.jsonl", settings={"suite": "full"})
    if "clean/cnn/shapes/0" not in journal.records:
        journal.add("clean/cnn/shapes/0", {"accuracy": 0.93})

The first line holds the settings of the run. An incomplete last line, left by a killed process, is removed.
"""

from __future__ import annotations

import json
import os
from typing import Any

from evenkeel.pipeline.errors import UsageError


class Journal:
    """The finished cases of a benchmark, on disk.

    Attributes:
      records: {case: values} of the finished cases.
    """

    def __init__(self, path: str, settings: dict[str, Any] | None) -> None:
        """Opens the journal at `path`, or starts a new one with `settings`.

        With `settings` None, the journal must exist, and its own settings are accepted.

        Raises:
          UsageError: the file cannot be used, or was written with other settings.
        """
        self._path = path
        self.records: dict[str, dict[str, Any]] = {}
        lines = self._read_complete_lines()
        if not lines and settings is None:
            raise UsageError(f"{path} holds no cases: give the --output of a suite that has been run.")
        if not lines:
            self._write_line({"settings": settings}, "w")
            return
        stored = lines[0].get("settings")
        if settings is not None and stored != settings:
            raise UsageError(
                f"{path} is the journal of a run with other settings ({stored}, not {settings}): give another --output"
                " or remove the journal."
            )
        self.records = {line["case"]: line["values"] for line in lines[1:]}

    def add(self, case: str, values: dict[str, Any]) -> None:
        """Appends a finished case; returns once the case is on disk."""
        self.records[case] = values
        self._write_line({"case": case, "values": values}, "a")

    def _write_line(self, entry: dict[str, Any], mode: str) -> None:
        try:
            with open(self._path, mode, encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(
                f"the journal {self._path} cannot be written: {error.strerror}; give another --output."
            ) from error

    def _read_complete_lines(self) -> list[dict[str, Any]]:
        if not os.path.exists(self._path):
            return []
        with open(self._path, encoding="utf-8") as file:
            text = file.read()
        complete = text[: text.rfind("\n") + 1]
        if complete != text:
            with open(self._path, "w", encoding="utf-8") as file:
                file.write(complete)
        try:
            return [json.loads(line) for line in complete.splitlines()]
        except ValueError as error:
            raise UsageError(f"{self._path} is not a journal ({error}): give another --output.") from error
