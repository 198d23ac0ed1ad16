"""Learning-rate range test: how large a rate the network bears, from one short run in which it grows (Smith 2017).

found = range_test(config, data)
found.suggested, found.diverged_at
Image.fromarray(picture(found, peak=0.1)).save("range.png")
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import TrainConfig
from evenkeel.models.distribute import strategy
from evenkeel.models.optim import losses, optimizers, schedules
from evenkeel.models.optim.clipping import Clipping
from evenkeel.models.preflight import data_checks
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.models.telemetry import step_row
from evenkeel.models.training import build_model
from evenkeel.pipeline import build
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.index.shuffle import ReplicaShard

STEPS, CALL = 120, 20  # and those in one compiled call
USUAL = {"sgd": 0.1, "sgdw": 0.1, "lamb": 0.01, "novograd": 0.01}  # else 0.001; the range lies around it
BELOW, ABOVE = 1e-3, 1e3  # six decades: 20 steps each
SMOOTHING = 0.9
DIVERGED, RISEN = 4.0, 2.0  # times the best smoothed loss (fastai's limit), and times the first
FROM_BEST = 10.0  # the suggested rate is the best one's tenth
TOO_LOW = 300.0


@dataclasses.dataclass(frozen=True, eq=False)
class RangeTest:
    """`rates` and `losses`, float64 [steps], up to where it stopped; `smoothed` likewise.

    `diverged_at` is the rate at which the smoothed loss was 4 times its best, twice its first, or not a number; None if
    it never was.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggested: float
    diverged_at: float | None


class Growing(keras.optimizers.schedules.LearningRateSchedule):
    """From `low` at step 0 to `high` at step `steps` - 1, by equal factors."""

    def __init__(self, low: float, high: float, steps: int) -> None:
        self.low, self.high, self.steps = low, high, steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        done = tf.cast(step, tf.float32) / max(1, self.steps - 1)
        return self.low * tf.exp(done * math.log(self.high / self.low))

    def get_config(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "steps": self.steps}


def range_test(config: TrainConfig, data: Dataset, steps: int = STEPS) -> RangeTest:
    """Trains a fresh network as `config` says, on one device, but for the rate, which grows through six decades.

    The optimizer, its clipping and the batches are those of the run; dropout and augmentation, too. It stops where the
    loss has diverged.
    """
    usual = USUAL.get(config.optimizer.name, 1e-3)
    of, model = config.optimizer, build_model.behind_normalization(config, data)
    high = max(ABOVE * usual, 10 * schedules.peak(of, config.data.batch_size))
    model.compile(
        optimizers.create(of, Growing(BELOW * usual, high, steps), model.trainable_variables),
        losses.create(config.loss, config.label_smoothing, config.focal_gamma),
        xla=strategy.use_xla(config.xla),
        clipping=Clipping(of.clip_adaptive, of.clip_value, of.clip_norm),
        accumulate=of.accumulate,
        mixing=config.mixing,
        steps_per_execution=min(CALL, steps),
    )
    batches = build.training_batches(
        data, data_checks.local(config.data), config.seed, ReplicaShard(config.data.batch_size)
    )
    rows = _Rows()
    model.fit(batches, steps_per_epoch=steps, epochs=1, callbacks=[rows], verbose=0)
    found = np.concatenate(rows.seen)
    rates = step_row.column(found, "learning_rate").astype(np.float64)
    loss = step_row.column(found, "loss").astype(np.float64)
    bad = step_row.column(found, "nonfinite") > 0
    return judged(rates, np.where(bad, np.inf, loss))


def judged(rates: np.ndarray, losses: np.ndarray) -> RangeTest:
    """What a curve says: all of it up to where it diverged.

    The suggested rate is a tenth of the one with the lowest smoothed loss (fastai's rule after Smith 2017, section 3.3:
    short of where the curve turns). Smoothing is behind by some 10 steps, half a decade, so that both are generous.
    """
    smooth = smoothed(losses)
    best = np.minimum.accumulate(smooth)
    first = np.median(losses[:10])
    over = np.flatnonzero(~np.isfinite(smooth) | (smooth > np.minimum(DIVERGED * best, RISEN * first)))
    end = int(over[0]) + 1 if len(over) else len(rates)
    at = int(np.argmin(smooth[:end]))
    diverged_at = float(rates[over[0]]) if len(over) else None
    return RangeTest(rates[:end], losses[:end], smooth[:end], float(rates[at]) / FROM_BEST, diverged_at)


def smoothed(losses: np.ndarray) -> np.ndarray:
    """Exponential moving average, its start corrected as Adam's moments are; infinite from the first infinite loss."""
    average, found = 0.0, np.empty(len(losses))
    for step, loss in enumerate(losses):
        average = SMOOTHING * average + (1 - SMOOTHING) * (loss if math.isfinite(loss) else math.inf)
        found[step] = average / (1 - SMOOTHING ** (step + 1))
    return found


def finding(config: TrainConfig, found: RangeTest) -> Finding:
    """The peak rate against where the loss diverges, and against a 300th of what is suggested."""
    peak = schedules.peak(config.optimizer, config.data.batch_size)
    high = found.diverged_at is not None and peak >= found.diverged_at
    low = peak <= found.suggested / TOO_LOW
    where = "nowhere" if found.diverged_at is None else f"at {found.diverged_at:.2g}"
    return Finding(
        "learning_rate_range",
        not high and not low,
        f"the peak learning rate is {peak:g}; in a run in which it grew, {found.suggested:.2g} was good and the loss"
        f" diverged {where}",
        f"it lies above {found.suggested / TOO_LOW:.2g} and below where the loss diverges",
        f"Use --optimizer.learning_rate={config.optimizer.learning_rate * found.suggested / peak:.2g}.",
        {"peak": peak, "suggested": found.suggested, "diverged_at": found.diverged_at or math.inf},
        ("learning_rate_low",) if low else ("learning_rate_high", "no_warmup"),
    )


def picture(found: RangeTest, peak: float) -> np.ndarray:
    """uint8 [height, width, 3]: loss by rate, with the suggested rate, the configured one and where it diverged."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=90, layout="constrained")
    axes = figure.subplots()
    finite = np.isfinite(found.losses)
    axes.plot(found.rates[finite], found.losses[finite], color="lightgray", label="loss")
    axes.plot(found.rates, np.where(np.isfinite(found.smoothed), found.smoothed, np.nan), label="smoothed")
    marks = {"suggested": (found.suggested, "green"), "configured": (peak, "black")}
    if found.diverged_at is not None:
        marks["diverged"] = (found.diverged_at, "red")
    for name, (rate, colour) in marks.items():
        axes.axvline(rate, color=colour, linestyle="--", label=f"{name}: {rate:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.legend()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class _Rows(keras.callbacks.Callback):
    """Keeps the telemetry of each call, and stops where the loss has diverged."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[np.ndarray] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        rows = self.model.rows
        self.seen.append(rows)
        so_far = np.concatenate(self.seen)
        bad = step_row.column(so_far, "nonfinite") > 0
        losses = np.where(bad, np.inf, step_row.column(so_far, "loss"))
        if judged(np.ones(len(losses)), losses).diverged_at is not None:
            self.model.stop_training = True
