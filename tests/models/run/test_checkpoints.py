"""Checkpoints: intact or absent, the newest and the best are kept, those of another model are errors."""

from __future__ import annotations

import dataclasses
import errno
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from evenkeel.models.config import OPTIMIZERS, CheckpointConfig, OptimizerConfig
from evenkeel.models.optim.averaging import ema
from evenkeel.models.run import checksums
from evenkeel.models.run.checkpoints import Checkpointer, Checkpoints, read_state
from evenkeel.models.training.stable_model import StableModel
from evenkeel.pipeline.errors import UsageError
from tests.factories import IMAGES, LABELS, OF_ADDONS, batches, compiled, needs_addons, normed, one, plain, two


def checkpoints(
    directory: pathlib.Path, network: Callable = plain, keep: int = 3, **options: Any
) -> tuple[Checkpoints, StableModel]:
    model = compiled(one(), network, OptimizerConfig(**options))
    return Checkpoints(str(directory), model, keep), model


def save(saved: Checkpoints, model: StableModel, step: int, best: int | None = None) -> None:
    """Saves a checkpoint of `step` whose weights all have the value `step`."""
    model.data_step.assign(step)
    for variable in model.trainable_variables:
        variable.assign(tf.fill(variable.shape, float(step)))
    saved.save({"best": best and {"loss": 1.0, "accuracy": 0.5, "step": best}})
    saved.finish()


def names(directory: pathlib.Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_a_checkpoint_is_restored_into_another_instance_of_the_model(tmp_path: pathlib.Path) -> None:
    saved, model = checkpoints(tmp_path, name="adam")
    model.optimizer.iterations.assign(6)
    for slot in model.optimizer.inner_optimizer.variables[1:]:
        slot.assign(tf.random.normal(slot.shape))
    slots = [slot.numpy() for slot in model.optimizer.inner_optimizer.variables]
    save(saved, model, 7, best=4)
    fresh, other = checkpoints(tmp_path, name="adam")
    newest = fresh.newest_intact()
    assert newest == str(tmp_path / "step-00000007")
    assert fresh.restore(newest) == {"best": {"loss": 1.0, "accuracy": 0.5, "step": 4}, "step": 7}
    assert other.step == 7
    assert all((variable.numpy() == 7).all() for variable in other.trainable_variables)
    assert int(other.optimizer.iterations) == 6
    assert len(slots) == 1 + 2 * 6
    for slot, value in zip(other.optimizer.inner_optimizer.variables, slots, strict=True):
        np.testing.assert_array_equal(slot, value)


# On two replicas: one optimizer of each of Keras's two families.
RESUMED = [(name, 2 if name in ("adamw", "lamb") else 1) for name in OPTIMIZERS]


@pytest.mark.slow
@pytest.mark.usefixtures("determinism")
@pytest.mark.parametrize(
    ("name", "replicas"),
    [pytest.param(*of, marks=needs_addons if of[0] in OF_ADDONS else []) for of in RESUMED],
)
def test_every_optimizer_resumed_from_a_checkpoint_trains_as_if_uninterrupted(
    name: str, replicas: int, tmp_path: pathlib.Path
) -> None:
    tf.config.experimental.enable_op_determinism()
    devices = two() if replicas == 2 else one()
    config = OptimizerConfig(name=name, learning_rate=0.01, weight_decay=0.1, schedule="cosine")
    fed = batches(devices, IMAGES, LABELS)

    def train(model: StableModel) -> None:
        model.fit(fed, steps_per_epoch=7, verbose=0)

    straight, resumed = (compiled(devices, normed, config, averaging=ema(0.9)) for _ in range(2))
    train(straight)
    saved = Checkpoints(str(tmp_path), straight)
    saved.save({"best": None})
    saved.finish()
    before = [np.array(variable.numpy()) for variable in straight.trainable_variables]  # which trains on
    train(straight)
    Checkpoints(str(tmp_path), resumed).restore(str(tmp_path / "step-00000007"))
    train(resumed)
    state = lambda model: [*model.variables, *model.optimizer.variables(), *model.averages.variables]  # noqa: E731
    for found, expected in zip(state(resumed), state(straight), strict=True):
        np.testing.assert_array_equal(found.numpy(), expected.numpy(), err_msg=expected.name)
    assert len(state(straight)) > 3 * len(before)
    moved = [np.abs(v.numpy() - old).max() for v, old in zip(resumed.trainable_variables, before, strict=True)]
    assert min(moved) > 1e-5


def test_a_checkpoint_of_one_replica_is_restored_on_two(tmp_path: pathlib.Path) -> None:
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
        [50, 70, 80, 90],
    ]


