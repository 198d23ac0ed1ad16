"""Names of strategies, what a process feeds of a global batch, and what the hardware decides."""

from __future__ import annotations

import json
import logging

import pytest
import tensorflow as tf

from evenkeel.models.config import StrategyConfig
from evenkeel.models.distribute import strategy
from evenkeel.pipeline.errors import UsageError
from tests.models.training.test_stable_model import one, two

needs_no_gpu = pytest.mark.skipif(strategy.on_gpu(), reason="says what holds on a CPU")


@needs_no_gpu
@pytest.mark.parametrize("name", ["one", "auto"])
def test_without_gpus_one_device_is_the_choice(name: str) -> None:
    devices = strategy.create(StrategyConfig(name=name))
    assert devices.num_replicas_in_sync == 1
    assert strategy.is_chief(devices)


@needs_no_gpu
@pytest.mark.parametrize(("devices", "replicas"), [("", 2), ("CPU:0,CPU:1", 2), ("CPU:1", 1)])
def test_mirrored_takes_the_devices_that_are_named(devices: str, replicas: int) -> None:
    created = strategy.create(StrategyConfig(name="mirrored", devices=devices))
    assert isinstance(created, tf.distribute.MirroredStrategy)
    assert created.num_replicas_in_sync == replicas
    assert strategy.is_chief(created)
    assert strategy.create(StrategyConfig(name="mirrored", devices=devices)) is created


@needs_no_gpu
def test_a_device_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"there is no GPU:3 here; choose among CPU:0, CPU:1\."):
        strategy.create(StrategyConfig(name="mirrored", devices="CPU:0,GPU:3"))


def test_devices_cannot_be_split_after_their_first_use() -> None:
    tf.constant(1)
    with pytest.raises(UsageError, match=r"devices cannot be set up any more .* create the strategy before"):
        strategy.create(StrategyConfig(name="one", logical_cpus=3))


CLUSTER = {"worker": ["localhost:1", "localhost:2"]}


@pytest.mark.parametrize(
    "text",
    [
        None,
        "not json",
        "[]",
        json.dumps({"cluster": CLUSTER}),
        json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 2}}),
        json.dumps({"cluster": CLUSTER, "task": {"type": "chief", "index": 0}}),
        json.dumps({"cluster": {}, "task": {"type": "worker", "index": 0}}),
    ],
)
def test_multiworker_says_what_tf_config_must_hold(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError, match=r'needs the environment variable TF_CONFIG, for example {"cluster"'):
        strategy.create(StrategyConfig(name="multiworker"))


def test_a_share_is_what_one_replica_gets() -> None:
    alone, both = strategy.share(one(), 20), strategy.share(two(), 20)
    assert (alone.batch_size, alone.replicas, alone.local_replicas) == (20, 1, 1)
    assert (both.batch_size, both.replicas, both.local_replicas) == (10, 2, 2)


@pytest.mark.parametrize(("batch", "nearest"), [(21, "20"), (1, "2"), (127, "128")])
def test_a_batch_that_does_not_divide_names_both_numbers_and_the_nearest(batch: int, nearest: str) -> None:
    error = rf"data.batch_size \({batch}\) .* divide by the replicas \(2\): use {nearest}\."
    with pytest.raises(UsageError, match=error):
        strategy.share(two(), batch)


@needs_no_gpu
def test_float16_on_a_cpu_is_warned_about_and_taken(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "absl"):
        assert strategy.precision("mixed_float16") == "mixed_float16"
    assert "mixed_float16 on a CPU is about 10 times slower" in caplog.text


@needs_no_gpu
@pytest.mark.parametrize(
    ("flags", "policy"), [("avx2 avx512_bf16", "mixed_bfloat16"), ("amx_bf16", "mixed_bfloat16"), ("avx2", "float32")]
)
def test_auto_precision_is_bfloat16_where_the_cpu_computes_in_it(
    flags: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "evenkeel.models.distribute.strategy.pathlib.Path.read_text", lambda self: f"flags : fpu {flags} sse\n"
    )
    assert strategy.precision("auto") == policy
    assert strategy.precision("float32") == "float32"


@needs_no_gpu
def test_xla_is_off_on_a_cpu_unless_asked_for() -> None:
    assert [strategy.use_xla(name) for name in ("auto", "on", "off")] == [False, True, False]
