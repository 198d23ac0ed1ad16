"""Incidents: a line of JSON each, a count of each kind, told to whoever listens."""

from __future__ import annotations

import json
import pathlib

from models.incidents import Incidents


def test_incidents_are_written_counted_and_told(tmp_path: pathlib.Path) -> None:
    path, heard = tmp_path / "incidents.jsonl", []
    incidents = Incidents(str(path))
    incidents.listeners.append(lambda *incident: heard.append(incident))
    incidents.tell(120, "loss_spike", {"z": 9.5}, "rolled back to step 100")
    incidents.tell(150, "loss_spike", {"z": float("inf")}, "none", confidence=0.5)
    incidents.tell(160, "dying", {"share": 0.7}, "none")
    assert incidents.counts == {"loss_spike": 2, "dying": 1}
    assert heard[0] == (120, "loss_spike", {"z": 9.5}, "rolled back to step 100")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {
        "step": 120,
        "kind": "loss_spike",
        "evidence": {"z": 9.5},
        "action": "rolled back to step 100",
        "cause": None,
        "confidence": 1.0,
    }
    assert lines[1]["evidence"] == {"z": "inf"}, "JSON knows no infinity"
    assert lines[1]["confidence"] == 0.5


def test_nothing_is_written_without_a_path() -> None:
    incidents = Incidents()
    incidents.tell(1, "stall", {}, "none")
    assert incidents.counts == {"stall": 1}
