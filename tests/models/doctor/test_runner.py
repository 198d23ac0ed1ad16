"""Where an examination starts: at the first acute incident, from a checkpoint before it."""

from __future__ import annotations

import os
import pathlib

from evenkeel.models.doctor import runner
from evenkeel.models.telemetry.incidents import append_json_line


def write_run(tmp_path: pathlib.Path, *incidents: tuple[str, int]) -> str:
    directory = tmp_path / "run"
    for step in (15, 30, 45):
        (directory / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    for kind, step in incidents:
        append_json_line(str(directory / "incidents.jsonl"), {"step": step, "kind": kind})
    return str(directory)


def test_the_first_acute_incident_and_the_checkpoint_before_it(tmp_path: pathlib.Path) -> None:
    directory = write_run(tmp_path, ("overfitting", 10), ("loss_spike", 44), ("divergence", 60))
    assert runner.first_incident_step(directory) == 44
    assert runner.checkpoint_before(directory, 44) == os.path.join(directory, "checkpoints", "step-00000030")
    assert runner.checkpoint_before(directory, 12) == ""


def test_a_run_without_incidents_has_no_incident_step(tmp_path: pathlib.Path) -> None:
    assert runner.first_incident_step(write_run(tmp_path)) == 0
    assert runner.first_incident_step("") == 0
