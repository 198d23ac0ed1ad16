"""A Keras callback that watches a StableModel's training, and acts where it goes wrong.

    model.compile(optimizer, loss, watch_every=20, guarded=True)
    model.fit(batches, callbacks=[StabilityGuard(act=True)], ...)

Every trouble that `detectors` find is an incident. With `act`, a loss that spikes, diverges or is not a number is also
answered, a rung higher each time: (the step itself skips an update that is not finite, and clips a gradient `OUTLYING`
times as long as usual) -> roll back and go on with batches not yet seen -> roll back, a quarter of the learning rate,
warm up again -> stop with advice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tf_keras as keras

from evenkeel.models.errors import TrainingFailed
from evenkeel.models.stability.detectors import Alarm
from evenkeel.models.stability.telemetry_window import History
from evenkeel.models.telemetry import step_row
from evenkeel.models.telemetry.incidents import Incidents
from evenkeel.models.training.snapshots import Snapshots
from evenkeel.models.training.stable_model import OUTLYING

ACUTE = ("nonfinite", "loss_spike", "divergence", "collapse", "statistics_jump")  # what a rollback undoes
TAKE_EVERY = 20  # steps between snapshots, a rollback's least loss: copying 26 MB takes 4 ms
MARGIN = 10  # steps before an alarm in which its cause may already have been at work
ROLLBACKS = 2  # before the learning rate is cut, within `FORGIVEN` steps
BUDGET = 5  # answers within `FORGIVEN` steps; then training stops
FORGIVEN = 1000  # steps after which an answer does not count any more
IN_VAIN = 40  # steps after a rollback in which trouble is still the old one: the copy was of a model already spoilt
FARTHEST = 200  # steps that are given up for that
CUT = 0.25
REWARMED = 50  # steps in which a cut learning rate rises again


class StabilityGuard(keras.callbacks.Callback):
    """Watches; acts, if `act`. All that happens is told to `incidents`; `warmup` is in steps.

    A run in which nothing happens is bit for bit the one without it. `state` is what a checkpoint held of an earlier
    one; nothing from before it can be rolled back to.

    Raises (from `fit`):
      TrainingFailed: the budget is spent.
    """

    def __init__(
        self, act: bool, incidents: Incidents | None = None, warmup: int = 0, state: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self._act, self.incidents, self._warmup, self._resumed = act, incidents or Incidents(), warmup, state
        self._answers: list[int] = []  # steps
        self._last: tuple[int, int] | None = None  # the last rollback: from this step to that
        self._rewarming_since: int | None = None
        self._usual = float("inf")

    def on_train_begin(self, logs: Any = None) -> None:
        self._history = History(self.model.probe, self._warmup, self.model.guess)
        self._snapshots = Snapshots(self.model)
        if state := self._resumed:
            self._history.resume(state["history"])
            self._answers, self._usual = state["answers"], state["usual"]
            self._rewarming_since = state["rewarming_since"]
        if self._act:
            self.model.usual_norm.assign(self._usual)
            if state:
                self.model.scale_rate(self._rewarmed(self.model.step) * float(self.model.rate_cut.numpy()))
            elif float(self.model.rate_cut.numpy()) < 1:
                self._warm_up(self.model.step)
            self._snapshots.take()

    def state(self) -> dict[str, Any]:
        return {
            "history": self._history.state(),
            "answers": self._answers,
            "rewarming_since": self._rewarming_since,
            "usual": self._usual,
        }

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        rows, step = self.model.rows, self.model.step
        self._tell_of_clipped(rows, step - len(rows))
        self._history.add(step - len(rows), rows, self.model.layers_rows)
        alarms = self._history.new_alarms()
        acute = next((alarm for alarm in alarms if alarm.kind in ACUTE), None) if self._act else None
        for alarm in alarms:
            if alarm is not acute:
                self._tell(alarm, "none")
        if acute:
            self._answer(acute)
        elif self._act:
            self._go_on(step)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs and "val_loss" in logs:
            self._history.add_validation(self.model.step, logs["val_loss"])

    def _go_on(self, step: int) -> None:
        """What a call without trouble is followed by: the learning rate's way back, what is usual, a copy."""
        if self._rewarming_since is not None:
            done = self._rewarmed(step)
            self.model.scale_rate(done * float(self.model.rate_cut.numpy()))
            if done == 1:
                self._rewarming_since = None
        self._usual = self._history.usual("gradient_norm")
        self.model.usual_norm.assign(np.float32(self._usual))  # TensorFlow keeps a tensor of every Python number
        if step >= self._snapshots.steps[-1] + TAKE_EVERY:
            self._snapshots.take()

    def _warm_up(self, step: int) -> None:
        self._rewarming_since = step
        self.model.scale_rate(self._rewarmed(step) * float(self.model.rate_cut.numpy()))

    def _rewarmed(self, step: int) -> float:
        """The share of the cut learning rate that is back at `step`."""
        if self._rewarming_since is None:
            return 1.0
        return min(1.0, max(1, step - self._rewarming_since) / REWARMED)

    def _tell_of_clipped(self, rows: np.ndarray, first: int) -> None:
        norms = step_row.column(rows, "gradient_norm")
        for number in np.flatnonzero(np.isfinite(norms) & (norms > OUTLYING * self._usual)):
            evidence = {"gradient_norm": float(norms[number]), "usual": self._usual}
            self._tell(Alarm("outlying_gradient", first + int(number), evidence), "clipped to the usual norm")

    def _answer(self, alarm: Alarm) -> None:
        step = self.model.step
        self._answers = [answered for answered in self._answers if step - answered < FORGIVEN] + [step]
        if len(self._answers) > BUDGET:
            self._tell(alarm, "stopped")
            raise TrainingFailed(
                f"{alarm.kind} at step {alarm.step}, after {BUDGET} rollbacks within {FORGIVEN} steps: lower"
                " --optimizer.learning_rate, lengthen --optimizer.warmup_epochs, or look at the data"
                " (python -m tools.prepare names outliers)."
            )
        restored = self._snapshots.restore(before=self._sound_before(alarm))
        self._last = step, restored
        action = f"rolled back to step {restored}"
        if len(self._answers) > ROLLBACKS:
            self.model.rate_cut.assign(CUT * self.model.rate_cut)
            self._warm_up(step)
            action += f", learning rate times {self.model.rate_cut.numpy():g} after {REWARMED} steps of warm-up"
        self._history.forget(restored)
        self._history.tell_again()
        self._tell(alarm, action)

    def _sound_before(self, alarm: Alarm) -> int:
        """A step, not before the first one held, at which all was well: before what was gone back to in vain."""
        before = int(alarm.evidence.get("since", alarm.step)) - MARGIN
        if self._last and alarm.step < self._last[0] + IN_VAIN:
            older = [step for step in self._snapshots.steps if self.model.step - FARTHEST <= step < self._last[1]]
            before = min(before, older[-1] if older else self._last[1])
        return max(self._snapshots.steps[0], before)

    def _tell(self, alarm: Alarm, action: str) -> None:
        self.incidents.tell(alarm.step, alarm.kind, alarm.evidence, action)
