"""Detectors of training trouble: a pure numpy function of the telemetry for each kind of trouble.

    for alarm in alarms(trace):
        print(alarm.step, alarm.kind, alarm.evidence)

Every detector is causal: its result for a step depends on no later step, so that it is the same during and after a run.
Losses and norms are compared as logarithms, by median and median absolute deviation, so that neither their unit nor one
odd batch matters. Most detectors of layer statistics raise an alarm only if another detector has fired as well.

The first line of a detector's docstring is the rule that the report shows, with constants replaced by their values.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from evenkeel.models.stability.rolling import (
    BASELINE_STEPS,
    MAD_TO_SIGMA,
    falling_slope,
    moving_median,
    moving_sum,
    rolling_baseline,
    run_lengths,
)
from evenkeel.models.stability.trace import LOG_LOSS_OFFSET, Alarm, Signal, Trace

MAX_RESCALING_STEPS = 16  # consecutive non-finite gradients that a loss scale above 1 may cause
SPIKE_SIGMAS = 7.0  # robust standard deviations: PaLM and OLMo count loss spikes from here on
DIVERGENCE_CUSUM = 60.0  # standard deviations, summed over steps
LEARNT_ODDS = 1.5  # against those of guessing: an accuracy of 14% for 10 classes, of 60% for 2
STALL_STEPS = 150  # after the warm-up
STALL_EXAMPLES = 9_600  # examples of 150 batches of 64: 150 batches of 4 show too few images to learn from
STALL_EPOCHS = 5  # enough for small sets, even if they have fewer examples
# Among 263 sound runs with BatchNorm, moving variances grew by this factor in one run. In no run were the batch's
# variances smaller than the moving variances by this factor.
VARIANCE_JUMP = 5.0
WEIGHT_GROWTH_STEPS = 100
MOMENT_SPIKE_SAMPLES = 16  # layer samples before the first signal
CORROBORATION_STEPS = 100  # steps within which another detector must have fired

Detector = Callable[[Trace], Signal]


def signals(trace: Trace) -> dict[str, Signal]:
    """Returns {detector: its signal}, without the layer detectors if the trace has no layer statistics."""
    layer_detectors = {
        "batch_norm_gap",
        "statistics_jump",
        "small_updates",
        "large_first_update",
        "growing_weights",
        *CORROBORATED,
    } - {"exploding"}
    return {
        name: detector(trace)
        for name, detector in {**STANDALONE, **CORROBORATED}.items()
        if len(trace.loss) and (trace.layers or name not in layer_detectors)
    }


def alarms(trace: Trace) -> list[Alarm]:
    """Returns an alarm for each step at which a kind of trouble begins, in the order of steps.

    A detector in `CORROBORATED` counts only if a different one has fired at most `CORROBORATION_STEPS` steps before.
    """
    all_signals = signals(trace)
    found = []
    for kind, signal in all_signals.items():
        on = signal.on
        if kind in CORROBORATED:
            others = [other.steps[other.on] for name, other in all_signals.items() if name != kind]
            on = on & _is_corroborated(signal.steps, np.concatenate(others))
        begins = np.flatnonzero(on & ~np.concatenate([[False], on[:-1]]))
        for index in begins:
            evidence = {name: float(values[index]) for name, values in signal.evidence.items()}
            found.append(Alarm(kind, int(signal.steps[index]), evidence))
    return sorted(found, key=lambda alarm: alarm.step)


# Detectors of the loss and of gradients.


def nonfinite(trace: Trace) -> Signal:
    """3 gradients in a row are not finite; `MAX_RESCALING_STEPS` in a row if a loss scale may be the reason.

    The training step skips such updates, so one or two do no harm. The loss scale of float16 overflows by design now
    and then; 15 halvings bring it from 2^15 to 1.
    """
    in_a_row = run_lengths(trace.nonfinite > 0)
    on = in_a_row >= np.where(trace.loss_scale <= 1, 3, MAX_RESCALING_STEPS)
    return Signal(trace.steps, on, {"in_a_row": in_a_row.astype(np.float64), "loss_scale": trace.loss_scale})


def loss_spike(trace: Trace) -> Signal:
    """In 3 of 5 steps, the log loss is over `SPIKE_SIGMAS` robust standard deviations above its median before.

    The loss must also be over 1.5 times that median. One bad batch is not a spike. Neither is a loss that changes
    slowly, because the window of the median moves along.
    """
    x = trace.log_loss
    center, spread = rolling_baseline(x)
    z = (x - center) / np.maximum(spread, 0.02)
    above = (z > SPIKE_SIGMAS) & (x - center > np.log(1.5))
    return Signal(trace.steps, moving_sum(above, 5) >= 3, {"z": z, "times": np.exp(x - center)})


def divergence(trace: Trace) -> Signal:
    """The log loss stays above its best level: the cumulative sum of the distance exceeds `DIVERGENCE_CUSUM`.

    S = max(0, S + (x - best) / sigma - 1) (Page 1954). `best` is the least median of 32 steps so far. `sigma` is the
    robust standard deviation of the differences between neighbouring steps, divided by the square root of 2; a trend
    does not widen it. The 1 is subtracted, because noise alone stays below it.
    """
    x = trace.log_loss
    level, _ = rolling_baseline(x, 32)
    best = np.fmin.accumulate(np.where(np.isnan(level), np.inf, level))
    over = np.where(np.isfinite(best), (x - best) / _step_sigma(x) - 1, 0.0)
    total, sums = 0.0, np.zeros(len(x))
    for step, value in enumerate(np.clip(np.nan_to_num(over), -10, 10)):
        total = max(0.0, total + value)
        sums[step] = total
    rise = np.nan_to_num(level - best)
    evidence = {"cusum": sums, "times": np.exp(rise), "since": _step_of_best(trace.steps, best)}
    return Signal(trace.steps, (sums > DIVERGENCE_CUSUM) & (rise > np.log(1.25)), evidence)


def collapse(trace: Trace) -> Signal:
    """For 5 steps, the loss has lost more than half of what it had gained since the start of the run.

    Levels are medians of 16 log losses. Both the gain and its lost part must exceed 6 standard errors of such a median
    (one is 1.25 sigma / 4), so that a noisy start does not count. The median of the last 3 steps must have risen as
    well, so that a rise that has ended does not count. If batches are small, these are more steps, see `Trace.window`.
    This detector finds what `loss_spike` and `divergence` miss: a run whose loss was only a little below that of
    guessing, and rose again.
    """
    x, window = trace.log_loss, trace.window(16)
    level = moving_median(x, window)
    now = np.minimum(level, moving_median(x, trace.window(3)))
    known = np.arange(len(x)) >= window - 1
    best = np.minimum.accumulate(np.where(known, level, np.inf))
    standard_error = 1.25 / np.sqrt(window) * _step_sigma(x)
    start = np.log(1 + LOG_LOSS_OFFSET) if trace.began is not None else np.nan
    gained, lost = start - best, np.where(known, now - best, 0.0)
    with np.errstate(invalid="ignore"):
        on = known & (lost > np.maximum(gained / 2, 6 * standard_error)) & (gained > 6 * standard_error)
    share = np.divide(lost, gained, out=np.zeros(len(x)), where=np.isfinite(gained) & (gained > 0))
    evidence = {"given_back": share, "since": _step_of_best(trace.steps, best)}
    return Signal(trace.steps, run_lengths(on) >= trace.window(5), evidence)


def stall(trace: Trace) -> Signal:
    """`STALL_STEPS` steps after the warm-up, the loss is not yet 3% below both its start and the loss of guessing.

    The comparison with guessing matters if the first logits are large: a network soon reduces them, even if it learns
    nothing else. If batches are small, the rule waits longer, see `stall_patience`. It is silent while the loss falls
    significantly, and fast enough to be 3% lower after waiting once more: a low rate may be slow, not stuck. It is
    also silent where the accuracy shows that the network learns: with dropout and BatchNorm, the first loss is large,
    and predictions are better than guesses long before the loss is lower.
    """
    start = np.inf if trace.began is None else min(trace.began, trace.chance_loss)
    share = moving_median(trace.loss, 32) / start
    share[:31] = np.nan  # medians of fewer steps are noise
    lowest, patience = np.fmin.accumulate(share), stall_patience(trace)
    expected = lowest + patience * falling_slope(np.minimum(np.nan_to_num(trace.loss / start, nan=1.0), 1.0))
    on = (trace.steps >= trace.warmup + patience) & (lowest > 0.97) & (expected > 0.97)
    on &= ~_beats_guessing(trace)
    return Signal(trace.steps, on, {"share": share})


def oscillation(trace: Trace) -> Signal:
    """Neighbouring log losses alternate: autocorrelation below -0.6, and a swing of over a fifth of the loss.

    For 64 values of noise, minus their moving median, the autocorrelation is 0.02 with a standard deviation of 0.13.
    """
    x = trace.log_loss
    residual = x - moving_median(x, 8)  # an even number of values: the median of an odd number follows every swing
    swing = MAD_TO_SIGMA * moving_median(np.abs(residual), BASELINE_STEPS)
    products = np.concatenate([[0.0], residual[1:] * residual[:-1]])
    covariance, variance = moving_sum(products, BASELINE_STEPS), moving_sum(residual**2, BASELINE_STEPS)
    correlation = covariance / np.maximum(variance, 1e-12)
    on = (np.arange(len(x)) >= BASELINE_STEPS) & (correlation < -0.6) & (swing > 0.2)
    return Signal(trace.steps, on, {"swing": swing, "correlation": correlation})


def overfitting(trace: Trace) -> Signal:
    """For two validations, the training loss falls or is close to zero, and the validation loss does not follow.

    One of these two rules holds for both validations:
    * Worse: the validation loss is 10% above its best, and the training loss has fallen by 10% since this best.
    * Memorised: the validation loss is not 5% below its previous best, its best is over a fifth of the loss of
      guessing, and the training loss is below a tenth of the best. If the best is below half the loss of guessing, this
      limit falls in proportion, to a 25th at a fifth: on an easy task a low training loss is no sign of memorising.
    """
    if not len(trace.validated):
        return Signal(trace.validated, np.zeros(0, bool), {})
    best = np.minimum.accumulate(trace.validation_loss)
    previous_best = np.concatenate([[np.inf], best[:-1]])
    best_index = np.array([int(np.argmin(trace.validation_loss[: k + 1])) for k in range(len(best))])
    worse = (trace.validation_loss > 1.1 * best) & (trace.training_loss < 0.9 * trace.training_loss[best_index])
    stuck = (trace.validation_loss > 0.95 * previous_best) & (best > trace.chance_loss / 5)
    memorised = stuck & (trace.training_loss < best / 10 * np.minimum(1, 2 * best / trace.chance_loss))
    evidence = {"times": trace.validation_loss / best, "training_loss": trace.training_loss}
    return Signal(trace.validated, (run_lengths(worse) >= 2) | (run_lengths(memorised) >= 2), evidence)


def exploding(trace: Trace) -> Signal:
    """In 3 of 5 steps, the gradient norm is 5 times, and `SPIKE_SIGMAS` robust deviations above, its median before."""
    x = np.log(np.maximum(np.nan_to_num(trace.gradient_norm, nan=1e30, posinf=1e30), 1e-30))
    center, spread = rolling_baseline(x)
    z = (x - center) / np.maximum(spread, 0.05)
    above = (z > SPIKE_SIGMAS) & (x - center > np.log(5))
    return Signal(trace.steps, moving_sum(above, 5) >= 3, {"z": z, "times": np.exp(x - center)})


# Detectors of layer statistics, which are sampled every few steps.


def batch_norm_gap(trace: Trace) -> Signal:
    """The same images have twice the loss in inference as in training, in the median of the last 8 samples."""
    inference, training = trace.layers["inference_loss"], trace.layers["training_loss"]
    offset = LOG_LOSS_OFFSET * np.median(training[:8]) if len(training) else 0.0
    gap = moving_median(np.log(inference + offset) - np.log(training + offset), 8)
    return _layer_signal(trace, gap > np.log(2), 8, {"times": np.exp(gap)})


def statistics_jump(trace: Trace) -> Signal:
    """A layer's moving variances are `VARIANCE_JUMP` times those of the 3 samples before, and times the batch's.

    Variances are means over channels and are compared with the median of the 3 samples. A few images with absurd values
    cause such a jump: training normalizes with the batch's own statistics and continues, but inference uses a wrong
    scale. If weights grow, the batch's variance grows first; one odd batch moves the moving variances by only a tenth.
    """
    x = np.nan_to_num(trace.layers["log_variance"])
    median = np.full(x.shape, np.nan)
    if len(x) > 3:
        median[3:] = np.median([x[:-3], x[1:-2], x[2:-1]], axis=0)
    rise = np.nan_to_num(_largest_layer(np.minimum(x - median, -trace.layers["spread"])))
    since = np.concatenate([trace.due[:1], trace.due[:-1]])
    evidence = {"times": np.exp(np.minimum(rise, 700)), "since": since}
    return _layer_signal(trace, rise > np.log(VARIANCE_JUMP), 4, evidence)


def vanishing(trace: Trace) -> Signal:
    """Against weights, gradients are 1,000 times smaller in the first layer than in the last (median of 5 samples)."""
    relative = trace.layers["gradient_norm"] / np.maximum(trace.layers["weight_norm"], 1e-12)
    ratio = relative[:, 0] / np.maximum(relative[:, -1], 1e-30) if relative.shape[1] else np.ones(len(relative))
    median = moving_median(ratio, 5)
    return _layer_signal(trace, median < 1e-3, 5, {"ratio": median})


def dying(trace: Trace) -> Signal:
    """In one layer, more than half of the channels are zero for all images, in the median of 3 samples."""
    return _largest_share_signal(trace, "dead", 0.5)


def saturation(trace: Trace) -> Signal:
    """In one layer, more than four fifths of the values are at an asymptote, in the median of 3 samples."""
    return _largest_share_signal(trace, "saturated", 0.8)


def large_updates(trace: Trace) -> Signal:
    """After the warm-up, an update moves a layer's weights by over a tenth of their norm, in the median of 5 samples.

    About a thousandth is usual (Karpathy 2022, "Building makemore part 3").
    """
    median = moving_median(_largest_layer(_update_ratio(trace)), 5)
    return _layer_signal(trace, median > 0.1, 5, {"ratio": median})


def small_updates(trace: Trace) -> Signal:
    """Since the warm-up, updates are below 1.2e-3 of the median layer's norm on average, and the loss fell little.

    The average is taken over the samples at which the learning rate is at least a tenth of its peak; the rule applies
    from `stall_patience` steps after the warm-up on. "Little" means that the loss never fell below a limit, and that
    its trend does not reach the limit in as many steps again: 0.8 of the first loss at updates of 1.2e-3, and 0.6 less
    for each factor of 10 by which updates are smaller, down to 0.2. About 1e-3 is usual (Karpathy 2022, "Building
    makemore part 3"), and sound runs of small networks have 3e-3 to 2e-2. The rule combines two pieces of evidence, so
    the detector is standalone.
    """
    median = _median_layer(_update_ratio(trace))
    due_index = np.searchsorted(trace.steps, trace.due)
    peak = np.maximum.accumulate(trace.learning_rate)
    near_peak = (trace.learning_rate >= 0.1 * peak)[due_index]
    included = (trace.due >= trace.warmup) & np.isfinite(median) & near_peak
    samples = np.cumsum(included)
    mean = np.cumsum(np.where(included, median, 0)) / np.maximum(samples, 1)
    start = np.inf if trace.began is None else trace.began
    lowest, patience = np.fmin.accumulate(moving_median(trace.loss, 32) / start)[due_index], stall_patience(trace)
    expected = lowest + patience * falling_slope(np.nan_to_num(trace.loss / start, posinf=1e6))[due_index]
    limit = 0.8 + 0.6 * np.log10(np.clip(mean / 1.2e-3, 0.1, 1))
    due = (trace.due >= trace.warmup + patience) & (samples >= 5)
    on = due & (mean < 1.2e-3) & (lowest > limit) & (expected > limit)
    return _layer_signal(trace, on, 5, {"ratio": mean, "share": lowest})


def large_first_update(trace: Trace) -> Signal:
    """Adam's first update moves the median layer by more than 0.12 of its norm: the run needs a warm-up.

    Adam's first updates move every weight by the learning rate, whatever the gradient (Kingma and Ba 2015, section
    2.1): the initial weights are lost before anything is learnt. A rate of 1e-3 gives 0.05 in a convolution of 512
    channels. The rule does not apply to SGD: its first gradients are its largest, and sound runs reach 0.13. The median
    exceeds the limit only if half of the layers do, so that one layer that starts near zero does not count. Therefore
    the detector is standalone.
    """
    median = np.nan_to_num(_median_layer(_update_ratio(trace)))
    uses_adam = np.isfinite(trace.layers["moment_ratio"]).any(axis=1)
    return Signal(trace.due, (trace.due == 0) & uses_adam & (median > 0.12), {"ratio": median})


def growing_weights(trace: Trace) -> Signal:
    """Within `WEIGHT_GROWTH_STEPS` steps, most layers' weight norms grew 1.8-fold: updates are too large.

    In front of a normalization the gradient is orthogonal to the weights, and each update lengthens them by
    |dw|^2 / (2 |w|^2) (van Laarhoven 2017, section 2): the effective rate falls by itself, at the cost of the initial
    weights. Sound runs reach 1.2, and 1.5 at four times their rate. The rule applies to networks of three layers or
    more, because a single layer may start near zero on purpose.
    """
    norm = trace.layers["weight_norm"]
    earlier = np.searchsorted(trace.due, trace.due - WEIGHT_GROWTH_STEPS)
    times = _median_layer(norm / np.maximum(norm[earlier], 1e-12))
    return Signal(trace.due, (np.nan_to_num(times) > 1.8) & (norm.shape[1] >= 3), {"times": times})


def moment_spike(trace: Trace) -> Signal:
    """Adam's g / sqrt(v) has a root mean square above 2.3 in a layer: spikes follow (Wortsman et al. 2023, fig. 9)."""
    ratio = _largest_layer(trace.layers["moment_ratio"])
    return _layer_signal(trace, np.nan_to_num(ratio) > 2.3, MOMENT_SPIKE_SAMPLES, {"ratio": ratio})


