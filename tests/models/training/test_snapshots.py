"""Snapshots: a rollback restores everything that training changes, on every replica, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tf_keras as keras

from evenkeel.models.config import OptimizerConfig
from evenkeel.models.optim.averaging import ema
from evenkeel.models.training.snapshots import MAX_SNAPSHOTS, Snapshots, state_variables
from tests.factories import IMAGES, LABELS, batches, compiled, normed, one, plain, two

ADAM = OptimizerConfig(name="adam", learning_rate=1e-2, schedule="constant")


def values(model: Any) -> list[np.ndarray]:
    """The values of all state variables on every replica."""
    local = model.distribute_strategy.experimental_local_results
    return [np.array(copy.numpy()) for variable in state_variables(model) for copy in local(variable)]


def train(model: Any, fed: Any, steps: int = 5) -> None:
    model.fit(fed, steps_per_epoch=steps, epochs=1, verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "policy"), [(one, "float32"), (two, "mixed_float16")])
def test_a_restored_model_equals_the_copied_one_bit_for_bit(devices: Any, policy: str) -> None:
    devices = devices()
    model = compiled(devices, normed, ADAM, policy, averaging=ema(0.9))
    fed = batches(devices, IMAGES, LABELS)
    train(model, fed)
    snapshots = Snapshots(model)
    snapshots.take()
    before, step = values(model), model.step
    train(model, fed)
    changes = [not np.array_equal(old, new) for old, new in zip(before, values(model), strict=True)]
    assert sum(changes) > 0.8 * len(changes), "training has changed nearly all of them"
    assert snapshots.restore(max_step=model.step) == step
    assert model.trained_steps == step
    for old, new in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.step == 2 * step, "data_step does not go back"


def test_training_after_a_rollback_equals_an_uninterrupted_run() -> None:
    """The optimizer's slots and step are restored too: 5 steps and the 5 to make up equal 10 steps of another run."""
    model, straight = compiled(one(), plain, ADAM), compiled(one(), plain, ADAM)
    train(model, batches(one(), IMAGES, LABELS))
    train(straight, batches(one(), IMAGES, LABELS))
    snapshots = Snapshots(model)
    snapshots.take()
    train(model, batches(one(), IMAGES[::-1].copy(), LABELS))
    snapshots.restore(max_step=5)
    train(model, batches(one(), IMAGES, LABELS))
    train(straight, batches(one(), IMAGES, LABELS), steps=10)
    for detour, direct in zip(model.get_weights(), straight.get_weights(), strict=True):
        np.testing.assert_array_equal(detour, direct)


def test_a_snapshot_covers_every_variable_that_training_writes() -> None:
    model = compiled(one(), normed, ADAM, "mixed_float16", averaging=ema(0.9), metrics=[keras.metrics.Mean("extra")])
    names = [variable.name for variable in state_variables(model)]
    for part in ("kernel", "moving_mean", "m/first", "v/first", "iteration", "loss_scale", "good_steps", "average/"):
        assert any(part in name for name in names), part
    assert not any("extra" in name or "data_step" in name for name in names)
    assert len({id(variable) for variable in state_variables(model)}) == len(names)


def test_older_snapshots_lie_farther_apart() -> None:
    model = compiled(one())
    snapshots = Snapshots(model)
    for step in range(0, 1001, 50):
        model.data_step.assign(step)
        snapshots.take()
    assert len(snapshots.steps) == MAX_SNAPSHOTS
    assert snapshots.steps[0] == 0
    assert snapshots.steps[-1] == 1000
    gaps = np.diff(snapshots.steps)
    assert (gaps[:-1] >= gaps[1:]).all(), snapshots.steps


def test_the_newest_usable_snapshot_is_restored_and_later_ones_are_dropped() -> None:
    model = compiled(one())
    snapshots = Snapshots(model)
    for step in (0, 50, 100):
        model.data_step.assign(step)
        snapshots.take()
    assert snapshots.restore(max_step=99) == 50
    assert snapshots.steps == [0, 50]
    with pytest.raises(ValueError, match="no snapshot of step -1 or before it"):
        snapshots.restore(max_step=-1)
