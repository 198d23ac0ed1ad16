"""Each detector on synthetic traces, on both sides of its threshold; traces that must not raise an alarm."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.models.stability import detectors
from evenkeel.models.stability.detectors import CORROBORATED, STANDALONE, alarms, signals
from evenkeel.models.stability.trace import Trace, first_loss
from tests.traces import EVERY, LAYERS, STEPS, healthy


def change_columns(trace: Trace, at: Any, **columns: Any) -> Trace:
    """`trace` with columns multiplied by a number, or mapped by a function, at the steps `at`."""
    new = {}
    for name, factor in columns.items():
        values = getattr(trace, name).copy()
        values[at] = factor(values[at]) if callable(factor) else values[at] * factor
        new[name] = values
    return dataclasses.replace(trace, **new)


def change_layers(trace: Trace, at: slice = slice(None), layer: Any = slice(None), **statistics: float) -> Trace:
    layers = {name: values.copy() for name, values in trace.layers.items()}
    for name, value in statistics.items():
        column = layers[name]
        if column.ndim == 1:
            column[at] *= value
        else:
            column[at, layer] = value
    return dataclasses.replace(trace, layers=layers)


def alarm_kinds(trace: Trace) -> set[str]:
    return {alarm.kind for alarm in alarms(trace)}


def first_signal_step(trace: Trace, kind: str) -> int | None:
    signal = signals(trace)[kind]
    return int(signal.steps[signal.on][0]) if signal.on.any() else None


# A run without trouble.


@pytest.mark.parametrize("seed", range(20))
def test_a_sound_run_raises_no_alarm(seed: int) -> None:
    assert alarms(healthy(seed=seed)) == []


@given(seed=st.integers(0, 2**32 - 1), noise=st.floats(0, 0.4), unit=st.floats(1e-3, 1e3), steps=st.integers(1, STEPS))
@settings(max_examples=100)
def test_no_unit_noise_or_length_raises_an_alarm(seed: int, noise: float, unit: float, steps: int) -> None:
    assert alarms(healthy(steps, seed, noise, unit)) == []


@given(seed=st.integers(0, 2**32 - 1), level=st.floats(0.01, 100), noise=st.floats(0, 0.5))
@settings(max_examples=50)
def test_noise_around_a_plateau_is_neither_spike_nor_divergence(seed: int, level: float, noise: float) -> None:
    rng = np.random.default_rng(seed)
    falling = np.linspace(3, 1, 50)
    loss = level * np.concatenate([falling, np.ones(550)]) * np.exp(noise * rng.normal(size=STEPS))
    kinds = alarm_kinds(dataclasses.replace(healthy(), loss=loss, began=first_loss(loss)))
    assert not kinds & {"loss_spike", "divergence", "stall"}


@pytest.mark.parametrize(("back_to", "expected"), [(0.75, False), (0.95, True)])
def test_collapse_is_more_than_half_of_the_gain_given_back(back_to: float, expected: bool) -> None:
    rng = np.random.default_rng(0)
    at = np.arange(200)
    loss = 2.3 * np.where(at < 100, 1 - 0.4 * at / 100, back_to) * np.exp(0.03 * rng.normal(size=200))
    trace = dataclasses.replace(healthy(200), loss=loss, began=2.3)
    assert ("collapse" in alarm_kinds(trace)) == expected
    if expected:
        assert 104 <= first_signal_step(trace, "collapse") <= 120


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_a_noisy_start_without_gain_does_not_collapse(noise: float) -> None:
    for seed in range(20):
        loss = 2.3 * np.exp(noise * np.random.default_rng(seed).normal(size=300))
        trace = dataclasses.replace(healthy(300), loss=loss, began=first_loss(loss))
        assert not signals(trace)["collapse"].on.any()


def test_losing_half_of_a_gain_within_the_noise_is_no_collapse() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        loss = 2.3 * np.linspace(1, 0.9, 300) * np.exp(0.3 * rng.normal(size=300))
        trace = dataclasses.replace(healthy(300), loss=loss, began=2.3)
        assert not signals(trace)["collapse"].on.any()


def test_the_noise_of_small_batches_is_no_collapse() -> None:
    """With batches of 4, a level of 16 steps would hold 64 examples: it varies by more than half of what was gained."""
    found = {None: 0, 4: 0}
    for seed in range(10):
        rng = np.random.default_rng(seed)
        loss = 2.3 * np.linspace(1, 0.75, 2500) * np.exp(0.45 * rng.normal(size=2500))
        trace = dataclasses.replace(healthy(2500), loss=loss, began=2.3)
        for batch in found:
            found[batch] += bool(signals(dataclasses.replace(trace, batch=batch))["collapse"].on.any())
    assert found[4] == 0
    back = np.where(np.arange(2500) < 1500, 1 - 0.6 * np.arange(2500) / 1500, 1.0)
    loss = 2.3 * back * np.exp(0.3 * np.random.default_rng(0).normal(size=2500))
    lost = dataclasses.replace(healthy(2500), loss=loss, began=2.3, batch=4)
    assert 1500 < (first_signal_step(lost, "collapse") or 0) < 1800


@given(unit=st.floats(1e-3, 1e3))
@settings(max_examples=20)
def test_the_unit_of_the_loss_changes_no_alarm(unit: float) -> None:
    trace = change_columns(healthy(), slice(400, 420), loss=10.0)
    scaled = dataclasses.replace(trace, loss=unit * trace.loss, began=unit * trace.began)
    assert [(a.kind, a.step) for a in alarms(scaled)] == [(a.kind, a.step) for a in alarms(trace)]


@pytest.mark.parametrize("kind", [*STANDALONE, *CORROBORATED])
def test_every_detector_is_causal(kind: str) -> None:
    trace = change_columns(
        healthy(), slice(300, None), loss=lambda x: x * np.linspace(1, 50, len(x)), gradient_norm=100.0
    )
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


def test_three_nonfinite_gradients_in_a_row_raise_an_alarm() -> None:
    assert alarms(change_columns(healthy(), [250, 251], nonfinite=lambda x: x + 1)) == []
    result = alarms(change_columns(healthy(), [250, 251, 252], nonfinite=lambda x: x + 1))
    assert [(alarm.kind, alarm.step) for alarm in result] == [("nonfinite", 252)]


@pytest.mark.parametrize(("in_a_row", "expected"), [(15, None), (16, 215)])
def test_a_loss_scale_allows_more_nonfinite_gradients(in_a_row: int, expected: int | None) -> None:
    trace = change_columns(healthy(), slice(200, 200 + in_a_row), nonfinite=lambda x: x + 1)
    assert first_signal_step(dataclasses.replace(trace, loss_scale=np.full(STEPS, 2.0**15)), "nonfinite") == expected


@pytest.mark.parametrize(("times", "expected"), [(1.2, None), (4.0, 402)])
def test_a_loss_spike_is_found(times: float, expected: int | None) -> None:
    assert first_signal_step(change_columns(healthy(), slice(400, 410), loss=times), "loss_spike") == expected


def test_one_odd_batch_is_no_spike() -> None:
    assert first_signal_step(change_columns(healthy(), [400], loss=50.0), "loss_spike") is None
    assert first_signal_step(change_columns(healthy(), [400, 401], loss=50.0), "loss_spike") is None


def test_a_spike_in_the_first_steps_is_found() -> None:
    assert first_signal_step(change_columns(healthy(), slice(30, 40), loss=20.0), "loss_spike") == 32


@pytest.mark.parametrize(("times", "expected"), [(1.1, False), (3.0, True)])
def test_slow_divergence_is_found(times: float, expected: bool) -> None:
    trace = change_columns(healthy(), slice(300, None), loss=lambda x: x * np.geomspace(1, times, len(x)))
    result = first_signal_step(trace, "divergence")
    assert (result is not None) == expected
    if result:
        assert 320 < result < 550
        assert first_signal_step(trace, "loss_spike") is None, "it is too slow for a spike"


def test_a_nan_loss_is_a_spike() -> None:
    trace = change_columns(healthy(), slice(300, None), loss=lambda x: x * np.nan)
    assert first_signal_step(trace, "loss_spike") == 302


@pytest.mark.parametrize(("end", "expected"), [(0.9, None), (0.995, 150)])
def test_a_stall_is_found(end: float, expected: int | None) -> None:
    rng = np.random.default_rng(0)
    loss = np.log(10) * (end + (1 - end) * np.exp(-np.arange(STEPS) / 50)) * np.exp(0.01 * rng.normal(size=STEPS))
    trace = dataclasses.replace(healthy(), loss=loss, began=first_loss(loss))
    assert first_signal_step(trace, "stall") == expected
    assert first_signal_step(dataclasses.replace(trace, began=None), "stall") is None, "the start of the run is unknown"
    late = dataclasses.replace(trace, warmup=200)
    assert first_signal_step(late, "stall") == (350 if expected else None)


def test_unlearning_large_first_logits_is_still_a_stall() -> None:
    loss = np.log(10) * (1 + np.exp(-np.arange(STEPS) / 50))
    trace = dataclasses.replace(healthy(), loss=loss, began=first_loss(loss))
    assert first_signal_step(trace, "stall") is None, "the loss halved"
    assert first_signal_step(dataclasses.replace(trace, guess=np.log(10)), "stall") == 150
    assert first_signal_step(dataclasses.replace(trace, loss=0.8 * loss, guess=np.log(10)), "stall") is None


@pytest.mark.parametrize(
    ("accuracy", "batch", "expected"),
    [(0.1, 64, 150), (0.13, 64, 150), (0.16, 64, None), (0.16, 2, 150), (0.2, None, 150)],
)
def test_a_network_that_predicts_better_than_guesses_does_not_stall(
    accuracy: float, batch: int | None, expected: int | None
) -> None:
    """With BatchNorm and dropout the loss may be above that of guessing for a while although the network learns."""
    loss = np.log(10) * (1.05 + np.exp(-np.arange(STEPS) / 50))
    trace = dataclasses.replace(healthy(), loss=loss, began=first_loss(loss), guess=np.log(10), batch=batch)
    learning = dataclasses.replace(trace, accuracy=np.full(STEPS, accuracy), steps_per_epoch=30)
    assert first_signal_step(learning, "stall") == expected
    below = dataclasses.replace(learning, loss=np.full(STEPS, 0.99 * np.log(10)))
    assert first_signal_step(below, "stall") == expected


@pytest.mark.parametrize(
    ("batch", "steps_per_epoch", "expected"),
    [(None, None, 150), (64, 100, 150), (512, 2, 150), (32, 1000, 300), (4, 1000, None), (4, 50, 250)],
)
def test_small_batches_have_more_steps_to_begin_learning(
    batch: int | None, steps_per_epoch: int | None, expected: int | None
) -> None:
    loss = np.log(10) * np.exp(0.01 * np.random.default_rng(0).normal(size=STEPS))
    trace = dataclasses.replace(healthy(), loss=loss, began=np.log(10), batch=batch, steps_per_epoch=steps_per_epoch)
    assert first_signal_step(trace, "stall") == expected
    still = change_layers(trace, update_norm=1e-3)
    assert first_signal_step(still, "small_updates") == (expected and 20 * -(-expected // 20))


@pytest.mark.parametrize(("lost_in_600_steps", "expected"), [(0.0, 150), (0.02, 150), (0.15, None), (0.3, None)])
def test_a_slow_but_steady_fall_is_no_stall(lost_in_600_steps: float, expected: int | None) -> None:
    for seed in range(10):
        noise = np.exp(0.01 * np.random.default_rng(seed).normal(size=STEPS))
        loss = np.log(10) * np.linspace(1, 1 - lost_in_600_steps, STEPS) * noise
        result = first_signal_step(dataclasses.replace(healthy(), loss=loss, began=np.log(10)), "stall")
        assert result == expected


def test_small_updates_are_no_fault_while_the_loss_will_soon_be_low() -> None:
    loss = np.log(10) * np.linspace(1, 0.1, STEPS)
    trace = change_layers(dataclasses.replace(healthy(), loss=loss, began=np.log(10)), update_norm=10 * 1.1e-3)
    assert first_signal_step(trace, "small_updates") is None
    slower = dataclasses.replace(trace, loss=np.log(10) * np.linspace(1, 0.8, STEPS))
    assert first_signal_step(slower, "small_updates") == 160


@pytest.mark.parametrize(("swing", "expected"), [(0.1, False), (0.5, True)])
def test_oscillation_is_found(swing: float, expected: bool) -> None:
    trace = change_columns(healthy(), slice(200, None), loss=lambda x: x * np.exp(swing * (-1.0) ** np.arange(len(x))))
    assert (first_signal_step(trace, "oscillation") is not None) == expected


@pytest.mark.parametrize(
    ("losses", "expected"), [([2, 1.5, 1, 1.05, 1.05, 1.05], None), ([2, 1.5, 1, 1.2, 1.3, 1], 500)]
)
def test_overfitting_is_found(losses: list[float], expected: int | None) -> None:
    trace = dataclasses.replace(healthy(), validation_loss=np.array(losses, np.float64))
    assert first_signal_step(trace, "overfitting") == expected


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
def test_memorising_is_overfitting(best: float, learnt: float, expected: int | None) -> None:
    flat = best * np.array([1.5, 1.2, 1.0, 1.01, 1.02, 0.99])
    known = np.array([1.0, 0.5, learnt, learnt, learnt, learnt])
    trace = dataclasses.replace(healthy(), validation_loss=flat, training_loss=known, guess=np.log(10))
    assert first_signal_step(trace, "overfitting") == expected
    assert first_signal_step(dataclasses.replace(trace, guess=None), "overfitting") is None, (
        "the loss of guessing is unknown"
    )


def test_validation_that_worsens_with_the_training_loss_is_not_overfitting() -> None:
    rising = np.array([2, 1.5, 1, 1.2, 1.3, 1.4])
    trace = dataclasses.replace(healthy(), validation_loss=rising, training_loss=rising)
    assert first_signal_step(trace, "overfitting") is None


@pytest.mark.parametrize(("times", "expected"), [(1.5, False), (3.0, True)])
def test_a_gap_between_training_and_inference_is_found(times: float, expected: bool) -> None:
    trace = change_layers(healthy(), slice(5, None), inference_loss=times)
    assert (first_signal_step(trace, "batch_norm_gap") is not None) == expected
    assert ("batch_norm_gap" in alarm_kinds(trace)) == expected


@pytest.mark.parametrize(
    ("sample", "times", "batch", "expected"),
    [
        (10, 6, 1 / 6, 10),
        (10, 4, 1 / 6, None),  # the jump is too small
        (10, 6, 1 / 4, None),  # the batch's variance is not far enough below
        (10, 6, 2, None),  # the batch's variance has grown, and the moving variance follows it
        (10, 1, 1 / 1000, None),  # an odd batch
        (1, 100, 1 / 100, None),  # too few samples
    ],
)
def test_a_jump_of_moving_statistics_is_found(sample: int, times: float, batch: float, expected: int | None) -> None:
    """In one of five layers; its decay is no second jump."""
    trace = healthy()
    variance, spread = (np.zeros_like(trace.layers[name]) for name in ("log_variance", "spread"))
    fading = np.exp(-np.arange(len(variance) - sample) / 4)
    variance[sample:, 2], spread[sample:, 2] = np.log(times) * fading, np.log(batch) * fading
    trace = dataclasses.replace(trace, layers={**trace.layers, "log_variance": variance, "spread": spread})
    result = [alarm for alarm in alarms(trace) if alarm.kind == "statistics_jump"]
    assert [alarm.step for alarm in result] == ([] if expected is None else [EVERY * expected])
    if result:
        assert result[0].evidence == {"since": EVERY * (expected - 1), "times": pytest.approx(6)}


@pytest.mark.parametrize(
    ("kind", "statistic", "layer", "sound", "bad"),
    [
        ("vanishing", "gradient_norm", 0, 1e-2, 1e-4),
        ("dying", "dead", 2, 0.4, 0.6),
        ("saturation", "saturated", 2, 0.7, 0.9),
        ("large_updates", "update_norm", 3, 0.5, 2.0),
        ("moment_spike", "moment_ratio", 1, 2.0, 2.6),
    ],
)
def test_layer_detectors_need_corroboration(kind: str, statistic: str, layer: Any, sound: float, bad: float) -> None:
    assert first_signal_step(change_layers(healthy(), layer=layer, **{statistic: sound}), kind) is None
    trace = change_layers(healthy(), layer=layer, **{statistic: bad})
    assert first_signal_step(trace, kind) is not None
    assert alarm_kinds(trace) == set(), "it needs corroboration"
    spiking = change_columns(trace, slice(400, 410), loss=10.0)
    assert alarm_kinds(spiking) >= {"loss_spike", kind}


@pytest.mark.parametrize(("times", "expected"), [(3.0, None), (20.0, 402)])
def test_exploding_gradients_need_corroboration(times: float, expected: int | None) -> None:
    trace = change_columns(healthy(), slice(400, 410), gradient_norm=times)
    assert first_signal_step(trace, "exploding") == expected
    assert alarm_kinds(trace) == set()
    if expected:
        both = change_columns(trace, slice(399, 410), loss=20.0)
        assert alarm_kinds(both) == {"loss_spike", "collapse", "exploding"}


def slow_run(to: float, ratio: float) -> Trace:
    """A loss that falls to `to` times its start in 100 steps, with updates of `ratio` times the weights."""
    loss = np.log(10) * np.interp(np.arange(STEPS), [0, 100], [1, to])
    trace = dataclasses.replace(healthy(), loss=loss, began=np.log(10))
    return change_layers(trace, update_norm=10 * ratio)


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
def test_small_updates_are_found_if_the_loss_falls_little(to: float, ratio: float, expected: bool) -> None:
    result = first_signal_step(slow_run(to, ratio), "small_updates")
    assert (result is not None) == expected
    if expected:
        assert result in (160, 180)  # the first sample after `STALL_STEPS` steps, or when the trend of 128 steps ends
        assert "small_updates" in alarm_kinds(slow_run(to, ratio)), "it is standalone"


@pytest.mark.parametrize(("ratio", "expected"), [(0.1, None), (0.14, 0)])
def test_a_large_first_update_of_adam_is_found(ratio: float, expected: int | None) -> None:
    trace = change_layers(healthy(), slice(0, 1), update_norm=10 * ratio)
    assert first_signal_step(trace, "large_first_update") == expected
    assert ("large_first_update" in alarm_kinds(trace)) == (expected is not None)
    later = change_layers(healthy(), slice(1, 3), update_norm=10 * ratio)
    assert first_signal_step(later, "large_first_update") is None, "only the first update counts"
    of_sgd = change_layers(trace, moment_ratio=np.nan)
    assert first_signal_step(of_sgd, "large_first_update") is None, "SGD's first gradients are its largest"


def test_one_layer_near_zero_is_no_large_first_update() -> None:
    trace = healthy()
    trace.layers["weight_norm"][:, -1] = 1e-3
    assert first_signal_step(trace, "large_first_update") is None


@pytest.mark.parametrize(("times", "expected"), [(1.6, None), (2.2, 120)])
def test_fast_growing_weights_are_found(times: float, expected: int | None) -> None:
    grown = np.interp(np.arange(0, STEPS, EVERY), [60, 140], [1, times])[:, None]
    trace = healthy()
    trace.layers["weight_norm"][:] = 10 * grown
    assert first_signal_step(trace, "growing_weights") == expected
    assert ("growing_weights" in alarm_kinds(trace)) == (expected is not None)
    for one in (trace.layers["weight_norm"][:, :2], np.where(np.arange(LAYERS) == 0, 10 * grown, 10.0)):
        trace.layers["weight_norm"] = one
        assert not detectors.growing_weights(trace).on.any(), "one or two layers are not enough"


def test_weights_may_grow_slowly() -> None:
    trace = healthy()
    trace.layers["weight_norm"] *= np.linspace(1, 5, len(trace.due))[:, None]
    assert first_signal_step(trace, "growing_weights") is None


def test_small_updates_at_the_end_of_a_schedule_are_no_alarm() -> None:
    late = change_layers(slow_run(0.9, 2e-3), slice(5, None), update_norm=0.01)
    assert first_signal_step(late, "small_updates") is not None, "small updates dominate the mean"
    assert first_signal_step(change_columns(late, slice(100, None), learning_rate=1e-3), "small_updates") is None


def test_small_updates_before_the_end_of_a_schedule_are_found() -> None:
    ended = change_columns(slow_run(0.9, 1e-3), slice(100, None), learning_rate=1e-3)
    assert first_signal_step(ended, "small_updates") is not None


def test_small_updates_during_the_warm_up_do_not_count() -> None:
    trace = dataclasses.replace(slow_run(0.9, 2e-3), warmup=200)
    trace = change_layers(trace, slice(0, 10), update_norm=0.0)
    assert first_signal_step(trace, "small_updates") is None
    assert first_signal_step(dataclasses.replace(slow_run(0.9, 6e-4), warmup=200), "small_updates") == 360


def test_layer_detectors_are_off_during_the_warm_up() -> None:
    trace = change_layers(healthy(), dead=1.0)
    assert first_signal_step(dataclasses.replace(trace, warmup=300), "dying") == 300


def test_networks_without_layer_statistics_raise_no_alarm_of_layers() -> None:
    trace = healthy()
    layers = {name: values[:, :0] if values.ndim == 2 else values for name, values in trace.layers.items()}
    assert alarms(change_columns(dataclasses.replace(trace, layers=layers), slice(400, 410), loss=10.0))
    assert alarms(dataclasses.replace(trace, due=trace.due[:0], layers={})) == []


def test_an_alarm_has_its_first_step_and_its_evidence() -> None:
    twice = change_columns(healthy(), [*range(300, 306), *range(450, 456)], loss=10.0)
    spikes = [alarm for alarm in alarms(twice) if alarm.kind == "loss_spike"]
    assert [alarm.step for alarm in spikes] == [302, 452]
    assert spikes[0].evidence["times"] == pytest.approx(10, rel=0.5)
    assert spikes[0].evidence["z"] > detectors.SPIKE_SIGMAS
