"""Learning-rate range test: a short run with a growing learning rate, which finds where the loss diverges (Smith 2017).

result = run_range_test(config, data)
result.suggested, result.diverged_at
Image.fromarray(draw_curve(result, peak=0.1)).save("range.png")
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
from evenkeel.models.preflight.sample_images import local_data_config
from evenkeel.models.stability.diagnosis import Finding
from evenkeel.models.telemetry import step_row
from evenkeel.models.training import build_model
from evenkeel.models.training.step_options import StepOptions
from evenkeel.pipeline import build
from evenkeel.pipeline.dataset import Dataset
from evenkeel.pipeline.index.replica_shard import ReplicaShard

RANGE_STEPS, STEPS_PER_CALL = 120, 20
TYPICAL_RATE = 0.001
TYPICAL_RATES = {
    "sgd": 0.1,
    "sgdw": 0.1,
    "lamb": 0.01,
    "novograd": 0.01,
    "adagrad": 0.01,
    "adadelta": 1.0,
}  # all others: `TYPICAL_RATE`
LOW_FACTOR, HIGH_FACTOR = 1e-3, 1e3  # times the typical rate: six decades of 20 steps
SMOOTHING = 0.9
DIVERGED_OVER_BEST, DIVERGED_OVER_FIRST = 4.0, 2.0  # times the best smoothed loss (as in fastai), times the first loss
BEST_OVER_SUGGESTED = 10.0
SUGGESTED_OVER_TOO_LOW = 300.0


@dataclasses.dataclass(frozen=True, eq=False)
class RangeTestResult:
    """The loss of a range test by learning rate.

    Attributes:
      rates: float64 [steps]; learning rates up to the step at which the test ended.
      losses: float64 [steps], in nats.
      smoothed: float64 [steps]; moving average of `losses`.
      suggested: the suggested learning rate.
      diverged_at: the rate at which the smoothed loss was 4 times its best, twice the first loss, or not finite; None
        if the loss never diverged.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggested: float
    diverged_at: float | None