STANDALONE: dict[str, Detector] = {
    detector.__name__: detector
    for detector in (
        nonfinite,
        loss_spike,
        divergence,
        collapse,
        stall,
        small_updates,
        large_first_update,
        growing_weights,
        oscillation,
        overfitting,
        batch_norm_gap,
        statistics_jump,
    )
}
CORROBORATED: dict[str, Detector] = {
    detector.__name__: detector for detector in (vanishing, exploding, dying, saturation, large_updates, moment_spike)
}


def stall_patience(trace: Trace) -> int:
    """Steps after the warm-up in which a sound run has begun to learn: `STALL_STEPS`, or more if batches are small.

    The steps must also hold `STALL_EXAMPLES` examples, or `STALL_EPOCHS` epochs if these are fewer examples.
    """
    epochs = np.inf if trace.steps_per_epoch is None else STALL_EPOCHS * trace.steps_per_epoch
    examples = 0.0 if trace.batch is None else STALL_EXAMPLES / trace.batch
    return max(STALL_STEPS, math.ceil(min(examples, epochs)))


def _beats_guessing(trace: Trace) -> np.ndarray:
    """Whether the accuracy of the last 64 steps is far above that of guessing, bool [n]; False if it is unknown.

    Far is 5 standard errors, and odds `LEARNT_ODDS` times as high: a class that is a little more common does not count.
    """
    if trace.batch is None or len(trace.accuracy) != len(trace.loss):
        return np.zeros(len(trace.loss), bool)
    guess = np.exp(-trace.chance_loss)
    count = np.minimum(np.arange(len(trace.loss)) + 1, BASELINE_STEPS)
    accuracy = moving_sum(np.nan_to_num(trace.accuracy), BASELINE_STEPS) / count
    far = guess + 5 * np.sqrt(guess * (1 - guess) / (count * trace.batch))
    return (accuracy > far) & (accuracy * (1 - guess) > LEARNT_ODDS * guess * (1 - accuracy))


