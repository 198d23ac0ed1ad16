"""The doctor on small real runs: it names the fault that was put in, and its fix works."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import types

import pytest

from evenkeel.models.config import ModelConfig, OptimizerConfig, TrainConfig, config_json
from evenkeel.models.doctor import doctor as doctor_module
from evenkeel.models.doctor.doctor import diagnose
from evenkeel.models.doctor.interventions import PRIOR_FOUND, Intervention
from evenkeel.models.doctor.replay import ReplayEngine
from evenkeel.models.doctor.trials import Trial
from evenkeel.models.report.verdict import verdict_sentence
from evenkeel.models.stability.diagnosis import Diagnosis, Finding, command_line
from evenkeel.pipeline.config import DataConfig
from tests import factories, forked
from tests.models.doctor import cases
from tests.models.doctor.cases import write_patterns

STEPS = 90


@pytest.fixture(scope="module")
def engine() -> ReplayEngine:
    return ReplayEngine(max_models=16)


@pytest.fixture(scope="module")
def patterns(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder of images that a network with one convolution learns in 30 steps."""
    root = tmp_path_factory.mktemp("patterns")
    write_patterns(root)
    return root


@pytest.fixture(scope="module")
def mislabelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, set[str]]:
    """The same images with 40% wrong labels, and the names of the files with a wrong one."""
    root = tmp_path_factory.mktemp("mislabelled")
    return root, write_patterns(root, wrong_share=0.4)


def config_of(source: pathlib.Path, network: str, optimizer: OptimizerConfig, epochs: int) -> TrainConfig:
    data = DataConfig(source=str(source), image_size=8, batch_size=20)
    model = ModelConfig(name=f"{cases.FILE}:{network}")
    return TrainConfig(epochs=epochs, data=data, model=model, optimizer=optimizer, precision="float32")


# With Adam and clipping, neither is proposed: fewer changes are tried.
ADAM = OptimizerConfig(name="adam", learning_rate=0.003, schedule="constant", clip_norm=10.0)


@pytest.mark.slow
def test_a_specific_cause_precedes_a_lower_learning_rate(engine: ReplayEngine, small: DataConfig) -> None:
    model = ModelConfig(name=f"{factories.FILE}:shallow")
    optimizer = OptimizerConfig(learning_rate=0.1, schedule="constant", momentum=0.999, clip_norm=10.0)
    faulty = TrainConfig(epochs=8, data=small, model=model, optimizer=optimizer, precision="float32")
    diagnosis = diagnose(faulty, engine, steps=STEPS)
    assert diagnosis.suspects[0].cause == "momentum"
    assert diagnosis.fix["optimizer.momentum"] == 0.9
    assert diagnosis.places[-1] == "logits"
    assert len(diagnosis.activations) == diagnosis.trace.layers["dead"].shape[1]
    control = [replay for replay in diagnosis.replays if replay.generic]
    assert {"optimizer.learning_rate": 0.025} in [replay.flags for replay in control]


@pytest.mark.slow
def test_wrong_labels_are_listed_for_the_fix(
    engine: ReplayEngine, mislabelled: tuple[pathlib.Path, set[str]], tmp_path: pathlib.Path
) -> None:
    source, _ = mislabelled
    finding = Finding("labels", False, "40% are wrong", "at most 10% are", causes=("label_noise",))
    noisy = config_of(source, "normed", ADAM, epochs=8)
    diagnosis = diagnose(noisy, engine, (finding,), output=str(tmp_path), steps=60)
    names = (tmp_path / "wrong_labels.txt").read_text().split("\n")[:-1]
    assert 0.1 * 300 < len(names) < 0.8 * 300
    first, *_ = [replay for replay in diagnosis.replays if "data.drop" in replay.flags]
    as_many_steps = round(8 / (1 - len(names) / 300))
    assert first.flags == {"data.drop": str(tmp_path / "wrong_labels.txt"), "epochs": as_many_steps}
    assert "label_noise" in [suspect.cause for suspect in diagnosis.suspects]


