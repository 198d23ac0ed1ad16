"""Checkpoints: whole or absent, the newest and the best kept, refused where they do not fit."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from models.averaging import ema
from models.checkpoints import Checkpointer, Checkpoints, read_state
from models.config import OPTIMIZERS, OptimizerConfig
from pipeline.config import UsageError
from tests.test_addons import OF_ADDONS, needs_addons
from tests.test_network import normed, plain
from tests.test_stable_model import IMAGES, LABELS, StableModel, batches, compiled, one, two


def checkpoints(directory: pathlib.Path, network: Callable = plain, **options: Any) -> tuple[Checkpoints, StableModel]:
    model = compiled(one(), network, OptimizerConfig(**options))
    return Checkpoints(str(directory), model), model


def save(saved: Checkpoints, model: StableModel, step: int, best: int | None = None) -> None:
    """Saves as at `step`, with weights that tell it."""
    model.data_step.assign(step)
    for variable in model.trainable_variables:
        variable.assign(tf.fill(variable.shape, float(step)))
    saved.save({"best": best and {"loss": 1.0, "accuracy": 0.5, "step": best}})


def names(directory: pathlib.Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_what_is_saved_is_restored_in_another_model(tmp_path: pathlib.Path) -> None:
    saved, model = checkpoints(tmp_path, name="adam")
    model.optimizer.iterations.assign(6)
    for slot in model.optimizer.inner_optimizer.variables[1:]:
        slot.assign(tf.random.normal(slot.shape))
    slots = [slot.numpy() for slot in model.optimizer.inner_optimizer.variables]
    save(saved, model, 7, best=4)
    fresh, other = checkpoints(tmp_path, name="adam")
    newest = fresh.newest()
    assert newest == str(tmp_path / "step-00000007")
    assert fresh.restore(newest) == {"best": {"loss": 1.0, "accuracy": 0.5, "step": 4}, "step": 7}
    assert other.step == 7
    assert all((variable.numpy() == 7).all() for variable in other.trainable_variables)
    assert int(other.optimizer.iterations) == 6
    assert len(slots) == 1 + 2 * 6
    for slot, value in zip(other.optimizer.inner_optimizer.variables, slots, strict=True):
        np.testing.assert_array_equal(slot, value)


# On two replicas one of each of Keras's families of optimizers.
RESUMED = [*((name, 1) for name in OPTIMIZERS), ("adamw", 2), ("lamb", 2)]


@pytest.mark.slow
@pytest.mark.usefixtures("determinism")
@pytest.mark.parametrize(
    ("name", "replicas"),
    [pytest.param(*of, marks=needs_addons if of[0] in OF_ADDONS else []) for of in RESUMED],
)
def test_every_optimizer_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(
    name: str, replicas: int, tmp_path: pathlib.Path
) -> None:
    tf.config.experimental.enable_op_determinism()
    devices = two() if replicas == 2 else one()
    config = OptimizerConfig(name=name, learning_rate=0.01, weight_decay=0.1, schedule="cosine")
    fed = batches(devices, IMAGES, LABELS)

    def train(model: StableModel) -> None:
        model.fit(fed, steps_per_epoch=7, verbose=0)

    straight, stopped, resumed = (compiled(devices, normed, config, averaging=ema(0.9)) for _ in range(3))
    train(straight)
    train(straight)
    train(stopped)
    Checkpoints(str(tmp_path), stopped).save({"best": None})
    before = [variable.numpy() for variable in stopped.trainable_variables]
    Checkpoints(str(tmp_path), resumed).restore(str(tmp_path / "step-00000007"))
    train(resumed)
    state = lambda model: [*model.variables, *model.optimizer.variables(), *model.averages.variables]  # noqa: E731
    for found, expected in zip(state(resumed), state(straight), strict=True):
        np.testing.assert_array_equal(found.numpy(), expected.numpy(), err_msg=expected.name)
    assert len(state(straight)) > 3 * len(before)
    moved = [np.abs(v.numpy() - old).max() for v, old in zip(resumed.trainable_variables, before, strict=True)]
    assert min(moved) > 1e-5


def test_one_replicas_checkpoint_is_restored_on_two(tmp_path: pathlib.Path) -> None:
    saved, model = checkpoints(tmp_path, normed)
    save(saved, model, 3)
    mirrored = compiled(two(), normed, OptimizerConfig())
    Checkpoints(str(tmp_path), mirrored).restore(str(tmp_path / "step-00000003"))
    for variable in mirrored.trainable_variables:
        assert [set(value.numpy().ravel()) for value in variable.values] == [{3.0}, {3.0}]


def test_the_last_three_and_the_best_are_kept(tmp_path: pathlib.Path) -> None:
    saved, model = checkpoints(tmp_path)
    kept = []
    for step, best in ((10, 10), (20, 10), (30, 10), (40, 10), (50, 50), (60, 50), (70, 50), (80, 50), (90, None)):
        save(saved, model, step, best)
        kept.append([int(name.removeprefix("step-")) for name in names(tmp_path)])
    assert kept == [
        [10],
        [10, 20],
        [10, 20, 30],
        [10, 20, 30, 40],
        [30, 40, 50],
        [40, 50, 60],
        [50, 60, 70],
        [50, 60, 70, 80],
        [70, 80, 90],
    ]


def test_steps_beyond_eight_digits_stay_in_order(tmp_path: pathlib.Path) -> None:
    saved, model = checkpoints(tmp_path)
    for step in (99_999_998, 100_000_000):
        save(saved, model, step)
    assert saved.newest() == str(tmp_path / "step-100000000")


def test_a_writer_killed_while_saving_leaves_the_previous_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, model = checkpoints(tmp_path)
    save(saved, model, 10)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            save(saved, model, 20)
    assert names(tmp_path) == ["step-00000010", "writing-00000020"]
    fresh, other = checkpoints(tmp_path)
    assert fresh.newest() == str(tmp_path / "step-00000010")
    fresh.restore(str(tmp_path / "step-00000010"))
    assert other.step == 10
    save(fresh, other, 20)
    assert names(tmp_path) == ["step-00000010", "step-00000020"]


def test_names_that_are_no_checkpoint_are_ignored(tmp_path: pathlib.Path) -> None:
    saved, _ = checkpoints(tmp_path)
    for name in ("writing-00000030", "step-123", "step-00000030.tmp", "notes"):
        (tmp_path / name).mkdir()
    assert saved.newest() is None
    assert checkpoints(tmp_path / "absent")[0].newest() is None


def wider(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    return plain(input_shape, classes + 1)


@pytest.mark.parametrize(
    ("network", "options"),
    [(wider, {}), (normed, {}), (plain, {"name": "adam"})],
    ids=["other shape", "other layers", "other optimizer"],
)
def test_a_checkpoint_of_another_model_is_refused_in_one_line(
    network: Callable, options: dict[str, str], tmp_path: pathlib.Path
) -> None:
    saved, model = checkpoints(tmp_path)
    save(saved, model, 10)
    other, _ = checkpoints(tmp_path, network, **options)
    path = str(tmp_path / "step-00000010")
    with pytest.raises(UsageError) as raised:
        other.restore(path)
    text = str(raised.value)
    assert text.startswith(f"checkpoint {path} does not fit this model (")
    assert text.endswith("): resume with the configuration it was made with.")
    assert "\n" not in text


def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: pathlib.Path) -> None:
    saved, model = checkpoints(tmp_path)
    save(saved, model, 10)
    (shard,) = (tmp_path / "step-00000010").glob("variables.data*")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"step-00000010 does not fit this model \(") as raised:
        saved.restore(str(tmp_path / "step-00000010"))
    assert "\n" not in str(raised.value)


def test_the_best_is_by_accuracy_then_loss_and_survives_a_restart(tmp_path: pathlib.Path) -> None:
    saved, model = checkpoints(tmp_path)
    results = [(0.5, 2.0), (0.6, 3.0), (0.6, 2.5), (0.6, 2.9), (0.4, 1.0)]

    def told(best: dict[str, float] | None) -> Checkpointer:
        callback = Checkpointer(saved, every_epochs=2, best=best)
        callback.set_model(model)
        callback.set_params({"epochs": len(results)})
        return callback

    callback, seen = told(None), []
    for epoch, (accuracy, loss) in enumerate(results):
        model.data_step.assign(10 * (epoch + 1))
        callback.on_epoch_end(epoch, {"loss": 0.0, "val_accuracy": accuracy, "val_loss": loss})
        assert callback.best
        seen.append((callback.best["step"], names(tmp_path)[-1]))
        callback = told(read_state(str(tmp_path / names(tmp_path)[-1]))["best"])
    # Saved where it is the best so far, every second epoch, and at the end.
    assert seen == [
        (10, "step-00000010"),
        (20, "step-00000020"),
        (30, "step-00000030"),
        (30, "step-00000040"),
        (30, "step-00000050"),
    ]