def _step_sigma(x: np.ndarray) -> np.ndarray:
    """Robust standard deviation of the noise in `x` over the last 64 steps, from differences of neighbours; >= 0.02."""
    differences = np.abs(np.diff(x, prepend=x[:1]))
    return np.maximum(MAD_TO_SIGMA * moving_median(differences, BASELINE_STEPS) / np.sqrt(2), 0.02)


def _step_of_best(steps: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Returns the newest step at which the running minimum `best` has fallen, float64 [n]."""
    improved = np.concatenate([[True], best[1:] < best[:-1]]) if len(best) else np.zeros(0, bool)
    return np.maximum.accumulate(np.where(improved, steps, 0)).astype(np.float64)


def _update_ratio(trace: Trace) -> np.ndarray:
    """Norm of the update divided by the norm of the weights, float64 [m, layers]."""
    return trace.layers["update_norm"] / np.maximum(trace.layers["weight_norm"], 1e-12)


def _largest_share_signal(trace: Trace, name: str, limit: float) -> Signal:
    share = moving_median(_largest_layer(trace.layers[name]), 3)
    return _layer_signal(trace, np.nan_to_num(share) > limit, 3, {"share": share})


def _layer_signal(trace: Trace, on: np.ndarray, samples: int, evidence: dict[str, np.ndarray]) -> Signal:
    """A signal at the sampled steps; off during the warm-up and before the trace holds that many `samples`."""
    ready = (np.arange(len(trace.due)) >= samples - 1) & (trace.due >= trace.warmup)
    return Signal(trace.due, ready & on, evidence)


def _median_layer(x: np.ndarray) -> np.ndarray:
    """Median over the layers, the lower one of an even number; NaN where no layer has a value."""
    known = np.isfinite(x).any(axis=1)
    median = np.full(len(x), np.nan)
    median[known] = np.nanquantile(x[known], 0.5, axis=1, method="lower")
    return median


def _largest_layer(x: np.ndarray) -> np.ndarray:
    """Maximum over the layers; NaN where no layer has a value."""
    if x.shape[1] == 0:
        return np.full(len(x), np.nan)
    return np.where(np.isnan(x).all(axis=1), np.nan, np.max(np.nan_to_num(x, nan=-np.inf), axis=1))


def _is_corroborated(steps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether one of `others` lies at each step or at most `CORROBORATION_STEPS` steps before it, bool [n]."""
    others = np.sort(others)
    if not len(others):
        return np.zeros(len(steps), bool)
    index = np.searchsorted(others, steps, side="right") - 1
    return (index >= 0) & (steps - others[np.maximum(index, 0)] <= CORROBORATION_STEPS)
