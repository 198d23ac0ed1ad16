"""What goes wrong in a run, read off its telemetry: pure numpy, a function for each kind of trouble.

    for alarm in alarms(trace):
        print(alarm.step, alarm.kind, alarm.evidence)

Every detector is causal: what it says of a step depends on no later one, so that it says the same during a run and
after it. Losses and norms are compared as logarithms, by median and median absolute deviation, so that neither their
unit nor a single odd batch matters. A detector that looks at layers alarms only together with another one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

WINDOW = 64  # steps before a step that it is compared with
LEAST = 16  # fewer say nothing
SIGMA = 1.4826  # standard deviations in a MAD, of a normal distribution
FAR = 7.0  # standard deviations: PaLM and OLMo count spikes of the loss from here on
SOFTENING = 0.05  # of the first loss
FIRST = 10  # steps whose median that is
JUMP = 5.0  # of 263 sound runs with BatchNorm one had moving variances that grew so much, none with the batch's below
AGREEMENT = 100  # steps within which a second detector has to speak


@dataclasses.dataclass(frozen=True)
class Alarm:
    """A `kind` of trouble, the `step` at which it became certain, and the numbers that say so."""

    kind: str
    step: int
    evidence: dict[str, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """What is known of a run or of its newest part: float64 [n], a number for each of `steps` (int64 [n]).

    `warmup` is the number of steps, from the start of the run, in which the learning rate rises. `due` (int64 [m]) are
    the steps whose layers were looked at and `layers` what `probe.Probe.read` makes of these, [m] or [m, places].
    `validated` (int64 [k]) are the steps after which validation gave `validation_loss` [k], and `training_loss` [k] the
    median of the losses of the `WINDOW` steps before each. `began` is `first_loss` of the run; None where its start was
    not seen. `guess` is what an answer that favours no class would have as a loss; None where that is not known.
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

    @property
    def known_guess(self) -> float:
        """`guess`; infinite where it is not known."""
        return np.inf if self.guess is None else self.guess

    @property
    def log_loss(self) -> np.ndarray:
        """log(loss / began + 0.05): a hundredth of the first loss or a thousandth is much the same, and noise.

        What is not finite counts as a million times the first loss.
        """
        unit = first_loss(self.loss) if self.began is None else self.began
        relative = np.where(np.isfinite(self.loss), np.maximum(self.loss, 0) / unit, 1e6)
        return np.log(relative + SOFTENING)


@dataclasses.dataclass(frozen=True, eq=False)
class Signal:
    """Whether there is trouble (`on`, bool [m]) at each of `steps` (int64 [m]), and the numbers it was told from."""

    steps: np.ndarray
    on: np.ndarray
    evidence: dict[str, np.ndarray]


Detector = Callable[[Trace], Signal]


# Of the loss.


def nonfinite(trace: Trace) -> Signal:
    """3 gradients in a row that are not finite, or `RESCALED` where a loss scale may be the reason.

    The step skips such updates: one or two do no harm. float16's scale overflows on purpose, now and then; it gets from
    2^15 to 1 in 15 halvings.
    """
    in_a_row = run_lengths(trace.nonfinite > 0)
    on = in_a_row >= np.where(trace.loss_scale <= 1, 3, RESCALED)
    return Signal(trace.steps, on, {"in_a_row": in_a_row.astype(np.float64), "loss_scale": trace.loss_scale})


RESCALED = 16


def loss_spike(trace: Trace) -> Signal:
    """In 3 of 5 steps the log loss is more than 7 robust standard deviations above the median of those before.

    And at least half as much again as it was. One bad batch is no spike; a run whose loss falls or rises slowly has
    none either, as the window moves along.
    """
    x = trace.log_loss
    center, spread = before(x)
    z = (x - center) / np.maximum(spread, 0.02)
    above = (z > FAR) & (x - center > np.log(1.5))
    return Signal(trace.steps, moving_sum(above, 5) >= 3, {"z": z, "times": np.exp(x - center)})


