"""Each detector on synthetic traces, on both sides of its threshold; what must never alarm."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.models.stability import detectors, rolling
from evenkeel.models.stability.detectors import CORROBORATED, STANDALONE, alarms, signals
from evenkeel.models.stability.trace import Trace, first_loss

STEPS, EVERY, PLACES = 600, 20, 5
PER_LAYER = (
    "gradient_norm",
    "weight_norm",
    "update_norm",
    "moment_ratio",
    "dead",
    "saturated",
    "deviation",
    "shift",
    "spread",
    "log_variance",
)


def healthy(steps: int = STEPS, seed: int = 0, noise: float = 0.1, unit: float = 1.0) -> Trace:
    """A loss that falls from ln 10 to a tenth of that, under noise; everything else as in a sound run."""
    rng = np.random.default_rng(seed)
    at = np.arange(steps)
    loss = unit * np.log(10) * (0.1 + 0.9 * np.exp(-at / 100)) * np.exp(noise * rng.normal(size=steps))
    due = np.arange(0, steps, EVERY)
    usual = {
        "gradient_norm": 1.0,
        "weight_norm": 10.0,
        "update_norm": 0.01,
        "moment_ratio": 1.0,
        "dead": 0.05,
        "saturated": 0.2,
        "deviation": 1.0,
        "shift": 0.1,
        "spread": 0.1,
        "log_variance": 0.1,
    }
    jitter = lambda *shape: np.exp(0.1 * rng.normal(size=shape))  # noqa: E731
    layers = {name: usual[name] * jitter(len(due), PLACES) for name in PER_LAYER}
    layers["training_loss"] = loss[due] * jitter(len(due))
    layers["inference_loss"] = loss[due] * jitter(len(due))
    validated = np.arange(100, steps + 1, 100)
    return Trace(
        steps=at,
        loss=loss,
        gradient_norm=jitter(steps),
        learning_rate=np.full(steps, 0.1),
        loss_scale=np.ones(steps),
        nonfinite=np.zeros(steps),
        due=due,
        layers=layers,
        validated=validated,
        validation_loss=np.linspace(2, 1, len(validated)) * unit,
        training_loss=np.array([np.median(loss[max(0, step - rolling.BASELINE_STEPS) : step]) for step in validated]),
        began=first_loss(loss),
    )


def changed(trace: Trace, at: Any, **columns: Any) -> Trace:
    """`trace` with columns multiplied, or set where a callable is given, at some steps."""
    new = {}
    for name, factor in columns.items():
        values = getattr(trace, name).copy()
        values[at] = factor(values[at]) if callable(factor) else values[at] * factor
        new[name] = values
    return dataclasses.replace(trace, **new)


def with_layers(trace: Trace, at: slice = slice(None), place: Any = slice(None), **figures: float) -> Trace:
    layers = {name: values.copy() for name, values in trace.layers.items()}
    for name, value in figures.items():
        of = layers[name]
        if of.ndim == 1:
            of[at] *= value
        else:
            of[at, place] = value
    return dataclasses.replace(trace, layers=layers)


def kinds(trace: Trace) -> set[str]:
    return {alarm.kind for alarm in alarms(trace)}


def first_on(trace: Trace, kind: str) -> int | None:
    signal = signals(trace)[kind]
    return int(signal.steps[signal.on][0]) if signal.on.any() else None


# A run without trouble.


@pytest.mark.parametrize("seed", range(20))
def test_a_sound_run_raises_nothing(seed: int) -> None:
    assert alarms(healthy(seed=seed)) == []


@given(seed=st.integers(0, 2**32 - 1), noise=st.floats(0, 0.4), unit=st.floats(1e-3, 1e3), steps=st.integers(1, STEPS))
@settings(max_examples=100, deadline=None)
def test_neither_unit_nor_noise_nor_length_alarms(seed: int, noise: float, unit: float, steps: int) -> None:
    assert alarms(healthy(steps, seed, noise, unit)) == []


@given(seed=st.integers(0, 2**32 - 1), level=st.floats(0.01, 100), noise=st.floats(0, 0.5))
@settings(max_examples=50, deadline=None)
def test_noise_around_a_plateau_is_neither_spike_nor_divergence(seed: int, level: float, noise: float) -> None:
    rng = np.random.default_rng(seed)
    falling = np.linspace(3, 1, 50)
    loss = level * np.concatenate([falling, np.ones(550)]) * np.exp(noise * rng.normal(size=STEPS))
    found = kinds(dataclasses.replace(healthy(), loss=loss, began=first_loss(loss)))
    assert not found & {"loss_spike", "divergence", "stall"}


@pytest.mark.parametrize(("back_to", "expected"), [(0.75, False), (0.95, True)])
def test_collapse_is_more_than_half_of_the_gain_given_back(back_to: float, expected: bool) -> None:
    rng = np.random.default_rng(0)
    at = np.arange(200)
    loss = 2.3 * np.where(at < 100, 1 - 0.4 * at / 100, back_to) * np.exp(0.03 * rng.normal(size=200))
    trace = dataclasses.replace(healthy(200), loss=loss, began=2.3)
    assert ("collapse" in kinds(trace)) == expected
    if expected:
        assert 104 <= first_on(trace, "collapse") <= 120


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_a_noisy_start_without_gain_does_not_collapse(noise: float) -> None:
    for seed in range(20):
        loss = 2.3 * np.exp(noise * np.random.default_rng(seed).normal(size=300))
        trace = dataclasses.replace(healthy(300), loss=loss, began=first_loss(loss))
        assert not signals(trace)["collapse"].on.any()


def test_half_of_a_gain_may_come_back_within_the_noise() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        loss = 2.3 * np.linspace(1, 0.9, 300) * np.exp(0.3 * rng.normal(size=300))
        trace = dataclasses.replace(healthy(300), loss=loss, began=2.3)
        assert not signals(trace)["collapse"].on.any()


@given(unit=st.floats(1e-3, 1e3))
@settings(max_examples=20, deadline=None)
def test_the_unit_of_the_loss_changes_no_alarm(unit: float) -> None:
    trace = changed(healthy(), slice(400, 420), loss=10.0)
    scaled = dataclasses.replace(trace, loss=unit * trace.loss, began=unit * trace.began)
    assert [(a.kind, a.step) for a in alarms(scaled)] == [(a.kind, a.step) for a in alarms(trace)]


@pytest.mark.parametrize("kind", [*STANDALONE, *CORROBORATED])
def test_nothing_later_changes_what_was_said(kind: str) -> None:
    trace = changed(healthy(), slice(300, None), loss=lambda x: x * np.linspace(1, 50, len(x)), gradient_norm=100.0)
    whole, cut = signals(trace)[kind], 400
    short = dataclasses.replace(
        trace,
        **{
            name: getattr(trace, name)[:cut]
            for name in ("steps", "loss", "gradient_norm", "learning_rate", "loss_scale", "nonfinite")
        },
        due=trace.due[trace.due < cut],
        layers={name: values[trace.due < cut] for name, values in trace.layers.items()},
        validated=trace.validated[trace.validated <= cut],
        validation_loss=trace.validation_loss[trace.validated <= cut],
        training_loss=trace.training_loss[trace.validated <= cut],
    )
    part = signals(short)[kind]
    np.testing.assert_array_equal(part.on, whole.on[: len(part.on)])


# Each kind of trouble.


def test_gradients_that_are_not_finite() -> None:
    assert alarms(changed(healthy(), [250, 251], nonfinite=lambda x: x + 1)) == []
    found = alarms(changed(healthy(), [250, 251, 252], nonfinite=lambda x: x + 1))
    assert [(alarm.kind, alarm.step) for alarm in found] == [("nonfinite", 252)]


@pytest.mark.parametrize(("in_a_row", "expected"), [(15, None), (16, 215)])
def test_a_loss_scale_excuses_some(in_a_row: int, expected: int | None) -> None:
    trace = changed(healthy(), slice(200, 200 + in_a_row), nonfinite=lambda x: x + 1)
    assert first_on(dataclasses.replace(trace, loss_scale=np.full(STEPS, 2.0**15)), "nonfinite") == expected


@pytest.mark.parametrize(("times", "expected"), [(1.2, None), (4.0, 402)])
def test_a_spike_of_the_loss(times: float, expected: int | None) -> None:
    assert first_on(changed(healthy(), slice(400, 410), loss=times), "loss_spike") == expected


def test_one_odd_batch_is_no_spike() -> None:
    assert first_on(changed(healthy(), [400], loss=50.0), "loss_spike") is None
    assert first_on(changed(healthy(), [400, 401], loss=50.0), "loss_spike") is None


def test_a_spike_in_the_first_steps_is_seen() -> None:
    assert first_on(changed(healthy(), slice(30, 40), loss=20.0), "loss_spike") == 32


@pytest.mark.parametrize(("times", "expected"), [(1.1, False), (3.0, True)])
def test_slow_divergence(times: float, expected: bool) -> None:
    trace = changed(healthy(), slice(300, None), loss=lambda x: x * np.geomspace(1, times, len(x)))
    found = first_on(trace, "divergence")
    assert (found is not None) == expected
    if found:
        assert 320 < found < 550
        assert first_on(trace, "loss_spike") is None, "too slow for that one"


def test_a_loss_that_is_not_a_number_has_diverged() -> None:
    trace = changed(healthy(), slice(300, None), loss=lambda x: x * np.nan)
    assert first_on(trace, "loss_spike") == 302


@pytest.mark.parametrize(("end", "expected"), [(0.9, None), (0.995, 150)])
def test_a_stall(end: float, expected: int | None) -> None:
    rng = np.random.default_rng(0)
    loss = np.log(10) * (end + (1 - end) * np.exp(-np.arange(STEPS) / 50)) * np.exp(0.01 * rng.normal(size=STEPS))
    trace = dataclasses.replace(healthy(), loss=loss, began=first_loss(loss))
    assert first_on(trace, "stall") == expected
    assert first_on(dataclasses.replace(trace, began=None), "stall") is None, "who has not seen the start cannot say"
    late = dataclasses.replace(trace, warmup=200)
    assert first_on(late, "stall") == (350 if expected else None)


def test_large_first_logits_unlearnt_are_a_stall_still() -> None:
    loss = np.log(10) * (1 + np.exp(-np.arange(STEPS) / 50))
    trace = dataclasses.replace(healthy(), loss=loss, began=first_loss(loss))
    assert first_on(trace, "stall") is None, "it came to half of where it began"
    assert first_on(dataclasses.replace(trace, guess=np.log(10)), "stall") == 150
    assert first_on(dataclasses.replace(trace, loss=0.8 * loss, guess=np.log(10)), "stall") is None


@pytest.mark.parametrize(("swing", "expected"), [(0.1, False), (0.5, True)])
def test_oscillation(swing: float, expected: bool) -> None:
    trace = changed(healthy(), slice(200, None), loss=lambda x: x * np.exp(swing * (-1.0) ** np.arange(len(x))))
    assert (first_on(trace, "oscillation") is not None) == expected


@pytest.mark.parametrize(
    ("losses", "expected"), [([2, 1.5, 1, 1.05, 1.05, 1.05], None), ([2, 1.5, 1, 1.2, 1.3, 1], 500)]
)
def test_overfitting(losses: list[float], expected: int | None) -> None:
    trace = dataclasses.replace(healthy(), validation_loss=np.array(losses, np.float64))
    assert first_on(trace, "overfitting") == expected


@pytest.mark.parametrize(
    ("best", "learnt", "expected"),
    [
        (1.9, 0.01, 500),
        (1.9, 0.18, 500),
        (1.9, 0.5, None),
        (0.6, 0.01, 500),
        (0.6, 0.05, None),
        (0.4, 0.001, None),
    ],
)
def test_what_is_learnt_by_heart_is_overfitting(best: float, learnt: float, expected: int | None) -> None:
    flat = best * np.array([1.5, 1.2, 1.0, 1.01, 1.02, 0.99])
    known = np.array([1.0, 0.5, learnt, learnt, learnt, learnt])
    trace = dataclasses.replace(healthy(), validation_loss=flat, training_loss=known, guess=np.log(10))
    assert first_on(trace, "overfitting") == expected
    assert first_on(dataclasses.replace(trace, guess=None), "overfitting") is None, "who knows what 1.9 is worth"


def test_validation_that_worsens_with_the_training_loss_is_not_overfitting() -> None:
    rising = np.array([2, 1.5, 1, 1.2, 1.3, 1.4])
    trace = dataclasses.replace(healthy(), validation_loss=rising, training_loss=rising)
    assert first_on(trace, "overfitting") is None


@pytest.mark.parametrize(("times", "expected"), [(1.5, False), (3.0, True)])
def test_a_gap_between_training_and_inference(times: float, expected: bool) -> None:
    trace = with_layers(healthy(), slice(5, None), inference_loss=times)
    assert (first_on(trace, "batch_norm_gap") is not None) == expected
    assert ("batch_norm_gap" in kinds(trace)) == expected


@pytest.mark.parametrize(
    ("look", "times", "batch", "expected"),
    [
        (10, 6, 1 / 6, 10),
        (10, 4, 1 / 6, None),  # it has not jumped far enough
        (10, 6, 1 / 4, None),  # the batch is not so far below
        (10, 6, 2, None),  # the batch has grown, and the moving variance follows it
        (10, 1, 1 / 1000, None),  # an odd batch
        (1, 100, 1 / 100, None),  # nothing is known yet
    ],
)
def test_a_jump_of_the_statistics(look: int, times: float, batch: float, expected: int | None) -> None:
    """One layer's, of five; while they come down again, that is no second one."""
    trace = healthy()
    variance, spread = (np.zeros_like(trace.layers[name]) for name in ("log_variance", "spread"))
    fading = np.exp(-np.arange(len(variance) - look) / 4)
    variance[look:, 2], spread[look:, 2] = np.log(times) * fading, np.log(batch) * fading
    trace = dataclasses.replace(trace, layers={**trace.layers, "log_variance": variance, "spread": spread})
    found = [alarm for alarm in alarms(trace) if alarm.kind == "statistics_jump"]
    assert [alarm.step for alarm in found] == ([] if expected is None else [EVERY * expected])
    if found:
        assert found[0].evidence == {"since": EVERY * (expected - 1), "times": pytest.approx(6)}


