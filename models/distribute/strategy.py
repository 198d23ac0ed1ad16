"""The tf.distribute strategy of a run, and the precision and XLA setting that its hardware supports.

strategy = create_strategy(StrategyConfig(name="mirrored", logical_cpus=2))
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
from collections.abc import Callable

import tensorflow as tf
from absl import logging

from evenkeel.models.config import StrategyConfig
from evenkeel.models.distribute.io_errors import summarize_error
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.replica_shard import ReplicaShard


def create_strategy(config: StrategyConfig) -> tf.distribute.Strategy:
    """Creates the strategy; must be called before TensorFlow's devices are used for anything else.

    Raises:
      UsageError: a device does not exist, TF_CONFIG is missing or wrong, or TensorFlow has used its devices already.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        _configure_devices(functools.partial(tf.config.experimental.set_memory_growth, gpu, True))
    if config.logical_cpus:
        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * config.logical_cpus
        _configure_devices(lambda: tf.config.set_logical_device_configuration(cpu, logical))
    name = config.name
    if name == "auto" and len(_tf_config_workers()) > 1:
        raise UsageError("TF_CONFIG names several workers: add --strategy.name=multiworker, or unset TF_CONFIG.")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "one"
    if name == "one":
        return tf.distribute.get_strategy()
    if name == "multiworker":
        return _multi_worker_strategy()
    kind = "GPU" if gpus and not config.logical_cpus else "CPU"
    known = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices(kind)]
    devices = config.devices.split(",") if config.devices else known
    for device in devices:
        if device not in known:
            raise UsageError(f"strategy.devices: there is no {device} here; choose among {', '.join(known)}.")
    return _mirrored_strategy(tuple(devices))


# Cached, because a second strategy on the same devices would reuse the numbers of the first's collective operations.
@functools.cache
def _mirrored_strategy(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(devices)


@functools.cache  # see _mirrored_strategy
def _multi_worker_strategy() -> tf.distribute.Strategy:
    try:
        tf_config = json.loads(os.environ.get("TF_CONFIG", ""))
        cluster, task = tf_config["cluster"], tf_config["task"]
        addresses = cluster["worker"]
        valid = 0 <= task["index"] < len(addresses) and task["type"] == "worker" and set(cluster) == {"worker"}
    except (ValueError, KeyError, TypeError):
        valid = False
    if not valid:
        raise UsageError(
            "strategy.name=multiworker needs the environment variable TF_CONFIG, for example"
            ' {"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
            " with this worker's own index; tasks of other types are not supported."
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"the workers of TF_CONFIG ({', '.join(addresses)}) cannot connect to each other"
            f" ({summarize_error(error)}): check the addresses, that these ports are free, and that all workers run."
        ) from error


def _configure_devices(configure: Callable[[], None]) -> None:
    """Calls `configure`; TensorFlow refuses changes to its devices after their first use."""
    try:
        configure()
    except RuntimeError as error:
        raise UsageError(
            f"devices cannot be configured any more ({error}): create the strategy before any other use of TensorFlow."
        ) from error


def _tf_config_workers() -> list[str]:
    """The workers' addresses in TF_CONFIG; empty if TF_CONFIG names none or cannot be parsed."""
    try:
        return list(json.loads(os.environ.get("TF_CONFIG", ""))["cluster"]["worker"])
    except (ValueError, KeyError, TypeError):
        return []


def sum_over_replicas(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Sums each of `tensors` over all replicas; must be called in a replica context.

    A single replica does not call `all_reduce`: TensorFlow registers a gradient function for each reduction and never
    frees it. This keeps the whole graph in memory after the network is gone, and the doctor trains one network for each
    change that it tries. With several replicas the leak remains.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return tensors
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def replica_shard(strategy: tf.distribute.Strategy, global_batch_size: int) -> ReplicaShard:
    """This process's part of each global batch.

    Raises:
      UsageError: the number of replicas does not divide the global batch.
    """
    replicas = strategy.num_replicas_in_sync
    if global_batch_size % replicas:
        nearest = max(replicas, round(global_batch_size / replicas) * replicas)
        raise UsageError(
            f"data.batch_size ({global_batch_size}) is global and must be divisible by the number of replicas"
            f" ({replicas}): use {nearest}."
        )
    local_replicas = replicas // worker_count(strategy)
    first_replica = strategy.cluster_resolver.task_id * local_replicas if is_multi_worker(strategy) else 0
    return ReplicaShard(global_batch_size, replicas, first_replica, local_replicas)


def is_multi_worker(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process trains together with other processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def worker_count(strategy: tf.distribute.Strategy) -> int:
    return strategy.cluster_resolver.cluster_spec().num_tasks("worker") if is_multi_worker(strategy) else 1


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run's files: it is the first worker, or the only process."""
    return not is_multi_worker(strategy) or strategy.cluster_resolver.task_id == 0


def has_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


def precision_policy(name: str) -> str:
    """The name of the Keras dtype policy for the option `precision`.

    `auto` becomes mixed_bfloat16 if the hardware computes in bfloat16, and float32 otherwise.
    """
    if name == "auto":
        return "mixed_bfloat16" if _supports_bfloat16() else "float32"
    if name == "mixed_float16" and not has_gpu():
        logging.warning("precision=mixed_float16 on a CPU is about 10 times slower than float32; mixed_bfloat16 is not")
    return name


def _supports_bfloat16() -> bool:
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:  # since Ampere, compute capability 8.0
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return all(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details)
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags


def use_xla(name: str) -> bool:
    """Whether the option `xla` turns XLA on; `auto` does so only for GPUs: on a CPU, oneDNN alone is twice as fast."""
    return name == "on" or (name == "auto" and has_gpu())
