"""Every plausible change tried on the same batches, the hopeless ones not for long.

    trials = Trials(bench, config, steps=300)
    tried = trials.halved(changes)
    joint, without = trials.together(tried)

The first is the run as it is. Each change is replayed for a part of its steps; the best go on (sequential halving,
Karnin et al. 2013). Where no single change is enough the likely ones are made together: what then fails again without
one of them has that as a cause.
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

from absl import logging

from evenkeel.models.config import TrainConfig
from evenkeel.models.doctor.interventions import SHOWN, UNUSUAL, Change
from evenkeel.models.doctor.replay import Bench, Run, changed
from evenkeel.models.stability.diagnosis import PATCH
from evenkeel.pipeline.errors import UsageError

PARTS = 4  # of the steps: the first is all that most changes get
LEAST = 60  # steps of a replay, however large its batch
KEPT = 3  # changes that go on after the first part
TOGETHER = 4  # changes at once
GAIN = 0.03  # of utility, accuracy above all: below, two runs are alike. 1,000 images tell 0.02 apart
PROMISE = 0.1  # utility that a unit of prior is worth when it is chosen what goes on


@dataclasses.dataclass(eq=False)
class Trial:
    """A change, and the run that it makes."""

    change: Change
    run: Run
    seconds: float = 0.0  # of CPU time

    @property
    def utility(self) -> float:
        """Accuracy on validation, less a tenth of the loss there.

        The loss breaks ties, and sees progress before an accuracy does; it counts up to twice that of guessing.
        """
        _, accuracy, loss = self.run.validated[-1]
        worst = 2 * math.log(len(self.run.data.classes))
        return accuracy - 0.1 * min(loss if math.isfinite(loss) else worst, worst)

    @property
    def accuracy(self) -> float:
        return self.run.validated[-1][1]

    @property
    def promise(self) -> float:
        return self.utility + PROMISE * self.change.prior

    @property
    def length(self) -> int:
        return self.run.step - self.run.first_step


class Trials:
    """Trials of `config`, from its start or from a `checkpoint`, over the images of `steps` of its batches."""

    def __init__(self, bench: Bench, config: TrainConfig, steps: int, checkpoint: str = "") -> None:
        self._bench, self._config, self._checkpoint = bench, config, checkpoint
        self._steps, self._images = steps, len(bench.data_of(config).train)
        self.unchanged = self._begun(Change("", {}))
        for part in range(PARTS):
            count = (part + 1) * steps // PARTS - part * steps // PARTS
            if count:
                self._go_on(self.unchanged, count)

    def halved(self, changes: list[Change]) -> list[Trial]:
        """A trial of each of `changes`, those that promise most in full."""
        tried = []
        for change in changes:
            if trial := self._possible(change):
                self._go_on(trial, math.ceil(self._full(trial) / PARTS))
                tried.append(trial)
        best = sorted(tried, key=lambda trial: -trial.promise)[:KEPT]
        for trial in tried:
            # What something speaks for is heard to the end, and so is the first of the control arm.
            if trial in best or trial is tried[0] or trial.change.prior >= SHOWN:
                self.finish(trial)
        if not any(self._gains(trial) for trial in tried if not trial.change.generic):
            for trial in tried:  # where nothing moves yet, a part of the steps was too few to tell
                self.finish(trial)
        return tried

    def together(self, tried: list[Trial]) -> tuple[Trial | None, list[Trial]]:
        """(the likely changes at once, all of them but one for each); (None, []) where one does as well as all.

        Two faults at a time hide each other: each change alone then leaves the other one in.
        """
        likely = self._likely(tried)
        if len(likely) < 2:
            return None, []
        joint = self.whole(Change("", union(likely)))
        if joint is None:
            return None, []
        specific = [trial for trial in tried if not trial.change.generic]
        if joint.utility < max(trial.utility for trial in [self.unchanged, *specific]) + GAIN:
            return None, []
        without = []
        for change in likely:
            rest = union([other for other in likely if other is not change])
            if trial := self.whole(Change(change.cause, rest, change.prior)):
                without.append(trial)
        return joint, without

    def whole(self, change: Change) -> Trial | None:
        """A trial of `change` over all of its steps; None if the configuration that it makes is refused."""
        if trial := self._possible(change):
            self.finish(trial)
        return trial

    def finish(self, trial: Trial) -> None:
        """Goes on with what was given up early."""
        left = self._full(trial) - trial.length
        if left > 0:
            self._go_on(trial, left)

    def _likely(self, tried: list[Trial]) -> list[Change]:
        """Changes of different causes and flags that something speaks for or that help, the most promising first."""
        chosen: list[Change] = []
        for trial in sorted(tried, key=lambda trial: -trial.promise):
            change = trial.change
            # Whatever else ails a run, its learning rate may be wrong as well.
            speaks = change.prior >= UNUSUAL or self._gains(trial) or change.cause == "learning_rate_high"
            taken = {name for other in chosen for name in other.flags} & set(change.flags) - {PATCH}
            again = any(change.cause == other.cause for other in chosen)
            if speaks and change.cures and not (change.generic or taken or again):
                chosen.append(change)
        return chosen[:TOGETHER]

    def _gains(self, trial: Trial) -> bool:
        return trial.utility > self.unchanged.utility + GAIN

    def _possible(self, change: Change) -> Trial | None:
        try:
            return self._begun(change)
        except UsageError as error:
            logging.warning("not tried: %s: %s", change.flags, error)
            return None

    def _begun(self, change: Change) -> Trial:
        begun = time.process_time()
        config = changed(self._config, change.flags)
        run = self._bench.begin(config, self._checkpoint if _keeps_variables(change) else "")
        return Trial(change, run, time.process_time() - begun)

    def _go_on(self, trial: Trial, steps: int) -> None:
        begun = time.process_time()
        self._bench.advance(trial.run, steps)
        self._bench.validate(trial.run)
        trial.seconds += time.process_time() - begun

    def _full(self, trial: Trial) -> int:
        """So many steps that it sees as many images, and more where a longer run is what it is about."""
        after = trial.run.config
        longer = after.epochs * len(trial.run.data.train) / (self._config.epochs * self._images)
        return max(LEAST, round(self._steps * longer * self._config.data.batch_size / after.data.batch_size))


def _keeps_variables(change: Change) -> bool:
    """Whether a checkpoint of the run fits the changed one."""
    rebuilt = ("model.", "optimizer.name", "optimizer.momentum", "precision", "data.train_split")
    return not any(name.startswith(rebuilt) for name in change.flags)


def union(changes: list[Change]) -> dict[str, Any]:
    """All their flags: patches one after another, in the order of the changes."""
    flags: dict[str, Any] = {}
    for change in changes:
        patches = [*flags.get(PATCH, "").split(","), *change.flags.get(PATCH, "").split(",")]
        flags |= change.flags
        if any(patches):
            flags[PATCH] = ",".join(dict.fromkeys(filter(None, patches)))
    return flags