@pytest.mark.parametrize(
    ("kind", "figure", "place", "sound", "bad"),
    [
        ("vanishing", "gradient_norm", 0, 1e-2, 1e-4),
        ("dying", "dead", 2, 0.4, 0.6),
        ("saturation", "saturated", 2, 0.7, 0.9),
        ("large_updates", "update_norm", 3, 0.5, 2.0),
        ("moment_spike", "moment_ratio", 1, 2.0, 2.6),
    ],
)
def test_what_layers_show(kind: str, figure: str, place: Any, sound: float, bad: float) -> None:
    assert first_on(with_layers(healthy(), place=place, **{figure: sound}), kind) is None
    trace = with_layers(healthy(), place=place, **{figure: bad})
    assert first_on(trace, kind) is not None
    assert kinds(trace) == set(), "alone it is no alarm"
    spiking = changed(trace, slice(400, 410), loss=10.0)
    assert kinds(spiking) >= {"loss_spike", kind}


@pytest.mark.parametrize(("times", "expected"), [(3.0, None), (20.0, 402)])
def test_exploding_gradients(times: float, expected: int | None) -> None:
    trace = changed(healthy(), slice(400, 410), gradient_norm=times)
    assert first_on(trace, "exploding") == expected
    assert kinds(trace) == set()
    if expected:
        both = changed(trace, slice(399, 410), loss=20.0)
        assert kinds(both) == {"loss_spike", "collapse", "exploding"}


