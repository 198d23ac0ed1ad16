"""Finds the cause of bad training: a probe with detectors, then controlled replays of every plausible cause.

diagnosis = diagnose(config, ReplayEngine(config.strategy), findings)
print(diagnosis.suspects[0].cause, diagnosis.fix)
"""

from __future__ import annotations

import os
import time

import numpy as np

from evenkeel.models.config import TrainConfig
from evenkeel.models.doctor import confident_learning
from evenkeel.models.doctor.attribution import (
    added_patches,
    attribute_causes,
    describe_flags,
    to_replay,
)
from evenkeel.models.doctor.interventions import (
    PRIOR_FOUND,
    PRIOR_UNUSUAL,
    Intervention,
    RunEvidence,
    drop_flags,
    propose_interventions,
)
from evenkeel.models.doctor.refine_fix import refine_fix
from evenkeel.models.doctor.replay import ReplayEngine, Run
from evenkeel.models.doctor.trials import Trial, Trials
from evenkeel.models.networks import surgery
from evenkeel.models.stability import detectors
from evenkeel.models.stability.causes import CAUSES
from evenkeel.models.stability.diagnosis import Diagnosis, Finding, Picture
from evenkeel.models.training.batches import count_steps_per_epoch

PROBE_STEPS = 300  # the default maximum
MIN_DROP_SHARE, MAX_DROP_SHARE = 0.02, 0.9  # dropping a share of the training images between these is worth a trial
MIN_TRAIN_LOSS_RATIO = 1.15  # training images fit worse than validation images only if the labels or images differ


def diagnose(
    config: TrainConfig,
    engine: ReplayEngine,
    findings: tuple[Finding, ...] = (),
    pictures: tuple[Picture, ...] = (),
    source: str = "",
    output: str = "",
    steps: int = PROBE_STEPS,
    checkpoint: str = "",
) -> Diagnosis:
    """Collects evidence for each possible cause of bad training with `config`, and decides between causes by replays.

    Args:
      config: the configuration that trains badly.
      engine: runs the replays.
      findings: findings of `preflight`.
      pictures: images that stand out; they are passed on to the diagnosis.
      source: what is examined, in words.
      output: directory for the list of images to drop, which a fix may need; empty to write no such list.
      steps: maximum steps of the probe and of each replay.
      checkpoint: where replays start if the checkpoint fits the changed network; for trouble that begins late.
    """
    begun = time.process_time()
    data = engine.load_data(config)
    total_steps = count_steps_per_epoch(config, data) * config.epochs
    trials = Trials(engine, config, min(steps, total_steps), checkpoint)
    probe = trials.unchanged.run
    trace = engine.trace(probe)
    alarms = tuple(detectors.alarms(trace))
    evidence = RunEvidence(
        config=config,
        network=engine.initial_network(probe),
        findings=findings,
        trace=trace,
        alarm_kinds=frozenset(alarm.kind for alarm in alarms),
        train_images=len(data.train),
        total_steps=total_steps,
        replicas=engine.replicas,
    )
    interventions = [*propose_interventions(evidence), *_propose_label_drop(engine, probe, evidence, output)]
    single_trials = trials.successive_halving(interventions)
    single_trials += _repeat_label_trial(engine, trials, single_trials, evidence, output)
    joint, ablations = trials.try_together(single_trials)
    suspects, fix = attribute_causes(evidence, trials.unchanged, single_trials, joint, ablations)
    fix, refinements = refine_fix(trials, fix, [*single_trials, *([joint] if joint else [])])
    replays = [to_replay(trials.unchanged, "unchanged"), *map(to_replay, single_trials)]
    replays += [to_replay(joint, "all likely changes together")] if joint else []
    replays += [to_replay(trial, f"all but the change against: {_title(trial)}") for trial in ablations]
    replays += [to_replay(trial, f"the fix: {describe_flags(trial.intervention.flags)}") for trial in refinements]
    return Diagnosis(
        source=source,
        trace=trace,
        places=tuple(engine.layer_names(probe)),
        alarms=alarms,
        findings=findings,
        replays=tuple(replays),
        suspects=suspects,
        pictures=pictures,
        cpu_seconds=time.process_time() - begun,
        fix=fix,
        edit="\n".join(surgery.describe_edits(evidence.network, added_patches(config, fix))),
        activations=tuple(engine.activation_names(probe)),
    )


def _title(trial: Trial) -> str:
    return CAUSES[trial.intervention.cause].title


def _propose_label_drop(engine: ReplayEngine, probe: Run, evidence: RunEvidence, output: str) -> list[Intervention]:
    """Proposes to drop images with labels that contradict the probe, if findings or losses suggest wrong labels."""
    lines = evidence.finding_lines("label_noise")
    if not output or not (lines or _train_images_fit_worse(evidence)):
        return []
    path = os.path.join(output, "wrong_labels.txt")
    return _drop_wrong_labels(engine, probe, evidence, path, PRIOR_FOUND if lines else PRIOR_UNUSUAL, lines)


def _repeat_label_trial(
    engine: ReplayEngine, trials: Trials, single_trials: list[Trial], evidence: RunEvidence, output: str
) -> list[Trial]:
    """If dropping wrong labels helped, repeats this with the wrong labels that the retrained network finds.

    With 30% of the labels of `shapes` wrong, accuracy went from 0.71 to 0.83, then to 0.86; a third time added 0.005
    (one run).
    """
    trial = next((trial for trial in single_trials if trial.intervention.cause == "label_noise"), None)
    if trial is None:
        return []
    trials.finish(trial)
    if trial.utility <= trials.unchanged.utility:
        return []
    path, lines = os.path.join(output, "wrong_labels_again.txt"), evidence.finding_lines("label_noise")
    repeated = _drop_wrong_labels(engine, trial.run, evidence, path, trial.intervention.prior, lines)
    return [again for intervention in repeated if (again := trials.run_in_full(intervention))]


def _drop_wrong_labels(
    engine: ReplayEngine, run: Run, evidence: RunEvidence, path: str, prior: float, lines: tuple[str, ...]
) -> list[Intervention]:
    """Proposes to drop images with labels that contradict `run`'s network, listed in `path`; [] if few or most do."""
    names = confident_learning.find_wrong_labels(engine, run, engine.load_data(evidence.config).train)
    share = len(names) / evidence.train_images
    if not MIN_DROP_SHARE < share < MAX_DROP_SHARE:
        return []
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(names) + "\n")
    reasons = (f"the trained network is confident of another class for {share:.0%} of the labels", *lines)
    return [Intervention("label_noise", drop_flags(evidence.config, path, share), prior, reasons)]


def _train_images_fit_worse(evidence: RunEvidence) -> bool:
    """Whether training images have a higher loss in inference mode than validation images."""
    train_loss = evidence.trace.layers.get("inference_loss")
    if train_loss is None or not len(train_loss) or not len(evidence.trace.validation_loss):
        return False
    return float(np.nanmean(train_loss[-8:])) > MIN_TRAIN_LOSS_RATIO * evidence.trace.validation_loss[-1]