def divergence(trace: Trace) -> Signal:
    """The log loss stays above its best level: a cumulative sum (Page 1954) of its distance exceeds `LIMIT`.

    S = max(0, S + (x - best) / sigma - 1), where best is the least median of 32 steps so far and sigma the robust
    standard deviation of differences of neighbours, over root 2, which no trend widens. Noise stays below the 1.
    """
    x = trace.log_loss
    level, _ = before(x, 32)
    best = np.fmin.accumulate(np.where(np.isnan(level), np.inf, level))
    steps = np.abs(np.diff(x, prepend=x[:1]))
    sigma = np.maximum(SIGMA * moving_median(steps, WINDOW) / np.sqrt(2), 0.02)
    over = np.where(np.isfinite(best), (x - best) / sigma - 1, 0.0)
    total, sums = 0.0, np.zeros(len(x))
    for step, value in enumerate(np.clip(np.nan_to_num(over), -10, 10)):
        total = max(0.0, total + value)
        sums[step] = total
    rise = np.nan_to_num(level - best)
    better = np.concatenate([[True], best[1:] < best[:-1]]) if len(x) else np.zeros(0, bool)
    since = np.maximum.accumulate(np.where(better, trace.steps, 0))
    evidence = {"cusum": sums, "times": np.exp(rise), "since": since.astype(np.float64)}
    return Signal(trace.steps, (sums > LIMIT) & (rise > np.log(1.25)), evidence)


LIMIT = 60.0


def collapse(trace: Trace) -> Signal:
    """The loss has given back more than half of what it had gained since the start of the run, for 5 steps.

    Levels are medians of 16 log losses; the rise must exceed 6 standard errors of such a median, 1.25 sigma / 4, and so
    must what had been gained, or a noisy start would count. The last 3 must say so as well: what is over is over. Where
    guessing is not much worse than what was reached, no spike and no divergence shows that all is lost.
    """
    x = trace.log_loss
    level = moving_median(x, 16)
    now = np.minimum(level, moving_median(x, 3))
    known = np.arange(len(x)) >= 15
    best = np.minimum.accumulate(np.where(known, level, np.inf))
    steps = np.abs(np.diff(x, prepend=x[:1]))
    error = 1.25 / 4 * np.maximum(SIGMA * moving_median(steps, WINDOW) / np.sqrt(2), 0.02)
    start = np.log(1 + SOFTENING) if trace.began is not None else np.nan
    gained, lost = start - best, np.where(known, now - best, 0.0)
    with np.errstate(invalid="ignore"):
        given_back = known & (lost > np.maximum(gained / 2, 6 * error)) & (gained > 6 * error)
    better = np.concatenate([[True], best[1:] < best[:-1]]) if len(x) else np.zeros(0, bool)
    since = np.maximum.accumulate(np.where(better, trace.steps, 0)).astype(np.float64)
    share = np.divide(lost, gained, out=np.zeros(len(x)), where=np.isfinite(gained) & (gained > 0))
    return Signal(trace.steps, run_lengths(given_back) >= 5, {"given_back": share, "since": since})


def stall(trace: Trace) -> Signal:
    """After the warm-up and `PATIENCE` steps more, the loss has not come more than 3% below where it began.

    Nor below that of a guess: large first logits are soon unlearnt, by networks that learn nothing else, too.
    """
    share = moving_median(trace.loss, 32) / (np.inf if trace.began is None else min(trace.began, trace.known_guess))
    share[:31] = np.nan  # of fewer steps: noise
    due = trace.steps >= trace.warmup + PATIENCE
    return Signal(trace.steps, due & (np.fmin.accumulate(share) > 0.97), {"share": share})


PATIENCE = 150


def oscillation(trace: Trace) -> Signal:
    """Neighbouring log losses swing against each other: autocorrelation below -0.6, by over a fifth of the loss.

    Of 64 values of noise, less its moving median, it lies at 0.02 with a standard deviation of 0.13.
    """
    x = trace.log_loss
    rest = x - moving_median(x, 8)  # of an even number, or it would follow every swing
    swing = SIGMA * moving_median(np.abs(rest), WINDOW)
    products = np.concatenate([[0.0], rest[1:] * rest[:-1]])
    together, alone = moving_sum(products, WINDOW), moving_sum(rest**2, WINDOW)
    correlation = together / np.maximum(alone, 1e-12)
    on = (np.arange(len(x)) >= WINDOW) & (correlation < -0.6) & (swing > 0.2)
    return Signal(trace.steps, on, {"swing": swing, "correlation": correlation})


