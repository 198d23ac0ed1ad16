"""Diagnosis of a run or a configuration, and training with the fix.

diagnosis = diagnose_run(config, model_dir="runs/first", output="runs/first", steps=300)
print(train_with_fix(config, diagnosis, model_dir="runs/first", output="runs/first"))
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from typing import Any

from evenkeel.models.config import TrainConfig, with_options
from evenkeel.models.doctor.doctor import diagnose
from evenkeel.models.doctor.replay import ReplayEngine, without_batch_options
from evenkeel.models.networks.users_network import read_files_again
from evenkeel.models.preflight import data_checks
from evenkeel.models.preflight.preflight import run_checks
from evenkeel.models.run import checkpoints, run_data
from evenkeel.models.stability.diagnosis import Diagnosis, Finding, command_line
from evenkeel.models.stability.guard import ALARM_LAG_STEPS, ROLLBACK_ALARMS
from evenkeel.models.train import train
from evenkeel.pipeline import dataset
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import Dataset


def diagnose_run(
    config: TrainConfig,
    model_dir: str,
    output: str,
    steps: int,
    budget_seconds: float | None = None,
    on_update: Callable[[Diagnosis, str], None] = lambda diagnosis, line: None,
) -> Diagnosis:
    """Diagnoses `config` by preflight checks and replays of `steps` steps.

        diagnosis = evenkeel.diagnose_run(config, model_dir="runs/first", output="runs/first", steps=300)

    If the first acute incident of the run in `model_dir` comes later than `steps`, replays start from the newest
    checkpoint before this incident and are long enough to reach it. `model_dir` may be empty. `output` is a directory
    for files that a fix needs. `budget_seconds` and `on_update` are those of `doctor.diagnose`.

    Raises:
      UsageError: the configuration cannot be run.
    """
    read_files_again()
    loader = RunLoader(config, model_dir)
    engine = ReplayEngine(config.strategy, load_dataset=loader)
    data = engine.load_data(config)
    findings = run_checks(config, data, engine.devices) if config.preflight != "off" else []
    findings += loader.findings
    incident_step = first_incident_step(model_dir)
    checkpoint = checkpoint_before(model_dir, incident_step) if incident_step > steps else ""
    if checkpoint:
        steps = max(steps, incident_step - checkpoints.parse_step(checkpoint) + steps // 2)
    return diagnose(
        config,
        engine,
        tuple(findings),
        tuple(data_checks.outlier_pictures(data)),
        source=model_dir or "the configuration",
        output=output,
        steps=steps,
        checkpoint=checkpoint,
        budget_seconds=budget_seconds,
        on_update=on_update,
    )


class RunLoader:
    """Loads data sets for replays of a run: with the classes of the run and, for its own images, its normalization.

    Attributes:
      findings: a failed finding if the images have changed since the run was trained.
    """

    def __init__(self, config: TrainConfig, model_dir: str) -> None:
        """`model_dir` may be empty: then data sets are loaded as they are."""
        self.findings: list[Finding] = []
        self._config, self._model_dir = without_batch_options(config.data), model_dir
        self._stored = run_data.read_run_data(model_dir) if model_dir else None

    def __call__(self, config: DataConfig) -> Dataset:
        data = dataset.load_dataset(config)
        if self._stored is None:
            return data
        applied = self._stored.apply(data)
        if config != self._config:  # a replay with other images, or without normalization
            return dataclasses.replace(applied, mean=data.mean, std=data.std)
        changes = run_data.find_changes(self._model_dir, self._stored, config, data)
        if changes and not self.findings:
            remedy = "Restore the images, or take what follows as a diagnosis of the images as they are now."
            self.findings.append(
                Finding("run_data", False, "; ".join(changes), "the images that the run was trained on", remedy)
            )
        return applied


def first_incident_step(model_dir: str) -> int:
    """The step of the first acute incident in `model_dir`; 0 if there is none."""
    path = os.path.join(model_dir, "incidents.jsonl")
    if not model_dir or not os.path.exists(path):
        return 0
    with open(path, encoding="utf-8") as file:
        incidents = [json.loads(line) for line in file]
    return min((incident["step"] for incident in incidents if incident["kind"] in ROLLBACK_ALARMS), default=0)


def checkpoint_before(model_dir: str, step: int) -> str:
    """Path of the newest checkpoint that precedes `step` by `ALARM_LAG_STEPS`; "" if there is none."""
    directory = os.path.join(model_dir, "checkpoints")
    earlier = [saved for saved in checkpoints.checkpoint_steps(directory) if saved <= step - ALARM_LAG_STEPS]
    return os.path.join(directory, checkpoints.checkpoint_name(max(earlier))) if earlier else ""


def train_with_fix(config: TrainConfig, diagnosis: Diagnosis, model_dir: str, output: str) -> str:
    """Trains with the fix, and also without it if `model_dir` holds no run; returns a line with both results."""
    if not diagnosis.fix:
        return "no change that was tried helps: nothing was trained again."
    without = _read_summary(model_dir) or train(config, os.path.join(output, "unchanged"), overwrite=True)
    fixed = train(with_options(config, diagnosis.fix), os.path.join(output, "fixed"), overwrite=True)
    flags = " ".join(command_line(diagnosis.fix))
    return f"with {flags}: {_describe_result(fixed)}; without: {_describe_result(without)}."


def _read_summary(model_dir: str) -> dict[str, Any] | None:
    path = os.path.join(model_dir, "summary.json")
    if not model_dir or not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _describe_result(summary: dict[str, Any]) -> str:
    final = summary.get("final")
    if not final:
        return f"{summary['status']} after {summary['steps']} steps"
    return f"accuracy {final['accuracy']:.1%}, loss {final['loss']:.3g} after {summary['steps']} steps"
