"""name -> tf.distribute.Strategy, and what the hardware decides: precision and XLA.

strategy = create(StrategyConfig(name="mirrored", logical_cpus=2))
"""

from __future__ import annotations

import functools
import json
import os
import pathlib

import tensorflow as tf
from absl import logging

from evenkeel.models.config import StrategyConfig
from evenkeel.models.distribute.io_errors import reason
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.shuffle import ReplicaShard


def create(config: StrategyConfig) -> tf.distribute.Strategy:
    """The strategy; call it before anything else uses TensorFlow's devices.

    Raises:
      UsageError: devices that do not exist, no TF_CONFIG, or TensorFlow started before.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        _configured(lambda gpu=gpu: tf.config.experimental.set_memory_growth(gpu, True))
    if config.logical_cpus:
        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * config.logical_cpus
        _configured(lambda: tf.config.set_logical_device_configuration(cpu, logical))
    name = config.name
    if name == "auto" and len(_workers_of_tf_config()) > 1:
        raise UsageError("TF_CONFIG names several workers: add --strategy.name=multiworker, or unset it.")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "one"
    if name == "one":
        return tf.distribute.get_strategy()
    if name == "multiworker":
        return _multiworker()
    kind = "GPU" if gpus and not config.logical_cpus else "CPU"
    known = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices(kind)]
    devices = config.devices.split(",") if config.devices else known
    for device in devices:
        if device not in known:
            raise UsageError(f"strategy.devices: there is no {device} here; choose among {', '.join(known)}.")
    return _mirrored(tuple(devices))


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """One for the same devices: a second one in a process would number its collective operations like the first."""
    return tf.distribute.MirroredStrategy(devices)


def _configured(change) -> None:
    """Applies a change of devices, which TensorFlow allows until it first used them."""
    try:
        change()
    except RuntimeError as error:
        raise UsageError(
            f"devices cannot be set up any more ({error}): create the strategy before any other use of TensorFlow."
        ) from error


def _workers_of_tf_config() -> list[str]:
    """The addresses of the workers, none where TF_CONFIG names none or cannot be read."""
    try:
        return list(json.loads(os.environ.get("TF_CONFIG", ""))["cluster"]["worker"])
    except (ValueError, KeyError, TypeError):
        return []


@functools.cache  # see _mirrored
def _multiworker() -> tf.distribute.Strategy:
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG", ""))
        workers, task = cluster["cluster"]["worker"], cluster["task"]
        known = 0 <= task["index"] < len(workers) and task["type"] == "worker" and set(cluster["cluster"]) == {"worker"}
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise UsageError(
            "strategy.name=multiworker needs the environment variable TF_CONFIG, for example"
            ' {"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}'
            " with this worker's own index, and no other kind of task."
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"the workers of TF_CONFIG ({', '.join(workers)}) do not come together ({reason(error)}): check the"
            " addresses, that these ports are free, and that all are started."
        ) from error


def summed(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Each of them summed over the replicas; to be called by a replica.

    One replica does not ask TensorFlow, which registers a gradient of each reduction for good, and with that keeps the
    graph it is part of when the network is long gone: the doctor trains one for each change it tries. Of several
    replicas it stays.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return tensors
    return context.all_reduce(tf.distribute.ReduceOp.SUM, tensors)


def share(strategy: tf.distribute.Strategy, global_batch_size: int) -> ReplicaShard:
    """What this process feeds of each global batch.

    Raises:
      UsageError: the global batch does not divide by the replicas.
    """
    replicas = strategy.num_replicas_in_sync
    if global_batch_size % replicas:
        nearest = max(replicas, round(global_batch_size / replicas) * replicas)
        raise UsageError(
            f"data.batch_size ({global_batch_size}) is global and must divide by the replicas ({replicas}):"
            f" use {nearest}."
        )
    local = replicas // workers(strategy)
    first = strategy.cluster_resolver.task_id * local if of_several(strategy) else 0
    return ReplicaShard(global_batch_size, replicas, first, local)


def of_several(strategy: tf.distribute.Strategy) -> bool:
    """Whether several processes train together, of which this is one."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def workers(strategy: tf.distribute.Strategy) -> int:
    return strategy.cluster_resolver.cluster_spec().num_tasks("worker") if of_several(strategy) else 1


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes what is written once: the first worker, or the only one."""
    return not of_several(strategy) or strategy.cluster_resolver.task_id == 0


def on_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))


def precision(name: str) -> str:
    """The Keras policy for `precision`; auto is mixed_bfloat16 where the hardware computes in it, else float32."""
    if name == "auto":
        return "mixed_bfloat16" if _computes_bfloat16() else "float32"
    if name == "mixed_float16" and not on_gpu():
        logging.warning("precision=mixed_float16 on a CPU is about 10 times slower than float32; mixed_bfloat16 is not")
    return name


def _computes_bfloat16() -> bool:
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:  # from Ampere on
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return all(detail.get("compute_capability", (0, 0)) >= (8, 0) for detail in details)
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "avx512_bf16" in flags or "amx_bf16" in flags


def use_xla(name: str) -> bool:
    """auto: on for GPUs; on a CPU oneDNN without XLA is twice as fast."""
    return name == "on" or (name == "auto" and on_gpu())
