"""The doctor on real small runs: it names what was done to them, and its fix works."""

from __future__ import annotations

import json
import os
import pathlib
import re
import types

import pytest

from evenkeel.models.config import (
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    config_json,
)
from evenkeel.models.doctor import doctor as doctor_module
from evenkeel.models.doctor import runner
from evenkeel.models.doctor.doctor import diagnose
from evenkeel.models.doctor.interventions import SHOWN, Change
from evenkeel.models.doctor.replay import Bench, changed
from evenkeel.models.doctor.trials import Trial
from evenkeel.models.stability.diagnosis import Finding, command_line
from evenkeel.models.telemetry.incidents import append_json_line
from evenkeel.pipeline.config import DataConfig
from tests import forked
from tests.models.networks import test_factory

STEPS = 90


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(models=16)


@pytest.fixture
def sound(small: DataConfig) -> TrainConfig:
    optimizer = OptimizerConfig(learning_rate=0.1, schedule="constant")
    return TrainConfig(
        epochs=6, data=small, model=ModelConfig(name="cnn", width=8), optimizer=optimizer, precision="float32"
    )


@pytest.fixture
def sound_and_shallow(sound: TrainConfig) -> TrainConfig:
    return changed(sound, {"model.name": f"{test_factory.FILE}:shallow"})


@pytest.mark.slow
def test_a_specific_cause_goes_before_a_lower_rate(bench: Bench, sound_and_shallow: TrainConfig) -> None:
    sick = changed(sound_and_shallow, {"optimizer.momentum": 0.999})
    found = diagnose(sick, bench, steps=STEPS)
    assert found.suspects[0].cause == "momentum"
    assert found.fix["optimizer.momentum"] == 0.9
    assert found.places[-1] == "logits"
    assert len(found.activations) == found.trace.layers["dead"].shape[1]
    control = [replay for replay in found.replays if replay.generic]
    assert {"optimizer.learning_rate": 0.025} in [replay.flags for replay in control]


@pytest.mark.slow
def test_wrong_labels_are_listed_for_the_fix(
    bench: Bench, sound_and_shallow: TrainConfig, tmp_path: pathlib.Path
) -> None:
    noisy = changed(sound_and_shallow, {"data.shapes.label_noise": 0.4, "epochs": 12})
    finding = Finding("labels", False, "40% are wrong", "at most 10% are", causes=("label_noise",))
    found = diagnose(noisy, bench, (finding,), output=str(tmp_path), steps=2 * STEPS)
    names = (tmp_path / "wrong_labels.txt").read_text().split("\n")[:-1]
    assert 0.1 * 300 < len(names) < 0.8 * 300
    first, *_ = [replay for replay in found.replays if "data.drop" in replay.flags]
    as_many_steps = round(12 / (1 - len(names) / 300))
    assert first.flags == {"data.drop": str(tmp_path / "wrong_labels.txt"), "epochs": as_many_steps}
    assert "label_noise" in [suspect.cause for suspect in found.suspects]


@pytest.mark.slow
def test_who_learnt_without_the_wrong_labels_judges_them_again(
    bench: Bench, sound: TrainConfig, tmp_path: pathlib.Path
) -> None:
    noisy = changed(sound, {"data.shapes.label_noise": 0.3})
    run = bench.begin(sound)  # as if all of them had been left out
    bench.advance(run, 600)
    bench.validate(run)
    flags = {"data.drop": str(tmp_path / "wrong_labels.txt"), "epochs": 8}
    trial = Trial(Change("label_noise", flags, SHOWN), run)
    tried: list[Change] = []
    worse = types.SimpleNamespace(utility=trial.utility - 0.01)
    trials = types.SimpleNamespace(
        unchanged=worse, finish=lambda trial: None, whole=lambda change: tried.append(change) or trial
    )
    case = types.SimpleNamespace(config=noisy, images=300, finds=lambda cause: ())
    assert doctor_module._judged_again(bench, trials, [trial], case, str(tmp_path)) == [trial]
    names = set((tmp_path / "wrong_labels_again.txt").read_text().split())
    labels = [bench.data_of(config).train.columns["label"] for config in (sound, noisy)]
    wrong = {name for name, a, b in zip(run.data.train.names, *labels, strict=True) if a != b}
    assert len(wrong) > 50
    assert len(names & wrong) > 0.75 * len(wrong)
    assert len(names - wrong) < 0.25 * (300 - len(wrong))
    assert tried[0].flags["data.drop"] == str(tmp_path / "wrong_labels_again.txt")
    assert tried[0].flags["epochs"] == round(6 / (1 - len(names) / 300))
    worse.utility = trial.utility + 0.01
    assert doctor_module._judged_again(bench, trials, [trial], case, str(tmp_path)) == []
    assert doctor_module._judged_again(bench, trials, [], case, str(tmp_path)) == []


def run_with(tmp_path: pathlib.Path, *incidents: tuple[str, int]) -> str:
    directory = tmp_path / "run"
    for step in (15, 30, 45):
        (directory / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    for kind, step in incidents:
        append_json_line(str(directory / "incidents.jsonl"), {"step": step, "kind": kind})
    return str(directory)


def test_the_first_acute_incident_counts(tmp_path: pathlib.Path) -> None:
    directory = run_with(tmp_path, ("overfitting", 10), ("loss_spike", 44), ("divergence", 60))
    assert runner.first_incident(directory) == 44
    assert runner.before(directory, 44) == os.path.join(directory, "checkpoints", "step-00000030")
    assert runner.before(directory, 12) == ""


def test_without_incidents_there_is_nothing_to_go_back_to(tmp_path: pathlib.Path) -> None:
    assert runner.first_incident(run_with(tmp_path)) == 0
    assert runner.first_incident("") == 0


@pytest.mark.slow
def test_a_run_is_examined_from_the_command_line(sound_and_shallow: TrainConfig, tmp_path: pathlib.Path) -> None:
    sick = changed(sound_and_shallow, {"optimizer.learning_rate": 30.0, "epochs": 12})
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(config_json(sick))
    done = forked.run("tools.doctor", f"--model_dir={run}", "--probe_steps=180", "--fix")
    assert done.returncode == 0, done.stderr
    assert "the learning rate is too high" in done.stdout
    assert f"report: {run / 'report.html'}" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("with --optimizer.")
    assert re.search(r"without: (accuracy|failed after)", last)
    assert "<svg" in (run / "report.html").read_text()
    told = json.loads((run / "diagnosis.json").read_text())
    assert told["suspects"][0]["cause"] == "learning_rate_high"
    assert told["alarms"]
    unchanged, *replays = told["replays"]
    assert unchanged["flags"] == {}
    assert 40 <= len(unchanged["loss"]) <= 60, "it ends early where every update is skipped"
    cured, *_ = [replay for replay in replays if command_line(replay["flags"]) == told["fix"]["flags"]]
    assert cured["accuracy"] > unchanged["accuracy"] + 0.1
    assert cured["flags"]["optimizer.learning_rate"] < 10
    assert json.loads((run / "fixed" / "summary.json").read_text())["status"] == "completed"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--probe_steps=5"], "--probe_steps (5) must be at least 20: fewer show nothing."),
        (["--model_dir=/nowhere/run"], "/nowhere/run/config.json cannot be read"),
        (["--fixx"], "Unknown command line flag 'fixx'"),
        (["--model.patch=rleu"], "Did you mean 'relu'?"),
    ],
)
def test_bad_flags_are_one_line(flags: list[str], words: str) -> None:
    done = forked.run("tools.doctor", *flags)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert words in line