def slowed(to: float, ratio: float) -> Trace:
    """A loss that soon comes to the share `to` of where it began, updates of `ratio` of the weights."""
    loss = np.log(10) * np.interp(np.arange(STEPS), [0, 100], [1, to])
    trace = dataclasses.replace(healthy(), loss=loss, began=np.log(10))
    return with_layers(trace, update_norm=10 * ratio)


@pytest.mark.parametrize(
    ("to", "ratio", "expected"),
    [
        (0.9, 1e-3, True),
        (0.9, 1.5e-3, False),
        (0.1, 1e-3, False),
        (0.85, 1e-6, True),
        (0.7, 1e-3, False),
        (0.7, 5e-4, True),
        (0.4, 1e-4, True),
        (0.15, 1e-5, False),
    ],
)
def test_updates_are_small_where_the_loss_falls_little(to: float, ratio: float, expected: bool) -> None:
    found = first_on(slowed(to, ratio), "small_updates")
    assert (found is not None) == expected
    if expected:
        assert found == 160  # the first look after `PATIENCE` steps
        assert "small_updates" in kinds(slowed(to, ratio)), "alone it is an alarm"


@pytest.mark.parametrize(("ratio", "expected"), [(0.1, None), (0.14, 0)])
def test_a_first_update_that_is_large_against_the_weights(ratio: float, expected: int | None) -> None:
    trace = with_layers(healthy(), slice(0, 1), update_norm=10 * ratio)
    assert first_on(trace, "large_first_update") == expected
    assert ("large_first_update" in kinds(trace)) == (expected is not None)
    later = with_layers(healthy(), slice(1, 3), update_norm=10 * ratio)
    assert first_on(later, "large_first_update") is None, "it is about the first one"
    of_sgd = with_layers(trace, moment_ratio=np.nan)
    assert first_on(of_sgd, "large_first_update") is None, "whose first gradients are its largest"