def overfitting(trace: Trace) -> Signal:
    """For two validations the training loss fell or is next to nothing, and that of validation does not follow.

    Either it has been a tenth above its best while the training loss fell by a tenth; or all is learnt by heart: it
    does not come 5% below its best, which is more than a fifth of a guess's, and the training loss is a tenth of that,
    a 25th where the best is a fifth. What has nearly been learnt has a low training loss by right.
    """
    if not len(trace.validated):
        return Signal(trace.validated, np.zeros(0, bool), {})
    best = np.minimum.accumulate(trace.validation_loss)
    before_it = np.concatenate([[np.inf], best[:-1]])
    at = np.array([int(np.argmin(trace.validation_loss[: k + 1])) for k in range(len(best))])
    worse = (trace.validation_loss > 1.1 * best) & (trace.training_loss < 0.9 * trace.training_loss[at])
    stuck = (trace.validation_loss > 0.95 * before_it) & (best > trace.known_guess / 5)
    by_heart = stuck & (trace.training_loss < best / 10 * np.minimum(1, 2 * best / trace.known_guess))
    evidence = {"times": trace.validation_loss / best, "training_loss": trace.training_loss}
    return Signal(trace.validated, (run_lengths(worse) >= 2) | (run_lengths(by_heart) >= 2), evidence)


# Of the layers.


def batch_norm_gap(trace: Trace) -> Signal:
    """The same images have twice the loss in inference as in training, in the median of the last 8 looks."""
    inference, training = trace.layers["inference_loss"], trace.layers["training_loss"]
    soft = SOFTENING * np.median(training[:8]) if len(training) else 0.0
    gap = moving_median(np.log(inference + soft) - np.log(training + soft), 8)
    return _of_layers(trace, gap > np.log(2), 8, {"times": np.exp(gap)})


def statistics_jump(trace: Trace) -> Signal:
    """A layer's moving variances are `JUMP` times what they were in the 3 looks before, and so many times the batch's.

    In the mean over channels, against the median of the looks. A few images of absurd values do that: training, which
    normalizes with its own batch, goes on, and inference has lost its scale. Where weights grow, the batch's variance
    grows first; and one odd batch moves the variances by a tenth.
    """
    x = np.nan_to_num(trace.layers["log_variance"])
    usual = np.full(x.shape, np.nan)
    if len(x) > 3:
        usual[3:] = np.median([x[:-3], x[1:-2], x[2:-1]], axis=0)
    far = np.nan_to_num(_largest(np.minimum(x - usual, -trace.layers["spread"])))
    since = np.concatenate([trace.due[:1], trace.due[:-1]])
    return _of_layers(trace, far > np.log(JUMP), 4, {"times": np.exp(np.minimum(far, 700)), "since": since})


def vanishing(trace: Trace) -> Signal:
    """Gradients against weights are a thousand times smaller in the first layer than in the last: median of 5."""
    relative = trace.layers["gradient_norm"] / np.maximum(trace.layers["weight_norm"], 1e-12)
    ratio = relative[:, 0] / np.maximum(relative[:, -1], 1e-30) if relative.shape[1] else np.ones(len(relative))
    middle = moving_median(ratio, 5)
    return _of_layers(trace, middle < 1e-3, 5, {"ratio": middle})


def exploding(trace: Trace) -> Signal:
    """In 3 of 5 steps the gradient's norm is more than 7 robust deviations above, and 5 times, what it was before."""
    x = np.log(np.maximum(np.nan_to_num(trace.gradient_norm, nan=1e30, posinf=1e30), 1e-30))
    center, spread = before(x)
    z = (x - center) / np.maximum(spread, 0.05)
    above = (z > FAR) & (x - center > np.log(5))
    return Signal(trace.steps, moving_sum(above, 5) >= 3, {"z": z, "times": np.exp(x - center)})


def dying(trace: Trace) -> Signal:
    """In one layer, more than half of the channels are zero on all images, in the median of 3 looks."""
    return _worst(trace, "dead", 0.5)


def saturation(trace: Trace) -> Signal:
    """In one layer, more than four fifths of the values are at an asymptote, in the median of 3 looks."""
    return _worst(trace, "saturated", 0.8)


def large_updates(trace: Trace) -> Signal:
    """An update moves a layer's weights by more than a tenth of their norm, in the median of 5 looks after warm-up.

    About a thousandth is usual (Karpathy 2022, "Building makemore part 3").
    """
    ratio = trace.layers["update_norm"] / np.maximum(trace.layers["weight_norm"], 1e-12)
    middle = moving_median(_largest(ratio), 5)
    return _of_layers(trace, middle > 0.1, 5, {"ratio": middle})