def test_steps_with_more_than_eight_digits_are_sorted_as_numbers(tmp_path: pathlib.Path) -> None:
    saved, model = checkpoints(tmp_path)
    for step in (99_999_998, 100_000_000):
        save(saved, model, step)
    assert saved.newest_intact() == str(tmp_path / "step-100000000")


def test_a_process_killed_while_saving_leaves_the_previous_checkpoint(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, model = checkpoints(tmp_path)
    save(saved, model, 10)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checksums, "write_checksums", killed)
        with pytest.raises(KeyboardInterrupt):
            save(saved, model, 20)
    assert names(tmp_path) == ["step-00000010", "writing-00000020"]
    fresh, other = checkpoints(tmp_path)
    assert fresh.newest_intact() == str(tmp_path / "step-00000010")
    fresh.restore(str(tmp_path / "step-00000010"))
    assert other.step == 10
    save(fresh, other, 20)
    assert names(tmp_path) == ["step-00000010", "step-00000020"]


def test_a_process_killed_while_replacing_a_checkpoint_of_the_same_step_loses_nothing(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, model = checkpoints(tmp_path, keep=1)
    save(saved, model, 10)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tf.io.gfile, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            save(saved, model, 10)
    assert names(tmp_path) == ["writing-00000010"]
    fresh, _ = checkpoints(tmp_path)
    assert fresh.newest_intact() == str(tmp_path / "step-00000010")
    assert names(tmp_path) == ["step-00000010"]


def test_one_state_of_one_step_is_saved_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, model = checkpoints(tmp_path)
    callback, taken = Checkpointer(saved, CheckpointConfig()), []
    callback.set_model(model)
    callback.on_train_begin()
    monkeypatch.setattr(saved, "save", lambda state: taken.append((model.step, state["validating"])))
    for step, validating in ((8, False), (8, False), (8, True), (8, True), (8, False), (12, False)):
        model.data_step.assign(step)
        callback.save(validating)
    assert taken == [(8, False), (8, True), (8, False), (12, False)]


def test_the_best_checkpoint_stays_until_a_better_one_is_on_disk(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, model = checkpoints(tmp_path, keep=1)
    save(saved, model, 10, best=10)
    with monkeypatch.context() as patch:
        patch.setattr(checksums, "write_checksums", lambda _: (_ for _ in ()).throw(OSError("no space")))
        with pytest.raises(OSError, match="no space"):
            save(saved, model, 20, best=20)
    save(saved, model, 30, best=20)
    assert names(tmp_path) == ["step-00000010", "step-00000030"]
    save(saved, model, 40, best=40)
    assert names(tmp_path) == ["step-00000040"]


def test_directories_that_are_not_checkpoints_are_ignored(tmp_path: pathlib.Path) -> None:
    saved, _ = checkpoints(tmp_path)
    for name in ("writing-00000030", "step-123", "step-00000030.tmp", "notes"):
        (tmp_path / name).mkdir()
    assert saved.newest_intact() is None
    assert checkpoints(tmp_path / "absent")[0].newest_intact() is None


def wider(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    return plain(input_shape, classes + 1)


@pytest.mark.parametrize(
    ("network", "options"),
    [(wider, {}), (normed, {}), (plain, {"name": "adam"})],
    ids=["other shape", "other layers", "other optimizer"],
)
def test_a_checkpoint_of_another_model_is_an_error_of_one_line(
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


def damages() -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    """Twenty lengths to cut a checkpoint's files short at, and twenty bits to flip, by share of the file."""
    rng = np.random.default_rng(7)
    for number, (share, bit) in enumerate(zip(rng.random(20), rng.integers(0, 8, 20), strict=True)):

        def cut(content: bytes, share: float = share) -> bytes:
            return content[: int(share * len(content))]

        def flip(content: bytes, share: float = share, bit: int = int(bit)) -> bytes:
            at = int(share * len(content))
            return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]

        yield f"cut {number}", cut
        yield f"flip {number}", flip


def test_a_damaged_checkpoint_is_set_aside_and_named(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    saved, model = checkpoints(tmp_path)
    save(saved, model, 10)
    save(saved, model, 20)
    whole = {path: path.read_bytes() for path in sorted((tmp_path / "step-00000020").iterdir())}
    assert len(whole) == 4
    seen = 0
    for path in whole:
        for of, damaged in damages():
            (tmp_path / "step-00000020").mkdir(exist_ok=True)
            for each, content in whole.items():
                each.write_bytes(damaged(content) if each == path else content)
            with pytest.raises(UsageError, match=r"step-00000020 is damaged \(") as raised:
                saved.restore(str(tmp_path / "step-00000020"))
            assert "\n" not in str(raised.value)
            caplog.clear()
            assert saved.newest_intact() == str(tmp_path / "step-00000010"), (path.name, of)
            assert "step-00000020 is damaged (" in caplog.text
            assert names(tmp_path) == ["damaged-step-00000020", "step-00000010"]
            seen += 1
    assert seen == 4 * 40
    saved.restore(str(tmp_path / "step-00000010"))
    assert all((variable.numpy() == 10).all() for variable in model.trainable_variables)


def test_a_full_disk_loses_one_checkpoint_and_nothing_else(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk is full first for the variables, then for the flush in the background."""
    saved, model = checkpoints(tmp_path)
    callback = Checkpointer(saved, CheckpointConfig())
    callback.set_model(model)
    callback.on_train_begin()
    save(saved, model, 10)
    full = OSError(errno.ENOSPC, "No space left on device")

    def fails(*_: object, **__: object) -> None:
        raise full

    for owner, name in ((saved._tracked, "write"), (checksums, "sync_to_disk")):
        caplog.clear()
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fails)
            model.data_step.assign(20)
            callback.save()
            callback.finish()
        assert callback.failure == "[Errno 28] No space left on device"
        assert "training goes on" in caplog.text
        assert names(tmp_path) == ["step-00000010"]
    callback.save()
    callback.finish()
    assert callback.failure == ""
    assert names(tmp_path) == ["step-00000010", "step-00000020"]
    assert read_state(str(tmp_path / "step-00000020"))["validating"] is False


def test_checkpoints_are_saved_every_so_many_steps_or_minutes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, model = checkpoints(tmp_path)
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def steps(config: CheckpointConfig) -> list[int]:
        nonlocal now
        callback, found = Checkpointer(saved, config), []
        model.stop_training = False
        monkeypatch.setattr(callback, "save", lambda: found.append(model.step) or save_clock(callback))
        callback.set_model(model)
        callback.set_params({"epochs": 9, "steps": 40})
        model.data_step.assign(0)
        callback.on_train_begin()
        for end in range(4, 41, 4):
            model.data_step.assign(end)
            now += 10
            callback.on_train_batch_end(end - 1)
        callback.on_epoch_end(0)
        return found

    def save_clock(callback: Checkpointer) -> None:
        callback._saved_step, callback._saved_time = model.step, now

    rarely = CheckpointConfig(every_epochs=5)
    assert steps(rarely) == []
    assert steps(dataclasses.replace(rarely, every_steps=10)) == [12, 24, 36]
    assert steps(dataclasses.replace(rarely, every_minutes=0.5)) == [12, 24, 36]
    assert steps(dataclasses.replace(rarely, every_steps=20)) == [20, 40]


def test_the_best_has_the_highest_accuracy_then_the_lowest_loss_and_survives_a_restart(tmp_path: pathlib.Path) -> None:
    saved, model = checkpoints(tmp_path)
    results = [(0.5, 2.0), (0.6, 3.0), (0.6, 2.5), (0.6, 2.9), (0.4, 1.0)]

    def start_checkpointer(best: dict[str, float] | None) -> Checkpointer:
        callback = Checkpointer(saved, CheckpointConfig(every_epochs=2), best)
        callback.set_model(model)
        callback.set_params({"epochs": len(results), "steps": 10})
        callback.on_train_begin()
        return callback

    callback, seen = start_checkpointer(None), []
    for epoch, (accuracy, loss) in enumerate(results):
        model.data_step.assign(10 * (epoch + 1))
        callback.on_epoch_end(epoch, {"loss": 0.0, "val_accuracy": accuracy, "val_loss": loss})
        callback.finish()
        assert callback.best
        seen.append((callback.best["step"], names(tmp_path)[-1]))
        callback = start_checkpointer(read_state(str(tmp_path / names(tmp_path)[-1]))["best"])
    # Checkpoints are saved for the best result so far, every second epoch, and at the end.
    assert seen == [
        (10, "step-00000010"),
        (20, "step-00000020"),
        (30, "step-00000030"),
        (30, "step-00000040"),
        (30, "step-00000050"),
    ]
