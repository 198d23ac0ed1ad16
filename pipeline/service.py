"""The training chain on a tf.data service: other processes, here or on other machines, make the batches.

    dispatcher = start_dispatcher(port=5050, work_dir="/data/dispatcher")     # one process
    worker = start_worker("grpc://trainer:5050", host="node1")                # any number of processes, at any time
    ds = distribute(ds, DataConfig(service="grpc://trainer:5050"))            # in the trainer

The dispatcher hands out batch numbers (see `reader.batch_numbers`). Every worker would make the same batch k, with the
same pixels, labels and random numbers as in a single process. Batches arrive in the order in which they are ready.

`service_sharding`  if no worker fails         if a worker dies                    if a worker joins or restarts
dynamic             each batch exactly once    the batches it had begun are lost   it takes part from then on
                                               (at most once)
static              each batch exactly once    its part of the batches is missing  only at its own address; begins its
                                                                                   part again (at least once)
off                 each worker gives every    only its own stream ends            it gives every image, in its own
                    image once per epoch                                           order

Evaluation runs in the trainer. Workers open the shards by the same paths as the trainer.
"""

from __future__ import annotations

import socket
import time
from typing import Any

import grpc
import tensorflow as tf

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError

ADDRESS_PREFIX = "grpc://"
# From tensorflow/core/data/service/dispatcher.proto. The request is empty; the reply is empty if there are no workers.
GET_WORKERS = "/tensorflow.data.DispatcherService/GetWorkers"
RETRY_SECONDS = 0.2


def distribute(ds: tf.data.Dataset, config: DataConfig) -> tf.data.Dataset:
    """Returns the elements of `ds` as the workers of `config.service` make them, in arbitrary order.

    Raises:
      UsageError: no dispatcher answers, or the dispatcher has no worker, within `config.service_timeout` seconds.
    """
    wait_for_workers(config)
    policies = tf.data.experimental.service.ShardingPolicy
    policy = {"dynamic": policies.DYNAMIC, "static": policies.HINT, "off": policies.OFF}[config.service_sharding]
    ds = ds.apply(
        tf.data.experimental.service.distribute(
            policy,
            config.service,
            compression=None,  # compressing augmented pixels costs more than it saves
            target_workers="ANY",
        )
    )
    options = tf.data.Options()
    options.autotune.ram_budget = config.ram_budget_mb << 20
    return ds.with_options(options)


def wait_for_workers(config: DataConfig) -> None:
    """Waits until the dispatcher at `config.service` has a worker.

    Raises:
      UsageError: no dispatcher answers, or the dispatcher has no worker, within `config.service_timeout` seconds.
    """
    deadline = time.monotonic() + config.service_timeout
    while not _has_workers(config.service, config.service_timeout, "data.service"):
        if time.monotonic() > deadline:
            raise UsageError(
                f"data.service ({config.service}) has no worker after {config.service_timeout:g} s: start one with"
                f" evenkeel data-service worker --dispatcher={config.service}"
            )
        time.sleep(RETRY_SECONDS)


def _has_workers(address: str, timeout: float, option: str) -> bool:
    """Whether the dispatcher at `address` has workers.

    Waits up to `timeout` seconds for the answer. Error messages say that `address` is the value of `option`.
    """
    with grpc.insecure_channel(address.removeprefix(ADDRESS_PREFIX)) as channel:
        try:
            return bool(channel.unary_unary(GET_WORKERS)(b"", timeout=timeout, wait_for_ready=True))
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                reason = f"no dispatcher answers within {timeout:g} s"
            else:
                reason = f"the server at this address is not a tf.data service dispatcher ({error.code().name})"
            raise UsageError(
                f"{option} ({address}): {reason}; start a dispatcher with evenkeel data-service dispatcher, or correct"
                " the address."
            ) from error


def start_dispatcher(port: int, work_dir: str = "", workers: tuple[str, ...] = ()) -> Any:
    """Starts a dispatcher on `port` (0: any free port). The attribute `target` of the result is its address.

    With a `work_dir`, the dispatcher writes a journal to this directory, and a restarted dispatcher continues from the
    journal. `workers` (HOST:PORT each) are the workers among which static sharding divides the data.

    Raises:
      UsageError: the port or the directory cannot be used.
    """
    _require_free_port(port)
    config = tf.data.experimental.service.DispatcherConfig(
        port=port, work_dir=work_dir or None, fault_tolerant_mode=bool(work_dir), worker_addresses=workers or None
    )
    try:
        return tf.data.experimental.service.DispatchServer(config)
    except (RuntimeError, tf.errors.OpError) as error:
        raise UsageError(
            f"a dispatcher cannot start with the work directory {work_dir or '(none)'}: {_one_line(error)} Choose"
            " another --work_dir."
        ) from error


def start_worker(dispatcher: str, host: str, port: int = 0, timeout: float = 60.0) -> Any:
    """Starts a worker of the `dispatcher` (grpc://HOST:PORT).

    Trainers reach the worker at `host`, on `port` (0: any free port).

    Raises:
      UsageError: no dispatcher answers within `timeout` seconds, the dispatcher has a list of workers that lacks this
        worker, or the port is in use.
    """
    _has_workers(dispatcher, timeout, "--dispatcher")
    if port:
        _require_free_port(port)
    config = tf.data.experimental.service.WorkerConfig(
        dispatcher_address=dispatcher.removeprefix(ADDRESS_PREFIX),
        worker_address=f"{host}:{port or '%port%'}",
        data_transfer_address=f"{host}:%dts_port%",
        port=port,
    )
    try:
        return tf.data.experimental.service.WorkerServer(config)
    except (RuntimeError, tf.errors.OpError) as error:
        raise UsageError(
            f"the dispatcher cannot register worker {host}:{port or '(any port)'}: {_one_line(error)} Correct --host or"
            " --port."
        ) from error


def _require_free_port(port: int) -> None:
    """Raises `UsageError` if another process listens on `port`.

    gRPC would share the port, and each of the two processes would get some of the calls.
    """
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise UsageError(f"cannot listen on port {port}: {error.strerror}; choose another port.") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