@pytest.mark.slow
def test_a_network_trained_without_wrong_labels_finds_them_again(
    engine: ReplayEngine, patterns: pathlib.Path, mislabelled: tuple[pathlib.Path, set[str]], tmp_path: pathlib.Path
) -> None:
    source, wrong = mislabelled
    noisy = config_of(source, "normed", ADAM, epochs=6)
    run = engine.begin(config_of(patterns, "normed", ADAM, epochs=6))  # as if all of them had been left out
    engine.advance(run, 90)
    engine.validate(run)
    flags = {"data.drop": str(tmp_path / "wrong_labels.txt"), "epochs": 8}
    trial = Trial(Intervention("label_noise", flags, PRIOR_FOUND), run)
    interventions: list[Intervention] = []
    unchanged = types.SimpleNamespace(utility=trial.utility - 0.01)
    trials = types.SimpleNamespace(
        unchanged=unchanged, finish=lambda trial: None, run_in_full=lambda change: interventions.append(change) or trial
    )
    evidence = types.SimpleNamespace(config=noisy, train_images=300, finding_lines=lambda cause: ())
    assert doctor_module._repeat_label_trial(engine, trials, [trial], evidence, str(tmp_path)) == [trial]
    listed = (tmp_path / "wrong_labels_again.txt").read_text().split()
    names = {pathlib.PurePath(name).name for name in listed}
    assert len(names) == len(listed)
    assert len(wrong) > 50
    assert len(names & wrong) > 0.75 * len(wrong)
    assert len(names - wrong) < 0.25 * (300 - len(wrong))
    assert interventions[0].flags["data.drop"] == str(tmp_path / "wrong_labels_again.txt")
    assert interventions[0].flags["epochs"] == round(6 / (1 - len(names) / 300))
    unchanged.utility = trial.utility + 0.01
    assert doctor_module._repeat_label_trial(engine, trials, [trial], evidence, str(tmp_path)) == []
    assert doctor_module._repeat_label_trial(engine, trials, [], evidence, str(tmp_path)) == []


@pytest.mark.slow
def test_the_diagnosis_is_whole_after_each_replay_and_ends_with_its_budget(
    engine: ReplayEngine, patterns: pathlib.Path
) -> None:
    updates: list[tuple[Diagnosis, str]] = []
    config = config_of(patterns, "normed", ADAM, epochs=4)
    diagnosis = diagnose(
        config, engine, steps=40, budget_seconds=1e-6, on_update=lambda *update: updates.append(update)
    )
    assert diagnosis.replays[0].name == "unchanged"
    assert len(diagnosis.replays) == 2, "the budget is spent after the first change"
    assert [len(update.replays) for update, _ in updates] == [1, 2]
    lines = [line for _, line in updates]
    assert re.fullmatch(r"the probe took \d+ s of CPU; \d+ changes are tried, for at most 0 s", lines[0])
    assert re.search(r"^1 of \d+ changes: .* accuracy .*% after \d+ steps; best .*; at most 0 s of CPU left$", lines[1])
    assert all(verdict_sentence(update) for update, _ in updates)


@pytest.mark.slow
def test_a_doctor_that_is_interrupted_leaves_a_whole_report(patterns: pathlib.Path, tmp_path: pathlib.Path) -> None:
    config = config_of(patterns, "normed", ADAM, epochs=8)
    (tmp_path / "config.json").write_text(config_json(config))
    reading, writing = os.pipe()
    with open(reading) as printed:
        with open(writing, "w") as err, open(tmp_path / "out", "w") as out:
            flags = [f"--config={tmp_path / 'config.json'}", f"--output={tmp_path}", "--probe_steps=80"]
            process = forked.start("tools.doctor", *flags, out=out, err=err)
        try:
            for line in printed:
                if " changes: " in line:
                    assert process.pid
                    os.kill(process.pid, signal.SIGINT)
                    break
            printed.read()
            process.join(60)
            assert process.exitcode == 130
        finally:
            process.kill()
            process.join()
    diagnosis = json.loads((tmp_path / "diagnosis.json").read_text())
    assert len(diagnosis["replays"]) >= 2
    assert diagnosis["source"] == "the configuration (unfinished)"
    assert "</html>" in (tmp_path / "report.html").read_text()
    output = (tmp_path / "out").read_text()
    assert "stopped: the report rests on the replays until now" in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_run_is_diagnosed_from_the_command_line(patterns: pathlib.Path, tmp_path: pathlib.Path) -> None:
    faulty = config_of(patterns, "bare", OptimizerConfig(learning_rate=30.0, schedule="constant"), epochs=8)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(config_json(faulty))
    done = forked.run("tools.doctor", f"--model_dir={run}", "--probe_steps=80", "--fix")
    assert done.returncode == 0, done.stderr
    assert "the learning rate is too high" in done.stdout
    assert f"report: {run / 'report.html'}" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("with --optimizer.")
    assert re.search(r"without: (accuracy|failed after)", last)
    assert "<svg" in (run / "report.html").read_text()
    diagnosis = json.loads((run / "diagnosis.json").read_text())
    assert diagnosis["suspects"][0]["cause"] == "learning_rate_high"
    assert diagnosis["alarms"]
    unchanged, *replays = diagnosis["replays"]
    assert unchanged["flags"] == {}
    assert 40 <= len(unchanged["loss"]) <= 60, "it ends early where every update is skipped"
    cured, *_ = [replay for replay in replays if command_line(replay["flags"]) == diagnosis["fix"]["flags"]]
    assert cured["accuracy"] > unchanged["accuracy"] + 0.1
    assert cured["flags"]["optimizer.learning_rate"] < 10
    assert json.loads((run / "fixed" / "summary.json").read_text())["status"] == "completed"
