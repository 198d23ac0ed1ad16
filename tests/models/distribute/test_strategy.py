"""Strategies by name, the shard of a process, and the precision and XLA setting that the hardware supports."""

from __future__ import annotations

import json
import logging

import pytest
import tensorflow as tf

from evenkeel.models.config import StrategyConfig
from evenkeel.models.distribute import strategy
from evenkeel.pipeline.errors import UsageError
from tests.factories import one, two

needs_no_gpu = pytest.mark.skipif(strategy.has_gpu(), reason="the expected values are those of a CPU")


@needs_no_gpu
@pytest.mark.parametrize("name", ["one", "auto"])
def test_without_gpus_one_device_is_used(name: str) -> None:
    devices = strategy.create_strategy(StrategyConfig(name=name))
    assert devices.num_replicas_in_sync == 1
    assert strategy.is_chief(devices)


@needs_no_gpu
@pytest.mark.parametrize(("devices", "replicas"), [("", 2), ("CPU:0,CPU:1", 2), ("CPU:1", 1)])
def test_mirrored_uses_the_given_devices(devices: str, replicas: int) -> None:
    created = strategy.create_strategy(StrategyConfig(name="mirrored", devices=devices))
    assert isinstance(created, tf.distribute.MirroredStrategy)
    assert created.num_replicas_in_sync == replicas
    assert strategy.is_chief(created)
    assert strategy.create_strategy(StrategyConfig(name="mirrored", devices=devices)) is created


@needs_no_gpu
def test_the_error_for_an_unknown_device_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"there is no GPU:3 here; choose among CPU:0, CPU:1\."):
        strategy.create_strategy(StrategyConfig(name="mirrored", devices="CPU:0,GPU:3"))


def test_splitting_the_cpu_after_its_first_use_is_an_error() -> None:
    tf.constant(1)
    with pytest.raises(UsageError, match=r"devices cannot be configured any more .* create the strategy before"):
        strategy.create_strategy(StrategyConfig(name="one", logical_cpus=3))


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
def test_the_error_for_a_bad_tf_config_shows_an_example(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UsageError, match=r'needs the environment variable TF_CONFIG, for example {"cluster"'):
        strategy.create_strategy(StrategyConfig(name="multiworker"))


def test_a_replica_shard_has_the_batch_size_of_one_replica() -> None:
    of_one, of_two = strategy.replica_shard(one(), 20), strategy.replica_shard(two(), 20)
    assert (of_one.batch_size, of_one.replicas, of_one.local_replicas) == (20, 1, 1)
    assert (of_two.batch_size, of_two.replicas, of_two.local_replicas) == (10, 2, 2)


@pytest.mark.parametrize(("batch", "nearest"), [(21, "20"), (1, "2"), (127, "128")])
def test_the_error_for_an_indivisible_batch_names_both_numbers_and_the_nearest_batch(batch: int, nearest: str) -> None:
    error = rf"data.batch_size \({batch}\) .* be divisible by the number of replicas \(2\): use {nearest}\."
    with pytest.raises(UsageError, match=error):
        strategy.replica_shard(two(), batch)


@needs_no_gpu
def test_float16_on_a_cpu_gives_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "absl"):
        assert strategy.precision_policy("mixed_float16") == "mixed_float16"
    assert "mixed_float16 on a CPU is about 10 times slower" in caplog.text


@needs_no_gpu
@pytest.mark.parametrize(
    ("flags", "policy"), [("avx2 avx512_bf16", "mixed_bfloat16"), ("amx_bf16", "mixed_bfloat16"), ("avx2", "float32")]
)
def test_auto_precision_is_bfloat16_if_the_cpu_supports_it(
    flags: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "evenkeel.models.distribute.strategy.pathlib.Path.read_text", lambda self: f"flags : fpu {flags} sse\n"
    )
    assert strategy.precision_policy("auto") == policy
    assert strategy.precision_policy("float32") == "float32"


@needs_no_gpu
def test_xla_is_off_on_a_cpu_unless_requested() -> None:
    assert [strategy.use_xla(name) for name in ("auto", "on", "off")] == [False, True, False]
