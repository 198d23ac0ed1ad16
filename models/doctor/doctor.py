"""Finds the cause of bad training: a probe with detectors, then controlled replays of every plausible cause.

diagnosis = diagnose(config, ReplayEngine(config.strategy), findings)
print(diagnosis.suspects[0].cause, diagnosis.fix)
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any

from absl import logging

from evenkeel.models.config import TrainConfig
from evenkeel.models.doctor import confident_learning
from evenkeel.models.doctor.attribution import (
    Attribution,
    added_patches,
    attribute_causes,
    describe_flags,
    to_replay,
)
from evenkeel.models.doctor.comparison import FULL_GAIN, SIGMAS
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
from evenkeel.models.stability.causes import CAUSES, PROVEN_BY_FINDING
from evenkeel.models.stability.diagnosis import Diagnosis, Finding, Picture
from evenkeel.models.stability.trace import steps_of_batches
from evenkeel.models.training.batches import count_steps_per_epoch

PROBE_STEPS = 300  # the default maximum
BUDGET_PROBES = 10  # CPU time of all replays, in units of that of the probe
MIN_DROP_SHARE, MAX_DROP_SHARE = 0.02, 0.9  # dropping a share of the training images between these is worth a trial
MIN_ACCURACY_GAP = 0.05  # training images fit so much worse than validation images only if labels or images differ


class BudgetSpent(Exception):
    """The trials have used up their CPU time."""


def diagnose(
    config: TrainConfig,
    engine: ReplayEngine,
    findings: tuple[Finding, ...] = (),
    pictures: tuple[Picture, ...] = (),
    source: str = "",
    output: str = "",
    steps: int = PROBE_STEPS,
    checkpoint: str = "",
    budget_seconds: float | None = None,
    on_update: Callable[[Diagnosis, str], None] = lambda diagnosis, line: None,
) -> Diagnosis:
    """Collects evidence for each possible cause of bad training with `config`, and decides between causes by replays.

    Args:
      config: the configuration that trains badly.
      engine: runs the replays.
      findings: findings of `preflight`.
      pictures: images that stand out; they are passed on to the diagnosis.
      source: what is examined, in words.
      output: directory for the list of images to drop, which a fix may need; empty to write no such list.
      steps: maximum steps of the probe and of each replay; of small batches more, see `trace.steps_of_batches`.
      checkpoint: where replays start if the checkpoint fits the changed network; for trouble that begins late.
      budget_seconds: CPU time for all replays; by default `BUDGET_PROBES` times that of the probe.
      on_update: is called with the diagnosis so far, and a line about it, after the probe and after each replay.
    """
    examination = _Examination(config, engine, findings, pictures, source, output, steps, checkpoint)
    probe_seconds = examination.trials.unchanged.seconds
    budget = BUDGET_PROBES * probe_seconds if budget_seconds is None else budget_seconds
    start = time.process_time()
    planned = len(examination.interventions)
    plan = f"{planned} changes are tried, for at most {budget:.0f} s"
    if examination.is_proven:
        plan = "a check proves the cause, so no change is tried"
    on_update(examination.diagnosis(), f"the probe took {probe_seconds:.0f} s of CPU; {plan}")

    def report(trial: Trial) -> None:
        spent = time.process_time() - start
        on_update(examination.diagnosis(), examination.describe_progress(trial, budget - spent))
        if spent > budget:
            raise BudgetSpent

    examination.trials.after_part = report
    try:
        examination.run_trials()
    except BudgetSpent:
        logging.warning(
            "the replays have used their %.0f s of CPU time: the diagnosis rests on those until now", budget
        )
    return examination.diagnosis()


class _Examination:
    """The replays of one diagnosis; `diagnosis` says at any time what is known so far.

    Attributes:
      trials: runs the replays.
      interventions: the changes to try.
    """

    def __init__(
        self,
        config: TrainConfig,
        engine: ReplayEngine,
        findings: tuple[Finding, ...],
        pictures: tuple[Picture, ...],
        source: str,
        output: str,
        steps: int,
        checkpoint: str,
    ) -> None:
        self._begun = time.process_time()
        self._config, self._engine, self._output = config, engine, output
        self._findings, self._pictures, self._source = findings, pictures, source
        data = engine.load_data(config)
        total_steps = count_steps_per_epoch(config, data) * config.epochs
        steps = min(steps_of_batches(steps, config.data.batch_size), total_steps)
        self.trials = Trials(engine, config, steps, checkpoint)
        self._probe = self.trials.unchanged.run
        trace = engine.trace(self._probe)
        self._alarms = tuple(detectors.alarms(trace))
        self._evidence = RunEvidence(
            config=config,
            network=engine.initial_network(self._probe),
            findings=findings,
            trace=trace,
            alarm_kinds=frozenset(alarm.kind for alarm in self._alarms),
            train_images=len(data.train),
            total_steps=total_steps,
            replicas=engine.replicas,
        )
        label_drop = _propose_label_drop(engine, self._probe, self._evidence, output)
        self.interventions = [*propose_interventions(self._evidence), *label_drop]
        self._joint: Trial | None = None
        self._ablations: list[Trial] = []
        self._fix: dict[str, Any] | None = None
        self._refinements: list[Trial] = []
        # What the record of a run is made from does not change with the trials.
        self._names = tuple(engine.layer_names(self._probe)), tuple(engine.activation_names(self._probe))

    def run_trials(self) -> None:
        trials, evidence = self.trials, self._evidence
        if self.is_proven:
            return
        single_trials = trials.successive_halving(self.interventions, self._is_suspicious)
        repeated = _repeat_label_trial(self._engine, trials, single_trials, evidence, self._output)
        self.interventions += [trial.intervention for trial in repeated]
        single_trials = trials.tried = [*single_trials, *repeated]
        self._repeat_unclear_gains()
        self._joint, self._ablations = trials.try_together(single_trials)
        fix = self._attribute().fix
        known = [*single_trials, *([self._joint] if self._joint else [])]
        self._fix, self._refinements = refine_fix(trials, fix, known)

    @property
    def is_proven(self) -> bool:
        """Whether a check of preflight proves the cause, so that no replay can add anything."""
        return any(not finding.ok and {*PROVEN_BY_FINDING} & {*finding.causes} for finding in self._findings)

    @property
    def _is_suspicious(self) -> bool:
        """Whether an alarm or a failed check speaks against the run."""
        return bool(self._alarms) or any(not finding.ok and finding.causes for finding in self._findings)

    def _repeat_unclear_gains(self) -> None:
        """Where no alarm and no failed check speaks, or the gain is small, one seed is not enough."""
        unchanged = self.trials.unchanged
        cures = [trial for trial in self.trials.tried if trial.intervention.cures]
        gains = [trial for trial in cures if trial.gain_over(unchanged).is_significant]
        best = max((trial.gain_over(unchanged).certain for trial in gains), default=0.0)
        if gains and (best < FULL_GAIN or not self._is_suspicious):
            self.trials.repeat_with_another_seed(gains)

    def _attribute(self) -> Attribution:
        tried = [trial for trial in self.trials.tried if trial.run.validated]
        return attribute_causes(self._evidence, self.trials.unchanged, tried, self._joint, self._ablations)

    def describe_progress(self, trial: Trial, seconds_left: float) -> str:
        """A line about a trial, the best one so far, and the CPU time that is left."""
        known = [each for each in self.trials.tried if each.run.validated]
        best = max([self.trials.unchanged, *known], key=lambda each: each.utility)
        change = describe_flags(trial.intervention.flags) or "unchanged"
        leader = describe_flags(best.intervention.flags) or "unchanged"
        return (
            f"{len(known)} of {len(self.interventions)} changes: {change}: accuracy {trial.accuracy:.1%} after"
            f" {trial.steps} steps; best {best.accuracy:.1%} ({leader});"
            f" at most {max(seconds_left, 0):.0f} s of CPU left"
        )

    def diagnosis(self) -> Diagnosis:
        attribution, unchanged = self._attribute(), self.trials.unchanged
        single_trials = [trial for trial in self.trials.tried if trial.run.validated]
        fix = attribution.fix if self._fix is None else self._fix
        replays = [to_replay(unchanged, "unchanged"), *map(to_replay, single_trials)]
        replays += [to_replay(self._joint, "all likely changes together")] if self._joint else []
        replays += [to_replay(trial, f"all but the change against: {_title(trial)}") for trial in self._ablations]
        replays += [
            to_replay(trial, f"the fix: {describe_flags(trial.intervention.flags)}") for trial in self._refinements
        ]
        places, activations = self._names
        return Diagnosis(
            source=self._source,
            trace=self._evidence.trace,
            places=places,
            alarms=self._alarms,
            findings=self._findings,
            replays=tuple(replays),
            suspects=attribution.suspects,
            pictures=self._pictures,
            cpu_seconds=time.process_time() - self._begun,
            fix=fix,
            edit="\n".join(surgery.describe_edits(self._evidence.network, added_patches(self._config, fix))),
            activations=activations,
            sound=attribution.sound,
            unknown=attribution.unknown,
            improvements=tuple(_describe_improvement(trial, unchanged) for trial in attribution.improvements),
        )


def _describe_improvement(trial: Trial, unchanged: Trial) -> str:
    gain = trial.gain_over(unchanged)
    points, error = 100 * gain.mean, 100 * SIGMAS * gain.error
    return f"{describe_flags(trial.intervention.flags)} would do {points:.1f} points better (+-{error:.1f})"


def _title(trial: Trial) -> str:
    return CAUSES[trial.intervention.cause].title


def _propose_label_drop(engine: ReplayEngine, probe: Run, evidence: RunEvidence, output: str) -> list[Intervention]:
    """Proposes to drop images with labels that contradict the probe, if findings or losses suggest wrong labels."""
    lines = evidence.finding_lines("label_noise")
    if not output or not (lines or _train_images_fit_worse(engine, probe)):
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
    """Proposes to drop images with labels that contradict `run`'s network, listed in `path`; [] if few or most do.

    A network that has learnt little contradicts right labels as well: about as many of the validation images as of the
    training images. Without a finding of preflight, only what exceeds that share speaks for wrong labels.
    """
    data = engine.load_data(evidence.config)
    names = confident_learning.find_wrong_labels(engine, run, data.train)
    share = len(names) / evidence.train_images
    if not MIN_DROP_SHARE < share < MAX_DROP_SHARE:
        return []
    in_validation = len(confident_learning.find_wrong_labels(engine, run, data.validation)) / len(data.validation)
    if not lines and share < in_validation + MIN_DROP_SHARE:
        return []
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(names) + "\n")
    reason = (
        f"the trained network is confident of another class for {share:.0%} of the labels, and for {in_validation:.0%}"
        " of those of the validation images"
    )
    return [Intervention("label_noise", drop_flags(evidence.config, path, share), prior, (reason, *lines))]


def _train_images_fit_worse(engine: ReplayEngine, run: Run) -> bool:
    """Whether the network of `run` predicts training images worse than validation images, with the same weights."""
    _, correct = engine.judge_training_images(run)
    train, validation = correct.mean(), run.correct.mean()
    error = math.sqrt(train * (1 - train) / len(correct) + validation * (1 - validation) / len(run.correct))
    return bool(validation - train > max(MIN_ACCURACY_GAP, 3 * error))