def small_updates(trace: Trace) -> Signal:
    """Since the warm-up an update moved the layer in the middle by under 1.2e-3 of its norm, and the loss fell little.

    The mean over the looks at which the learning rate is at least a tenth of its peak, once there have been `PATIENCE`
    steps. "Little" is to no less than 0.8 of where the loss began, at updates of 1.2e-3, and 0.6 less for each tenth of
    that, down to 0.2. About 1e-3 is usual (Karpathy 2022, "Building makemore part 3"), and sound runs of small
    networks have 3e-3 to 2e-2. Two pieces of evidence: it alarms alone.
    """
    ratio = trace.layers["update_norm"] / np.maximum(trace.layers["weight_norm"], 1e-12)
    middle = _middle(ratio)
    at = np.searchsorted(trace.steps, trace.due)
    peak = np.maximum.accumulate(trace.learning_rate)
    counted = (trace.due >= trace.warmup) & np.isfinite(middle) & (trace.learning_rate >= 0.1 * peak)[at]
    looks = np.cumsum(counted)
    mean = np.cumsum(np.where(counted, middle, 0)) / np.maximum(looks, 1)
    share = moving_median(trace.loss, 32) / (np.inf if trace.began is None else trace.began)
    lowest = np.fmin.accumulate(share)[at]
    little = 0.8 + 0.6 * np.log10(np.clip(mean / 1.2e-3, 0.1, 1))
    due = (trace.due >= trace.warmup + PATIENCE) & (looks >= 5)
    return _of_layers(trace, due & (mean < 1.2e-3) & (lowest > little), 5, {"ratio": mean, "share": lowest})


def large_first_update(trace: Trace) -> Signal:
    """Adam's very first update moves the layer in the middle by more than 0.12 of its norm: it needs a warm-up.

    It moves every weight by the learning rate, whatever the gradient (Kingma and Ba 2015, section 2.1), and so do the
    next ones: what the weights started with is gone before anything is known. 1e-3 comes to 0.05 in a convolution of
    512 channels. SGD's first gradients are its largest, and sound runs come to 0.13. That is half of the layers at
    once, whatever one that starts near zero does: the detector alarms alone.
    """
    ratio = trace.layers["update_norm"] / np.maximum(trace.layers["weight_norm"], 1e-12)
    middle = np.nan_to_num(_middle(ratio))
    of_adam = np.isfinite(trace.layers["moment_ratio"]).any(axis=1)
    return Signal(trace.due, (trace.due == 0) & of_adam & (middle > 0.12), {"ratio": middle})


def growing_weights(trace: Trace) -> Signal:
    """Within 100 steps most layers' weights have become 1.8 times as long: updates are too large for what they learn.

    Behind a normalization the gradient is orthogonal to the weights, and each update lengthens them by
    |dw|^2 / (2 |w|^2) (van Laarhoven 2017, section 2): the rate lowers itself, at the cost of what they started with.
    Sound runs come to 1.2, at four times their rate to 1.5. Of networks with three layers or more: a single one may
    start near zero on purpose.
    """
    norm = trace.layers["weight_norm"]
    earlier = np.searchsorted(trace.due, trace.due - GROWTH)
    times = _middle(norm / np.maximum(norm[earlier], 1e-12))
    return Signal(trace.due, (np.nan_to_num(times) > 1.8) & (norm.shape[1] >= 3), {"times": times})


GROWTH = 100


def moment_spike(trace: Trace) -> Signal:
    """Adam's g / sqrt(v) has a root mean square above 2.3 in a layer: spikes follow (Wortsman et al. 2023, fig. 9)."""
    ratio = _largest(trace.layers["moment_ratio"])
    return _of_layers(trace, np.nan_to_num(ratio) > 2.3, LEAST, {"ratio": ratio})


