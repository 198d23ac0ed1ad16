"""Telemetry of a run as detectors read it (`Trace`), and what they return (`Signal`, `Alarm`)."""

from __future__ import annotations

import dataclasses

import numpy as np

FIRST_LOSS_STEPS = 10  # the first loss of a run is the median over so many steps
USUAL_BATCH = 32  # examples; a window of steps is as long as if a batch had at least so many
LOG_LOSS_OFFSET = 0.05  # share of the first loss that is added before the logarithm


@dataclasses.dataclass(frozen=True)
class Alarm:
    """Trouble that a detector found.

    Attributes:
      kind: the detector's name.
      step: the step at which the trouble became certain.
      evidence: the numbers that show the trouble.
    """

    kind: str
    step: int
    evidence: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """Telemetry of a run, or of its newest steps. diagnosis.json holds the fields under these names.

    Attributes:
      steps: int64 [n]; the steps of the following five columns.
      loss: float64 [n]; training loss in nats.
      gradient_norm: float64 [n]; global norm of the gradients.
      learning_rate: float64 [n].
      loss_scale: float64 [n].
      nonfinite: float64 [n]; 1 where a gradient was not finite.
      warmup: steps from the start of the run in which the learning rate rises.
      due: int64 [m]; the steps at which layer statistics were sampled.
      layers: {statistic: float64 [m] or [m, layers]}, as `LayerStats.unpack` returns it.
      validated: int64 [k]; the steps after which validation ran.
      validation_loss: float64 [k].
      training_loss: float64 [k]; the median loss of the 64 steps before each validation.
      began: `first_loss` of the run; None if its start was not recorded.
      guess: the loss of random guessing; None if unknown.
      batch: examples in a batch; None if unknown.
      steps_per_epoch: steps in an epoch; None if unknown.
      accuracy: float64 [n]; the share of right predictions in a training batch; empty if unknown.
    """

    steps: np.ndarray
    loss: np.ndarray
    gradient_norm: np.ndarray
    learning_rate: np.ndarray
    loss_scale: np.ndarray
    nonfinite: np.ndarray
    warmup: int = 0
    due: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    layers: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    validated: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    validation_loss: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    training_loss: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    began: float | None = None
    guess: float | None = None
    batch: int | None = None
    steps_per_epoch: int | None = None
    accuracy: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

    @property
    def chance_loss(self) -> float:
        """The loss of random guessing (`guess`), or infinity if it is unknown."""
        return np.inf if self.guess is None else self.guess

    def window(self, steps: int) -> int:
        """`steps`, or more if batches are small, see `steps_of_batches`."""
        return steps if self.batch is None else steps_of_batches(steps, self.batch)

    @property
    def log_loss(self) -> np.ndarray:
        """log(loss / first loss + 0.05), float64 [n].

        The offset makes a loss of a hundredth and of a thousandth of the first loss nearly equal: there, differences
        are noise. A loss that is not finite counts as a million times the first loss.
        """
        unit = first_loss(self.loss) if self.began is None else self.began
        relative = np.where(np.isfinite(self.loss), np.maximum(self.loss, 0) / unit, 1e6)
        return np.log(relative + LOG_LOSS_OFFSET)


@dataclasses.dataclass(frozen=True, eq=False)
class Signal:
    """Output of one detector.

    Attributes:
      steps: int64 [m]; the steps that the detector has judged.
      on: bool [m]; whether there is trouble at each step.
      evidence: {name: float64 [m]}; the numbers that decided `on`.
    """

    steps: np.ndarray
    on: np.ndarray
    evidence: dict[str, np.ndarray]


def steps_of_batches(steps: int, batch: int) -> int:
    """`steps`, or as many steps of smaller batches as hold about the examples of `steps` batches of `USUAL_BATCH`.

    They are at most 8 times as many: telemetry of a running training has no more than 256 steps.
    """
    return steps * max(1, min(8, USUAL_BATCH // batch))


def first_loss(loss: np.ndarray) -> float:
    """Median of the first `FIRST_LOSS_STEPS` finite losses, at least 1e-30; 1 if none is finite."""
    finite = loss[np.isfinite(loss)][:FIRST_LOSS_STEPS]
    return max(float(np.median(finite)), 1e-30) if len(finite) else 1.0