class ExponentialRate(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that grows from `low` at step 0 to `high` at step `steps` - 1 by equal factors."""

    def __init__(self, low: float, high: float, steps: int) -> None:
        self.low, self.high, self.steps = low, high, steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        done = tf.cast(step, tf.float32) / max(1, self.steps - 1)
        return self.low * tf.exp(done * math.log(self.high / self.low))

    def get_config(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "steps": self.steps}


def run_range_test(config: TrainConfig, data: Dataset, steps: int = RANGE_STEPS) -> RangeTestResult:
    """Trains a fresh network as `config` says, on one device, while the learning rate grows through six decades.

    Optimizer, clipping, batches, dropout and augmentation are those of the run. The test stops when the loss diverges.
    """
    typical = TYPICAL_RATES.get(config.optimizer.name, TYPICAL_RATE)
    optimizer, model = config.optimizer, build_model.wrap_network(config, data)
    high = max(HIGH_FACTOR * typical, 10 * schedules.peak_learning_rate(optimizer, config.data.batch_size))
    rate = ExponentialRate(LOW_FACTOR * typical, high, steps)
    model.compile(
        optimizers.create_optimizer(optimizer, rate, model.trainable_variables),
        losses.create_loss(config.loss, config.label_smoothing, config.focal_gamma),
        StepOptions(
            xla=strategy.use_xla(config.xla),
            clipping=build_model.create_clipping(config),
            accumulate=optimizer.accumulate,
            mixing=config.mixing,
        ),
        steps_per_execution=min(STEPS_PER_CALL, steps),
    )
    batches = build.training_batches(
        data, local_data_config(config.data), config.seed, ReplicaShard(config.data.batch_size)
    )
    recorder = _RowRecorder()
    model.fit(batches, steps_per_epoch=steps, epochs=1, callbacks=[recorder], verbose=0)
    rows = recorder.rows()
    rates = step_row.column(rows, "learning_rate").astype(np.float64)
    return analyse_curve(rates, _losses_with_nonfinite(rows).astype(np.float64))


def analyse_curve(rates: np.ndarray, losses: np.ndarray) -> RangeTestResult:
    """Finds the rate at which the loss diverges, and suggests a tenth of the rate with the lowest smoothed loss.

    This is fastai's rule, after Smith 2017, section 3.3: the suggestion is below the rate at which the curve turns up.
    Smoothing lags by about 10 steps, half a decade, so both rates are on the high side.
    """
    smoothed = smooth_losses(losses)
    best = np.minimum.accumulate(smoothed)
    first = np.median(losses[:10])
    limit = np.minimum(DIVERGED_OVER_BEST * best, DIVERGED_OVER_FIRST * first)
    diverged = np.flatnonzero(~np.isfinite(smoothed) | (smoothed > limit))
    end = int(diverged[0]) + 1 if len(diverged) else len(rates)
    suggested = float(rates[int(np.argmin(smoothed[:end]))]) / BEST_OVER_SUGGESTED
    diverged_at = float(rates[diverged[0]]) if len(diverged) else None
    return RangeTestResult(rates[:end], losses[:end], smoothed[:end], suggested, diverged_at)


def smooth_losses(losses: np.ndarray) -> np.ndarray:
    """Exponential moving average with the bias correction of Adam's moments; infinite from the first infinite loss."""
    average, smoothed = 0.0, np.empty(len(losses))
    for step, loss in enumerate(losses):
        average = SMOOTHING * average + (1 - SMOOTHING) * (loss if math.isfinite(loss) else math.inf)
        smoothed[step] = average / (1 - SMOOTHING ** (step + 1))
    return smoothed


def check_learning_rate_range(config: TrainConfig, result: RangeTestResult) -> Finding:
    """Whether the peak rate is below the rate at which the loss diverges, and above a 300th of the suggested rate."""
    peak = schedules.peak_learning_rate(config.optimizer, config.data.batch_size)
    high = result.diverged_at is not None and peak >= result.diverged_at
    low = peak <= result.suggested / SUGGESTED_OVER_TOO_LOW
    diverged = "the loss never diverged" if result.diverged_at is None else f"diverged at {result.diverged_at:.2g}"
    return Finding(
        "learning_rate_range",
        not high and not low,
        f"the peak learning rate is {peak:g}; a run with a growing rate suggests {result.suggested:.2g} and {diverged}",
        f"the rate must lie above {result.suggested / SUGGESTED_OVER_TOO_LOW:.2g} and below where the loss diverges",
        f"Use --optimizer.learning_rate={config.optimizer.learning_rate * result.suggested / peak:.2g}.",
        {"peak": peak, "suggested": result.suggested, "diverged_at": result.diverged_at or math.inf},
        ("learning_rate_low",) if low else ("learning_rate_high", "no_warmup"),
    )


def draw_curve(result: RangeTestResult, peak: float) -> np.ndarray:
    """Draws loss by rate, uint8 [height, width, 3], with marks at the suggested, configured and diverging rates."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=90, layout="constrained")
    axes = figure.subplots()
    finite = np.isfinite(result.losses)
    axes.plot(result.rates[finite], result.losses[finite], color="lightgray", label="loss")
    axes.plot(result.rates, np.where(np.isfinite(result.smoothed), result.smoothed, np.nan), label="smoothed")
    marks = {"suggested": (result.suggested, "green"), "configured": (peak, "black")}
    if result.diverged_at is not None:
        marks["diverged"] = (result.diverged_at, "red")
    for name, (rate, color) in marks.items():
        axes.axvline(rate, color=color, linestyle="--", label=f"{name}: {rate:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axes.legend()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class _RowRecorder(keras.callbacks.Callback):
    """Records the telemetry rows of every call, and stops training once the loss has diverged."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[np.ndarray] = []

    def rows(self) -> np.ndarray:
        return np.concatenate(self._calls)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._calls.append(self.model.rows)
        losses = _losses_with_nonfinite(self.rows())
        if analyse_curve(np.ones(len(losses)), losses).diverged_at is not None:
            self.model.stop_training = True


def _losses_with_nonfinite(rows: np.ndarray) -> np.ndarray:
    """The loss of each step, [steps]; infinite where a gradient was not finite."""
    nonfinite = step_row.column(rows, "nonfinite") > 0
    return np.where(nonfinite, np.inf, step_row.column(rows, "loss"))
