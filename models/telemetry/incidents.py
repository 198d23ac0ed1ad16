"""Writes incidents of a run (what went wrong, and what was done) to incidents.jsonl, and counts them by kind.

incidents = Incidents(os.path.join(model_dir, "incidents.jsonl"))
incidents.record(step=120, kind="loss_spike", evidence={"z": 9.1}, action="none")
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging

from evenkeel.models.distribute.io_errors import WRITE_ERRORS, summarize_error
from evenkeel.pipeline.system.atomic_write import write_text

Listener = Callable[[int, str, dict[str, float], str], None]  # called with step, kind, evidence, action


class Incidents:
    """Records the incidents of a run.

    Attributes:
      counts: {kind: number of incidents}.
      listeners: functions called with each incident: step, kind, evidence, action.
    """

    def __init__(self, path: str | None = None, state: dict[str, Any] | None = None) -> None:
        """Starts a record.

        Args:
          path: the file to append to; None writes no file.
          state: the `state()` in the checkpoint that a run resumes from. Lines written after that checkpoint are
            removed from the file, because the resumed run repeats those steps. None for a new run.
        """
        self._path = path
        self.counts: dict[str, int] = dict(state["counts"]) if state else {}
        self._lines = state["lines"] if state else 0
        self.listeners: list[Listener] = []
        if path and state is not None and tf.io.gfile.exists(path):
            with tf.io.gfile.GFile(path) as file:
                lines = file.read().splitlines()
            kept = lines[: self._lines]
            write_text(path, "\n".join(kept) + "\n") if kept else tf.io.gfile.remove(path)

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint: the counts and the number of lines in the file."""
        return {"counts": self.counts, "lines": self._lines}

    def record(self, step: int, kind: str, evidence: dict[str, float], action: str, confidence: float = 1.0) -> None:
        """Counts an incident, appends its line, and calls the listeners; if the line cannot be written, logs an error.

        Args:
          step: the step at which the incident was seen.
          kind: name of the incident, such as loss_spike.
          evidence: the numbers that show the incident.
          action: what was done, or "none".
          confidence: probability that the incident is real.
        """
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self._path:
            # JSON has no infinity and no NaN: they are written as strings.
            plain = {name: value if math.isfinite(value) else str(value) for name, value in evidence.items()}
            line = {"step": step, "kind": kind, "evidence": plain, "action": action}
            try:
                append_json_line(self._path, {**line, "cause": None, "confidence": confidence})
                self._lines += 1
            except WRITE_ERRORS as error:
                cause = summarize_error(error)
                logging.error("%s at step %d could not be written to %s: %s", kind, step, self._path, cause)
        for listener in self.listeners:
            listener(step, kind, evidence, action)


def append_json_line(path: str, values: dict[str, Any]) -> None:
    with tf.io.gfile.GFile(path, "a") as file:
        file.write(json.dumps(values) + "\n")