ALONE: dict[str, Detector] = {
    each.__name__: each
    for each in (
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
TOGETHER: dict[str, Detector] = {
    each.__name__: each for each in (vanishing, exploding, dying, saturation, large_updates, moment_spike)
}


def signals(trace: Trace) -> dict[str, Signal]:
    """What every detector says."""
    of_layers = {
        "batch_norm_gap",
        "statistics_jump",
        "small_updates",
        "large_first_update",
        "growing_weights",
        *TOGETHER,
    } - {"exploding"}
    return {
        name: detector(trace)
        for name, detector in {**ALONE, **TOGETHER}.items()
        if len(trace.loss) and (trace.layers or name not in of_layers)
    }


def alarms(trace: Trace) -> list[Alarm]:
    """Each kind of trouble when it begins, in the order of steps.

    What layers show counts only if another detector has spoken within `AGREEMENT` steps before.
    """
    spoken = signals(trace)
    found = []
    for kind, signal in spoken.items():
        on = signal.on
        if kind in TOGETHER:
            others = [other.steps[other.on] for name, other in spoken.items() if name != kind]
            on = on & _near(signal.steps, np.concatenate(others))
        begins = np.flatnonzero(on & ~np.concatenate([[False], on[:-1]]))
        for at in begins:
            evidence = {name: float(values[at]) for name, values in signal.evidence.items()}
            found.append(Alarm(kind, int(signal.steps[at]), evidence))
    return sorted(found, key=lambda alarm: alarm.step)


# Running figures: each value is of the steps up to its own.


def first_loss(loss: np.ndarray) -> float:
    """The median of the first `FIRST` finite losses; at least 1e-30."""
    finite = loss[np.isfinite(loss)][:FIRST]
    return max(float(np.median(finite)), 1e-30) if len(finite) else 1.0


def before(x: np.ndarray, window: int = WINDOW) -> tuple[np.ndarray, np.ndarray]:
    """Median and robust standard deviation of up to `window` values before each; NaN where there are under LEAST."""
    center, spread = np.full((2, len(x)), np.nan)
    for at in range(LEAST, min(window, len(x))):
        center[at] = np.median(x[:at])
        spread[at] = SIGMA * np.median(np.abs(x[:at] - center[at]))
    if len(x) > window:
        past = sliding_window_view(x, window)[:-1]
        center[window:] = np.median(past, axis=1)
        spread[window:] = SIGMA * np.median(np.abs(past - center[window:, None]), axis=1)
    return center, spread


def moving_median(x: np.ndarray, window: int) -> np.ndarray:
    """Of the last `window` values, of fewer at the start."""
    start = np.array([np.median(x[: end + 1]) for end in range(min(window - 1, len(x)))])
    if len(x) < window:
        return start
    return np.concatenate([start, np.median(sliding_window_view(x, window), axis=1)])


def moving_sum(x: np.ndarray, window: int) -> np.ndarray:
    """Of the last `window` values, of fewer at the start."""
    total = np.cumsum(np.asarray(x, np.float64))
    return total - np.concatenate([np.zeros(min(window, len(x))), total[: max(0, len(x) - window)]])


def run_lengths(on: np.ndarray) -> np.ndarray:
    """int64: how many in a row are on, up to each."""
    at = np.arange(1, len(on) + 1)
    return at - np.maximum.accumulate(np.where(on, 0, at)) if len(on) else at


def _worst(trace: Trace, name: str, most: float) -> Signal:
    share = moving_median(_largest(trace.layers[name]), 3)
    return _of_layers(trace, np.nan_to_num(share) > most, 3, {"share": share})


def _of_layers(trace: Trace, on: np.ndarray, looks: int, evidence: dict[str, np.ndarray]) -> Signal:
    """A signal on the due steps, off before there have been so many `looks` and during the warm-up."""
    ready = (np.arange(len(trace.due)) >= looks - 1) & (trace.due >= trace.warmup)
    return Signal(trace.due, ready & on, evidence)


def _middle(x: np.ndarray) -> np.ndarray:
    """The median over the places, of an even number the lower one; NaN where there is none."""
    known = np.isfinite(x).any(axis=1)
    middle = np.full(len(x), np.nan)
    middle[known] = np.nanquantile(x[known], 0.5, axis=1, method="lower")
    return middle


def _largest(x: np.ndarray) -> np.ndarray:
    """Over the places, NaN where there is none."""
    if x.shape[1] == 0:
        return np.full(len(x), np.nan)
    return np.where(np.isnan(x).all(axis=1), np.nan, np.max(np.nan_to_num(x, nan=-np.inf), axis=1))


def _near(steps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether one of `others` lies at or up to `AGREEMENT` steps before each of `steps`."""
    others = np.sort(others)
    if not len(others):
        return np.zeros(len(steps), bool)
    at = np.searchsorted(others, steps, side="right") - 1
    return (at >= 0) & (steps - others[np.maximum(at, 0)] <= AGREEMENT)
