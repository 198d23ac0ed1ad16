"""Trials of interventions: replays of the same batches; unpromising replays are stopped early.

    trials = Trials(engine, config, steps=300)
    single_trials = trials.successive_halving(interventions)
    joint, ablations = trials.try_together(single_trials)

The first trial is the unchanged run. Each intervention is replayed for a part of its steps; the best go on (sequential
halving, Karnin et al. 2013). If no single intervention is enough, the likely ones are tried together, and then without
each of them in turn: if the run fails again without one, its cause is a cause of the run's trouble.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

from absl import logging

from evenkeel.models.config import TrainConfig, with_options
from evenkeel.models.doctor import comparison
from evenkeel.models.doctor.comparison import FULL_GAIN, MIN_GAIN, Gain
from evenkeel.models.doctor.interventions import PRIOR_FOUND, PRIOR_UNUSUAL, Intervention
from evenkeel.models.doctor.replay import ReplayEngine, Run
from evenkeel.models.stability.diagnosis import PATCH_FLAG
from evenkeel.pipeline.errors import UsageError

PARTS = 4  # parts of a trial's steps; most interventions get only the first part
MIN_STEPS = 60  # steps of a full trial, however large its batch
MAX_FINALISTS = 3  # interventions that go on after the first part
MAX_JOINT = 4  # interventions that are tried together
MIN_ADDED_SHARE = 0.25  # of the best single gain, that all likely interventions together must add to it
MAX_REPEATED = 2  # interventions that are repeated with another seed
UTILITY_PER_PRIOR = 0.1  # utility that a unit of prior is worth when the finalists are chosen


@dataclasses.dataclass(eq=False)
class Trial:
    """An intervention and its replay.

    Attributes:
      intervention: what was changed.
      run: the replay so far.
      seconds: CPU time of the replay.
      repeats: the same replay with other seeds, if there are any.
    """

    intervention: Intervention
    run: Run
    seconds: float = 0.0
    repeats: list[Run] = dataclasses.field(default_factory=list)

    @property
    def utility(self) -> float:
        """The mean utility of the validation images, see `comparison`."""
        return float(comparison.image_utilities(self.run).mean())

    @property
    def accuracy(self) -> float:
        """The accuracy of the newest validation."""
        return self.run.validated[-1][1]

    def gain_over(self, unchanged: Trial) -> Gain:
        """The gain over the unchanged run, over all seeds that both have been run with."""
        pairs = zip([self.run, *self.repeats], [unchanged.run, *unchanged.repeats], strict=False)
        return comparison.combine([comparison.compare(run, reference) for run, reference in pairs])

    @property
    def priority(self) -> float:
        """Utility plus `UTILITY_PER_PRIOR` times the prior of the intervention."""
        return self.utility + UTILITY_PER_PRIOR * self.intervention.prior

    @property
    def steps(self) -> int:
        """The number of steps replayed so far."""
        return self.run.step - self.run.first_step


class Trials:
    """Runs trials of changes to `config`, from the start or a `checkpoint`, on as many images as `steps` batches have.

    Attributes:
      unchanged: the trial of the unchanged run.
      tried: the trials of single interventions so far.
      after_part: is called with each trial after each of its parts; what it raises ends the trials.
    """

    def __init__(self, engine: ReplayEngine, config: TrainConfig, steps: int, checkpoint: str = "") -> None:
        self._engine, self._config, self._checkpoint = engine, config, checkpoint
        self._steps, self._train_images = steps, len(engine.load_data(config).train)
        self.tried: list[Trial] = []
        self.after_part: Callable[[Trial], None] = lambda trial: None
        self.unchanged = self._start(Intervention("", {}))
        for part in range(PARTS):
            count = (part + 1) * steps // PARTS - part * steps // PARTS
            if count:
                self._advance(self.unchanged, count)

    def successive_halving(self, interventions: list[Intervention], is_suspicious: bool = True) -> list[Trial]:
        """Returns a trial of each valid intervention; the most promising trials run all of their steps.

        `is_suspicious` says whether an alarm or a failed check speaks against the run. If nothing does and no finalist
        has helped, only trials that were ahead of the unchanged run after their first part are finished.
        """
        trials = self.tried
        for intervention in interventions:
            if trial := self._start_if_valid(intervention):
                trials.append(trial)
                self._advance(trial, math.ceil(self._full_steps(trial) / PARTS))
        finalists = sorted(trials, key=lambda trial: -trial.priority)[:MAX_FINALISTS]
        for trial in trials:
            # Trials of interventions that a finding supports are finished as well, and the first of the control arm.
            if trial in finalists or trial is trials[0] or trial.intervention.prior >= PRIOR_FOUND:
                self.finish(trial)
        if not any(self._improves(trial) for trial in trials if not trial.intervention.generic):
            # No specific intervention has helped yet: one part of the steps may be too few.
            others = [trial for trial in trials if trial.steps < self._full_steps(trial)]
            if is_suspicious:
                for trial in others:
                    self._advance(trial, math.ceil(self._full_steps(trial) / PARTS))
            else:
                others = [trial for trial in others if self._lead(trial) > MIN_GAIN]
            for trial in sorted(others, key=lambda trial: -trial.priority)[:MAX_FINALISTS]:
                self.finish(trial)
        return trials

    def try_together(self, single_trials: list[Trial]) -> tuple[Trial | None, list[Trial]]:
        """Returns (trial of the likely interventions together, ablations).

        There is an ablation for each of these interventions: a trial of all the others. This finds two faults in one
        run: each intervention alone leaves one of them in. Returns (None, []) if a single intervention does nearly as
        well: what the others add is then an improvement, not the cure of another fault.
        """
        likely = self._likely_interventions(single_trials)
        if len(likely) < 2:
            return None, []
        joint = self.run_in_full(Intervention("", merge_flags(likely)))
        if joint is None:
            return None, []
        specific = [trial for trial in single_trials if not trial.intervention.generic]
        best = max(trial.utility for trial in [self.unchanged, *specific])
        if joint.utility < best + max(MIN_GAIN, MIN_ADDED_SHARE * (best - self.unchanged.utility)):
            return None, []
        ablations = []
        for intervention in likely:
            others = merge_flags([other for other in likely if other is not intervention])
            if trial := self.run_in_full(Intervention(intervention.cause, others, intervention.prior)):
                ablations.append(trial)
        return joint, ablations

    def repeat_with_another_seed(self, trials: list[Trial]) -> None:
        """Repeats the unchanged run and the best of `trials`, whose gain is not clear, with the next seed."""
        candidates = sorted(trials, key=lambda trial: -trial.utility)[:MAX_REPEATED]
        for trial in [self.unchanged, *candidates]:
            if not trial.repeats:
                seed = {"seed": self._config.seed + 1}
                again = self.run_in_full(dataclasses.replace(trial.intervention, flags=trial.intervention.flags | seed))
                if again:
                    trial.repeats.append(again.run)
                    trial.seconds += again.seconds

    def run_in_full(self, intervention: Intervention) -> Trial | None:
        """Runs all steps of a trial; returns None if the changed configuration is invalid."""
        if trial := self._start_if_valid(intervention):
            self.finish(trial)
        return trial

    def finish(self, trial: Trial) -> None:
        """Runs the remaining steps of a trial."""
        left = self._full_steps(trial) - trial.steps
        if left > 0:
            self._advance(trial, left)

    def _likely_interventions(self, trials: list[Trial]) -> list[Intervention]:
        """The best supported interventions that can be combined, at most `MAX_JOINT`, the most promising first.

        Each is supported by evidence or has helped. No two of them have the same cause or, except for patches, change
        the same flag.
        """
        likely: list[Intervention] = []
        cures = [trial for trial in trials if trial.intervention.cures and not trial.intervention.generic]
        cured = any(trial.gain_over(self.unchanged).certain >= FULL_GAIN for trial in cures)
        for trial in sorted(trials, key=lambda trial: -trial.priority):
            intervention = trial.intervention
            # The learning rate may be wrong in addition to a fault whose cure does not help alone.
            supported = (
                intervention.prior >= PRIOR_UNUSUAL
                or self._improves(trial)
                or (intervention.cause == "learning_rate_high" and not cured)
            )
            used_flags = {name for other in likely for name in other.flags} - {PATCH_FLAG}
            conflicts = used_flags & set(intervention.flags) or intervention.cause in {other.cause for other in likely}
            if supported and intervention.cures and not intervention.generic and not conflicts:
                likely.append(intervention)
        return likely[:MAX_JOINT]

    def _lead(self, trial: Trial) -> float:
        """How much better the accuracy of the trial's first part is than that of the unchanged run's."""
        return trial.run.validated[0][1] - self.unchanged.run.validated[0][1]

    def _improves(self, trial: Trial) -> bool:
        return trial.utility > self.unchanged.utility + MIN_GAIN

    def _start_if_valid(self, intervention: Intervention) -> Trial | None:
        try:
            return self._start(intervention)
        except UsageError as error:
            logging.warning("not tried: %s: %s", intervention.flags, error)
            return None

    def _start(self, intervention: Intervention) -> Trial:
        begun = time.process_time()
        config = with_options(self._config, intervention.flags)
        run = self._engine.begin(config, self._checkpoint if _fits_checkpoint(intervention) else "")
        return Trial(intervention, run, time.process_time() - begun)

    def _advance(self, trial: Trial, steps: int) -> None:
        begun = time.process_time()
        self._engine.advance(trial.run, steps)
        self._engine.validate(trial.run)
        trial.seconds += time.process_time() - begun
        self.after_part(trial)

    def _full_steps(self, trial: Trial) -> int:
        """Steps in which a trial sees as many images as the unchanged run; more if the change lengthens the run."""
        config = trial.run.config
        lengthening = config.epochs * len(trial.run.data.train) / (self._config.epochs * self._train_images)
        steps = self._steps * lengthening * self._config.data.batch_size / config.data.batch_size
        return max(MIN_STEPS, round(steps))


def merge_flags(interventions: list[Intervention]) -> dict[str, Any]:
    """The flags of all interventions together; patches are concatenated in the order of the interventions."""
    flags: dict[str, Any] = {}
    for intervention in interventions:
        patches = [*flags.get(PATCH_FLAG, "").split(","), *intervention.flags.get(PATCH_FLAG, "").split(",")]
        flags |= intervention.flags
        if any(patches):
            flags[PATCH_FLAG] = ",".join(dict.fromkeys(filter(None, patches)))
    return flags


def _fits_checkpoint(intervention: Intervention) -> bool:
    """Whether a checkpoint of the unchanged run has the variables of the changed run."""
    rebuilt = ("model.", "optimizer.name", "optimizer.momentum", "precision", "data.train_split")
    return not any(name.startswith(rebuilt) for name in intervention.flags)
