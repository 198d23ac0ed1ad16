"""A run, or a configuration, before the doctor: what it starts from, and what comes of the fix.

diagnosis = examine(config, model_dir="runs/first", output="runs/first", steps=300)
print(fixed(config, diagnosis, model_dir="runs/first", output="runs/first"))
"""

from __future__ import annotations

import json
import os
from typing import Any

from evenkeel.models.config import TrainConfig
from evenkeel.models.doctor.doctor import diagnose
from evenkeel.models.doctor.replay import Bench, changed
from evenkeel.models.preflight import data_checks
from evenkeel.models.preflight.preflight import preflight
from evenkeel.models.stability.diagnosis import Diagnosis, command_line
from evenkeel.models.stability.guard import ACUTE, MARGIN
from evenkeel.models.train import train
from evenkeel.models.training import checkpoints


def examine(config: TrainConfig, model_dir: str, output: str, steps: int) -> Diagnosis:
    """Preflight, a probe and replays of `config`; from before the first incident of `model_dir`, if it is a late one.

    Raises:
      UsageError: the configuration cannot be run.
    """
    bench = Bench(config.strategy)
    data = bench.data_of(config)
    findings = preflight(config, data, bench.devices) if config.preflight != "off" else []
    incident = first_incident(model_dir)
    checkpoint = before(model_dir, incident) if incident > steps else ""
    return diagnose(
        config,
        bench,
        tuple(findings),
        tuple(data_checks.pictures(data)),
        source=model_dir or "the configuration",
        output=output,
        steps=max(steps, incident - _step(checkpoint) + steps // 2) if checkpoint else steps,
        checkpoint=checkpoint,
    )


def first_incident(model_dir: str) -> int:
    """The step of the first acute one; 0 where there is none."""
    path = os.path.join(model_dir, "incidents.jsonl")
    if not model_dir or not os.path.exists(path):
        return 0
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return min((line["step"] for line in lines if line["kind"] in ACUTE), default=0)


def before(model_dir: str, step: int) -> str:
    """The newest checkpoint from before `step`; "" where none is left."""
    directory = os.path.join(model_dir, "checkpoints")
    known = [each for each in checkpoints.steps(directory) if each <= step - MARGIN]
    return os.path.join(directory, f"step-{max(known):08d}") if known else ""


def fixed(config: TrainConfig, diagnosis: Diagnosis, model_dir: str, output: str) -> str:
    """Trains with the fix, and without it where no run has: a line with both results."""
    if not diagnosis.fix:
        return "no change that was tried helps: there is nothing to train again with."
    old = _summary(model_dir) or train(config, os.path.join(output, "unchanged"), overwrite=True)
    new = train(changed(config, diagnosis.fix), os.path.join(output, "fixed"), overwrite=True)
    flags = " ".join(command_line(diagnosis.fix))
    return f"with {flags}: {_result(new)}; without: {_result(old)}."


def _summary(model_dir: str) -> dict[str, Any] | None:
    path = os.path.join(model_dir, "summary.json")
    if not model_dir or not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _result(summary: dict[str, Any]) -> str:
    final = summary.get("final")
    if not final:
        return f"{summary['status']} after {summary['steps']} steps"
    return f"accuracy {final['accuracy']:.1%}, loss {final['loss']:.3g} after {summary['steps']} steps"


def _step(checkpoint: str) -> int:
    return int(checkpoint.rpartition("-")[2])
