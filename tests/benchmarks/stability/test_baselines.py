"""Published rules on synthetic telemetry, on both sides of their thresholds."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from evenkeel.benchmarks.stability import baselines
from evenkeel.models.config import OptimizerConfig, TrainConfig, flatten

LOW_ACCURACY = np.array([0.1, 0.2, 0.3, 0.35, 0.38])
HIGH_ACCURACY = LOW_ACCURACY + 0.5
GOOD_NORMS = np.ones((5, 3))  # [checks, layers]
NO_ZEROS = np.zeros(5)


def symptoms(
    accuracy: np.ndarray = LOW_ACCURACY, norms: np.ndarray = GOOD_NORMS, zeros: np.ndarray = NO_ZEROS, **options
) -> list[str]:
    return baselines.autotrainer_symptoms(accuracy, accuracy, norms, zeros, **options)


def gradient_norms(first: float, last: float) -> np.ndarray:
    """Good norms, except for one check in which the first and the last layer have these."""
    norms = GOOD_NORMS.copy()
    norms[3] = [first, 1.0, last]
    return norms


# AutoTrainer.


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (0.9e-4, 1.0, ["vanish"]),
        (1.1e-4, 1.0, []),  # the ratio is small, but the norm is not
        (0.9e-4, 0.08, []),  # the norm is small, but the ratio is not
        (0.9e-4, 0.1, ["vanish"]),
        (71, 1, ["explode"]),
        (69, 1, []),
        (np.inf, 1, ["explode"]),
        (0, 0, ["vanish"]),
    ],
)
def test_gradients_vanish_or_explode_beyond_the_thresholds(first: float, last: float, expected: list[str]) -> None:
    assert symptoms(norms=gradient_norms(first, last)) == expected


def test_converged_runs_have_no_symptoms() -> None:
    exploding = gradient_norms(71, 1)
    assert symptoms(HIGH_ACCURACY, exploding) == []
    assert baselines.autotrainer_symptoms(HIGH_ACCURACY, LOW_ACCURACY, exploding, NO_ZEROS) == ["explode"]
    assert symptoms(LOW_ACCURACY + 0.21, exploding) == ["explode"]
    assert symptoms(LOW_ACCURACY + 0.22, exploding) == []


def test_values_that_are_not_finite_explode_at_any_accuracy() -> None:
    assert symptoms(HIGH_ACCURACY, gradient_norms(np.nan, 1)) == ["explode"]
    assert symptoms(HIGH_ACCURACY, loss=np.array([1, np.nan])) == ["explode"]
    assert symptoms(HIGH_ACCURACY, loss=np.array([1, 2.0])) == []


def test_a_network_is_dying_if_70_percent_of_the_gradient_is_zero() -> None:
    assert symptoms(zeros=np.array([0, 0, 0.7])) == ["dying"]
    assert symptoms(zeros=np.array([0, 0, 0.69])) == []


def test_accuracy_oscillates_if_enough_extrema_differ_by_enough() -> None:
    swings = np.array([0.3, 0.33, 0.3, 0.33, 0.3])
    assert baselines.oscillates(swings)
    assert not baselines.oscillates(0.3 + (swings - 0.3) * 0.9)
    # One pair of extrema is 20% of 5 epochs, and less of 6.
    assert baselines.oscillates(np.array([0.1, 0.4, 0.3, 0.5, 0.6]))
    assert not baselines.oscillates(np.array([0.1, 0.4, 0.3, 0.5, 0.6, 0.7]))
    assert not baselines.oscillates(LOW_ACCURACY)
    assert "oscillating" in symptoms(swings)


def test_training_is_slow_if_both_accuracies_gain_less_than_a_point_per_epoch() -> None:
    assert symptoms(np.array([0.1, 0.109, 0.118])) == ["slow"]
    assert symptoms(np.array([0.1, 0.11, 0.119])) == []
    assert baselines.autotrainer_symptoms(np.array([0.1, 0.109]), LOW_ACCURACY, GOOD_NORMS, NO_ZEROS) == []
    assert symptoms(LOW_ACCURACY[:1]) == []


def test_symptoms_are_in_the_order_of_repair() -> None:
    norms = gradient_norms(71, 1)
    norms[4] = [1e-5, 1, 1]
    assert symptoms(LOW_ACCURACY * 0 + 0.1, norms, NO_ZEROS + 0.9) == ["explode", "vanish", "dying", "slow"]


@pytest.mark.parametrize("symptom", ["explode", "vanish", "dying", "oscillating", "slow"])
def test_repairs_are_flags_that_exist(symptom: str) -> None:
    flags = {*flatten(TrainConfig()), "model.patch"}
    repairs = baselines.autotrainer_repairs(symptom, TrainConfig())
    assert len(repairs) >= 2
    assert functools.reduce(set.union, map(set, repairs), set()) <= flags
    assert all({key: value} != {} and value for repair in repairs for key, value in repair.items())


def test_repairs_of_the_learning_rate_start_from_the_runs_own() -> None:
    config = TrainConfig(optimizer=OptimizerConfig(learning_rate=0.2))
    assert {"optimizer.learning_rate": 0.02} in baselines.autotrainer_repairs("oscillating", config)
    assert {"optimizer.learning_rate": 2.0} in baselines.autotrainer_repairs("slow", config)
    assert baselines.autotrainer_repairs("slow", config)[0]["optimizer.name"] == "adam"
    config = TrainConfig(optimizer=OptimizerConfig(name="adam"))
    assert baselines.autotrainer_repairs("slow", config)[0]["optimizer.name"] == "sgd"


# Random search.


def test_random_changes_are_flags_that_exist_and_repeat_with_the_seed() -> None:
    first, second = (
        [baselines.draw_random_changes(rng) for _ in range(20)] for rng in map(np.random.default_rng, (0, 0))
    )
    assert first == second
    assert {name for flags in first for name in flags} <= {*flatten(TrainConfig()), "model.patch"}
    assert len({tuple(flags) for flags in first}) > 10


# Keras's callbacks, and the rule on the loss.


def test_terminate_on_nan_acts_at_the_first_loss_that_is_not_finite() -> None:
    assert baselines.terminate_on_nan_step(np.array([1, 2, np.inf, np.nan])) == 2
    assert baselines.terminate_on_nan_step(np.array([1, 1e30])) is None


def test_plateaus_and_early_stopping_agree_with_keras() -> None:
    import tf_keras as keras

    rng = np.random.default_rng(0)
    for _ in range(20):
        losses = np.round(np.linspace(2, 1.8, 25) + rng.normal(0, 0.1, 25), 2)
        for patience in (1, 2, 5):
            early_stopping = keras.callbacks.EarlyStopping(patience=patience)
            model = keras.Sequential([keras.layers.Dense(1, input_shape=(1,))])
            model.compile(keras.optimizers.SGD(1.0))
            reduce_on_plateau = keras.callbacks.ReduceLROnPlateau(patience=patience)
            stopping_epoch, plateau_epoch = None, None
            for callback in (early_stopping, reduce_on_plateau):
                callback.set_model(model)
                callback.on_train_begin()
            for epoch, loss in enumerate(losses):
                early_stopping.on_epoch_end(epoch, {"val_loss": loss})
                reduce_on_plateau.on_epoch_end(epoch, {"val_loss": loss})
                if stopping_epoch is None and model.stop_training:
                    stopping_epoch = epoch
                if plateau_epoch is None and float(model.optimizer.learning_rate.numpy()) < 1:
                    plateau_epoch = epoch
            assert baselines.early_stopping_epoch(losses, patience) == stopping_epoch
            assert baselines.reduce_on_plateau_epoch(losses, patience) == plateau_epoch


def test_a_loss_that_doubles_is_a_spike() -> None:
    loss = np.ones(30)
    loss[20] = 2
    assert baselines.loss_spike_step(loss) == 20
    loss[20] = 1.99
    assert baselines.loss_spike_step(loss) is None
    loss[20] = np.nan
    assert baselines.loss_spike_step(loss) == 20
    early = np.ones(30)
    early[9] = 5
    assert baselines.loss_spike_step(early) is None
    early[10] = 5
    assert baselines.loss_spike_step(early) == 10
