"""Published rules on telemetry made by hand, on both sides of their thresholds."""

from __future__ import annotations

import numpy as np
import pytest

from evenkeel.benchmarks.stability import baselines
from evenkeel.models.config import OptimizerConfig, TrainConfig

LOW = np.array([0.1, 0.2, 0.3, 0.35, 0.38])
HIGH = LOW + 0.5
GOOD = np.ones((5, 3))
NO_ZEROS = np.zeros(5)


def symptoms(accuracy: np.ndarray = LOW, norms: np.ndarray = GOOD, zeros: np.ndarray = NO_ZEROS, **more) -> list[str]:
    return baselines.autotrainer(accuracy, accuracy, norms, zeros, **more)


def norms(first: float, last: float) -> np.ndarray:
    looks = GOOD.copy()
    looks[3] = [first, 1.0, last]
    return looks


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [
        (0.9e-4, 1.0, ["vanish"]),
        (1.1e-4, 1.0, []),  # small against the last, but not small
        (0.9e-4, 0.08, []),  # small, but not against the last
        (0.9e-4, 0.1, ["vanish"]),
        (71, 1, ["explode"]),
        (69, 1, []),
        (np.inf, 1, ["explode"]),
        (0, 0, ["vanish"]),
    ],
)
def test_gradients_that_vanish_or_explode(first: float, last: float, found: list[str]) -> None:
    assert symptoms(norms=norms(first, last)) == found


def test_only_runs_that_have_not_converged_are_looked_at() -> None:
    assert symptoms(HIGH, norms(71, 1)) == []
    assert baselines.autotrainer(HIGH, LOW, norms(71, 1), NO_ZEROS) == ["explode"]
    assert symptoms(LOW + 0.21, norms(71, 1)) == ["explode"]
    assert symptoms(LOW + 0.22, norms(71, 1)) == []


def test_what_is_not_finite_explodes_at_any_accuracy() -> None:
    assert symptoms(HIGH, norms(np.nan, 1)) == ["explode"]
    assert symptoms(HIGH, loss=np.array([1, np.nan])) == ["explode"]
    assert symptoms(HIGH, loss=np.array([1, 2.0])) == []


def test_dying() -> None:
    assert symptoms(zeros=np.array([0, 0, 0.7])) == ["dying"]
    assert symptoms(zeros=np.array([0, 0, 0.69])) == []


def test_oscillation() -> None:
    swings = np.array([0.3, 0.33, 0.3, 0.33, 0.3])
    assert baselines.oscillates(swings)
    assert not baselines.oscillates(0.3 + (swings - 0.3) * 0.9)
    # One pair of extrema in 5 epochs is a fifth, in 6 it is less.
    assert baselines.oscillates(np.array([0.1, 0.4, 0.3, 0.5, 0.6]))
    assert not baselines.oscillates(np.array([0.1, 0.4, 0.3, 0.5, 0.6, 0.7]))
    assert not baselines.oscillates(LOW)
    assert "oscillating" in symptoms(swings)


def test_slow() -> None:
    assert symptoms(np.array([0.1, 0.109, 0.118])) == ["slow"]
    assert symptoms(np.array([0.1, 0.11, 0.119])) == []
    assert baselines.autotrainer(np.array([0.1, 0.109]), LOW, GOOD, NO_ZEROS) == []
    assert symptoms(LOW[:1]) == []


def test_symptoms_come_in_the_order_of_repair() -> None:
    both = norms(71, 1)
    both[4] = [1e-5, 1, 1]
    assert symptoms(LOW * 0 + 0.1, both, NO_ZEROS + 0.9) == ["explode", "vanish", "dying", "slow"]


@pytest.mark.parametrize("symptom", ["explode", "vanish", "dying", "oscillating", "slow"])
def test_repairs_are_options_or_patches(symptom: str) -> None:
    import functools

    from evenkeel.models.config import flat

    known = {*flat(TrainConfig()), "model.patch"}
    ladder = baselines.repairs(symptom, TrainConfig())
    assert len(ladder) >= 2
    assert functools.reduce(set.union, map(set, ladder), set()) <= known
    assert all({key: value} != {} and value for flags in ladder for key, value in flags.items())


def test_repairs_of_the_rate_go_from_the_runs_own() -> None:
    config = TrainConfig(optimizer=OptimizerConfig(learning_rate=0.2))
    assert {"optimizer.learning_rate": 0.02} in baselines.repairs("oscillating", config)
    assert {"optimizer.learning_rate": 2.0} in baselines.repairs("slow", config)
    assert baselines.repairs("slow", config)[0]["optimizer.name"] == "adam"
    config = TrainConfig(optimizer=OptimizerConfig(name="adam"))
    assert baselines.repairs("slow", config)[0]["optimizer.name"] == "sgd"


def test_terminate_on_nan() -> None:
    assert baselines.terminate_on_nan(np.array([1, 2, np.inf, np.nan])) == 2
    assert baselines.terminate_on_nan(np.array([1, 1e30])) is None


def test_plateaus_and_stopping_agree_with_keras() -> None:
    import tf_keras as keras

    rng = np.random.default_rng(0)
    for _ in range(20):
        losses = np.round(np.linspace(2, 1.8, 25) + rng.normal(0, 0.1, 25), 2)
        for patience in (1, 2, 5):
            stopper = keras.callbacks.EarlyStopping(patience=patience)
            model = keras.Sequential([keras.layers.Dense(1, input_shape=(1,))])
            model.compile(keras.optimizers.SGD(1.0))
            plateau = keras.callbacks.ReduceLROnPlateau(patience=patience)
            stopped, reduced = None, None
            for each in (stopper, plateau):
                each.set_model(model)
                each.on_train_begin()
            for epoch, loss in enumerate(losses):
                stopper.on_epoch_end(epoch, {"val_loss": loss})
                plateau.on_epoch_end(epoch, {"val_loss": loss})
                if stopped is None and model.stop_training:
                    stopped = epoch
                if reduced is None and float(model.optimizer.learning_rate.numpy()) < 1:
                    reduced = epoch
            assert baselines.early_stopping(losses, patience) == stopped
            assert baselines.reduce_on_plateau(losses, patience) == reduced


def test_a_loss_that_doubles_is_a_spike() -> None:
    loss = np.ones(30)
    loss[20] = 2
    assert baselines.loss_spike(loss) == 20
    loss[20] = 1.99
    assert baselines.loss_spike(loss) is None
    loss[20] = np.nan
    assert baselines.loss_spike(loss) == 20
    early = np.ones(30)
    early[9] = 5
    assert baselines.loss_spike(early) is None
    early[10] = 5
    assert baselines.loss_spike(early) == 10
