"""What a long benchmark has found so far, a line for each case: an interrupted one goes on where it was.

    journal = Journal("result.jsonl", settings={"suite": "full"})
    if "clean/cnn/shapes/0" not in journal.records:
        journal.add("clean/cnn/shapes/0", {"accuracy": 0.93})

The first line holds the settings; a journal of others is refused, unless they are None: then it is as it was found. A
line that a kill cut short is left out.
"""

from __future__ import annotations

import json
import os
from typing import Any

from evenkeel.pipeline.errors import UsageError


class Journal:
    """`records` are {case: values}, every one on disk before `add` returns.

    Raises:
      UsageError: the file cannot be used, or was written with other settings.
    """

    def __init__(self, path: str, settings: dict[str, Any] | None) -> None:
        self._path = path
        self.records: dict[str, dict[str, Any]] = {}
        lines = self._complete_lines()
        if not lines and settings is None:
            raise UsageError(f"{path} holds no cases: give the --output of a suite that has been run.")
        if not lines:
            self._write(json.dumps({"settings": settings}), "w")
            return
        found = lines[0].get("settings")
        if settings is not None and found != settings:
            raise UsageError(
                f"{path} is the journal of a run with other settings ({found}, not {settings}): give another --output"
                " or remove it."
            )
        self.records = {line["case"]: line["values"] for line in lines[1:]}

    def add(self, case: str, values: dict[str, Any]) -> None:
        self.records[case] = values
        self._write(json.dumps({"case": case, "values": values}), "a")

    def _write(self, line: str, mode: str) -> None:
        try:
            with open(self._path, mode, encoding="utf-8") as file:
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(
                f"the journal {self._path} cannot be written: {error.strerror}; give another --output."
            ) from error

    def _complete_lines(self) -> list[dict[str, Any]]:
        if not os.path.exists(self._path):
            return []
        with open(self._path, encoding="utf-8") as file:
            text = file.read()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            with open(self._path, "w", encoding="utf-8") as file:
                file.write(whole)
        try:
            return [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise UsageError(f"{self._path} is not a journal ({error}): give another --output.") from error
