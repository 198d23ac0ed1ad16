"""What went wrong in a run and what was done about it: a line each of incidents.jsonl, and how many of each kind.

incidents = Incidents(os.path.join(model_dir, "incidents.jsonl"))
incidents.tell(step=120, kind="loss_spike", evidence={"z": 9.1}, action="none")
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging

from evenkeel.models.distribute.io_errors import UNWRITTEN, reason
from evenkeel.pipeline.system.atomic_write import write_text

Listener = Callable[[int, str, dict[str, float], str], None]


class Incidents:
    """`counts` by kind; lines go to `path`, where that is given, and every incident to `listeners`.

    `state` is what a checkpoint held of earlier ones, nothing for one before the first; lines that came after it are
    dropped, as a resumed run comes to the same steps again.
    """

    def __init__(self, path: str | None = None, state: dict[str, Any] | None = None) -> None:
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
        return {"counts": self.counts, "lines": self._lines}

    def tell(self, step: int, kind: str, evidence: dict[str, float], action: str, confidence: float = 1.0) -> None:
        """`evidence` are the numbers that show it, `action` what was done, "none" included."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self._path:
            # JSON knows no infinity: a number that is not one is written as its name.
            plain = {name: value if math.isfinite(value) else str(value) for name, value in evidence.items()}
            line = {"step": step, "kind": kind, "evidence": plain, "action": action}
            try:
                append_json_line(self._path, {**line, "cause": None, "confidence": confidence})
                self._lines += 1
            except UNWRITTEN as error:
                logging.error("%s at step %d could not be written to %s: %s", kind, step, self._path, reason(error))
        for listener in self.listeners:
            listener(step, kind, evidence, action)


def append_json_line(path: str, values: dict[str, Any]) -> None:
    with tf.io.gfile.GFile(path, "a") as file:
        file.write(json.dumps(values) + "\n")
