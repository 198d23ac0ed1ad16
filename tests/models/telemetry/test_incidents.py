"""Incidents: a JSON line each, counts by kind, and calls of the listeners."""

from __future__ import annotations

import json
import pathlib

import pytest

from evenkeel.models.telemetry.incidents import Incidents


def test_incidents_are_written_counted_and_passed_to_listeners(tmp_path: pathlib.Path) -> None:
    path, received = tmp_path / "incidents.jsonl", []
    incidents = Incidents(str(path))
    incidents.listeners.append(lambda *incident: received.append(incident))
    incidents.record(120, "loss_spike", {"z": 9.5}, "rolled back to step 100")
    incidents.record(150, "loss_spike", {"z": float("inf")}, "none", confidence=0.5)
    incidents.record(160, "dying", {"share": 0.7}, "none")
    assert incidents.counts == {"loss_spike": 2, "dying": 1}
    assert received[0] == (120, "loss_spike", {"z": 9.5}, "rolled back to step 100")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {
        "step": 120,
        "kind": "loss_spike",
        "evidence": {"z": 9.5},
        "action": "rolled back to step 100",
        "cause": None,
        "confidence": 1.0,
    }
    assert lines[1]["evidence"] == {"z": "inf"}, "JSON has no infinity"
    assert lines[1]["confidence"] == 0.5


def test_without_a_path_nothing_is_written() -> None:
    incidents = Incidents()
    incidents.record(1, "stall", {}, "none")
    assert incidents.counts == {"stall": 1}


def test_a_resumed_run_drops_the_lines_after_its_checkpoint(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "incidents.jsonl"
    incidents = Incidents(str(path))
    incidents.record(120, "loss_spike", {"z": 9.5}, "none")
    state = json.loads(json.dumps(incidents.state()))
    incidents.record(150, "stall", {}, "none")
    path.write_text(path.read_text() + '{"step": 160, "ki')  # the writer was killed
    resumed = Incidents(str(path), state)
    assert resumed.counts == {"loss_spike": 1}
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [120]
    resumed.record(150, "stall", {}, "none")
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [120, 150]
    Incidents(str(path), {"counts": {}, "lines": 0})  # killed before its first checkpoint
    assert not path.exists()


def test_an_incident_that_cannot_be_written_is_logged(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    incidents = Incidents(str(tmp_path / "absent" / "incidents.jsonl"))
    incidents.record(150, "stall", {}, "none")
    assert incidents.counts == {"stall": 1}
    assert incidents.state()["lines"] == 0
    assert "stall at step 150 could not be written to" in caplog.text