def test_one_layer_that_starts_near_zero_makes_no_large_first_update() -> None:
    trace = healthy()
    trace.layers["weight_norm"][:, -1] = 1e-3
    assert first_on(trace, "large_first_update") is None


@pytest.mark.parametrize(("times", "expected"), [(1.6, None), (2.2, 120)])
def test_weights_that_grow_fast(times: float, expected: int | None) -> None:
    grown = np.interp(np.arange(0, STEPS, EVERY), [60, 140], [1, times])[:, None]
    trace = healthy()
    trace.layers["weight_norm"][:] = 10 * grown
    assert first_on(trace, "growing_weights") == expected
    assert ("growing_weights" in kinds(trace)) == (expected is not None)
    for one in (trace.layers["weight_norm"][:, :2], np.where(np.arange(PLACES) == 0, 10 * grown, 10.0)):
        trace.layers["weight_norm"] = one
        assert not detectors.growing_weights(trace).on.any(), "one or two layers say nothing"


def test_weights_may_grow_slowly() -> None:
    trace = healthy()
    trace.layers["weight_norm"] *= np.linspace(1, 5, len(trace.due))[:, None]
    assert first_on(trace, "growing_weights") is None


def test_small_updates_at_the_end_of_a_schedule_are_meant() -> None:
    late = with_layers(slowed(0.9, 2e-3), slice(5, None), update_norm=0.01)
    assert first_on(late, "small_updates") is not None, "the mean soon is that of small ones"
    assert first_on(changed(late, slice(100, None), learning_rate=1e-3), "small_updates") is None


def test_a_schedule_that_has_ended_hides_no_small_updates() -> None:
    ended = changed(slowed(0.9, 1e-3), slice(100, None), learning_rate=1e-3)
    assert first_on(ended, "small_updates") is not None


def test_updates_of_the_warm_up_do_not_count() -> None:
    trace = dataclasses.replace(slowed(0.9, 2e-3), warmup=200)
    trace = with_layers(trace, slice(0, 10), update_norm=0.0)
    assert first_on(trace, "small_updates") is None
    assert first_on(dataclasses.replace(slowed(0.9, 6e-4), warmup=200), "small_updates") == 360


def test_layers_say_nothing_during_the_warm_up() -> None:
    trace = with_layers(healthy(), dead=1.0)
    assert first_on(dataclasses.replace(trace, warmup=300), "dying") == 300


def test_networks_without_such_layers_are_told_nothing_of_them() -> None:
    trace = healthy()
    layers = {name: values[:, :0] if values.ndim == 2 else values for name, values in trace.layers.items()}
    assert alarms(changed(dataclasses.replace(trace, layers=layers), slice(400, 410), loss=10.0))
    assert alarms(dataclasses.replace(trace, due=trace.due[:0], layers={})) == []


def test_an_alarm_says_when_it_begins_and_why() -> None:
    twice = changed(healthy(), [*range(300, 306), *range(450, 456)], loss=10.0)
    spikes = [alarm for alarm in alarms(twice) if alarm.kind == "loss_spike"]
    assert [alarm.step for alarm in spikes] == [302, 452]
    assert spikes[0].evidence["times"] == pytest.approx(10, rel=0.5)
    assert spikes[0].evidence["z"] > detectors.SPIKE_SIGMAS


# Running figures.


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), window=st.integers(1, 12))
@settings(max_examples=100, deadline=None)
def test_running_figures_are_those_of_each_window(values: list[float], window: int) -> None:
    x = np.array(values)
    windows = [x[max(0, at - window + 1) : at + 1] for at in range(len(x))]
    np.testing.assert_allclose(rolling.moving_median(x, window), [np.median(w) for w in windows])
    np.testing.assert_allclose(rolling.moving_sum(x, window), [w.sum() for w in windows], atol=1e-6)


@given(st.lists(st.booleans(), max_size=30))
def test_run_lengths(on: list[bool]) -> None:
    expected, length = [], 0
    for each in on:
        length = length + 1 if each else 0
        expected.append(length)
    assert rolling.run_lengths(np.array(on, bool)).tolist() == expected


def test_what_a_step_is_compared_with_comes_before_it() -> None:
    x = np.random.default_rng(0).normal(size=200)
    center, spread = rolling.rolling_baseline(x)
    assert np.isnan(center[: rolling.MIN_BASELINE_STEPS]).all()
    for at in (16, 50, 63, 64, 65, 199):
        past = x[max(0, at - 64) : at]
        assert center[at] == pytest.approx(np.median(past))
        assert spread[at] == pytest.approx(rolling.MAD_TO_SIGMA * np.median(np.abs(past - np.median(past))))
