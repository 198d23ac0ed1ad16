"""The same chain on a tf.data service cluster: batches made by other processes, here or on other machines.

    dispatcher = start_dispatcher(port=5050, work_dir="/data/dispatcher")     # a process of its own
    worker = start_worker("grpc://trainer:5050", host="node1")                # as many as you like, at any time
    ds = distribute(ds, DataConfig(service="grpc://trainer:5050"))            # in the trainer

What is dealt out is the number of a batch (see `reader.dealt_elements`): whoever makes batch k makes the very batch
that a single process would, in pixels, labels and random numbers. They come in the order in which they are ready.

`service_sharding`  workers alive              a worker dies                       a worker joins or restarts
dynamic             each batch exactly once    the batches it had begun are lost   takes its share from then on
                                               (at most once)
static              each batch exactly once    its part of the batches stays out   only at its own address; begins its
                                                                                   part again (at least once)
off                 each worker deals out      nothing is lost but its own         deals out everything, in an order of
                    every image once a pass    stream                              its own

Evaluation stays with the trainer. Workers open the shards by the same paths as the trainer.
"""

from __future__ import annotations

import socket
import time
from typing import Any

import grpc
import tensorflow as tf

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError

PROTOCOL = "grpc://"
# Of tensorflow/core/data/service/dispatcher.proto: an empty request, and a reply that is empty without workers.
GET_WORKERS = "/tensorflow.data.DispatcherService/GetWorkers"
RETRY_SECONDS = 0.2


def distribute(ds: tf.data.Dataset, config: DataConfig) -> tf.data.Dataset:
    """`ds` as `config.service`'s workers make it, in no certain order.

    Raises:
      UsageError: there is no dispatcher, or it has no worker, within `config.service_timeout` seconds.
    """
    wait_for_workers(config)
    policies = tf.data.experimental.service.ShardingPolicy
    policy = {"dynamic": policies.DYNAMIC, "static": policies.HINT, "off": policies.OFF}[config.service_sharding]
    ds = ds.apply(
        tf.data.experimental.service.distribute(
            policy,
            config.service,
            compression=None,  # of augmented pixels it costs more than it saves
            target_workers="ANY",
        )
    )
    options = tf.data.Options()
    options.autotune.ram_budget = config.ram_budget_mb << 20
    return ds.with_options(options)


def wait_for_workers(config: DataConfig) -> None:
    """Returns once `config.service` is a dispatcher with a worker.

    Raises:
      UsageError: it is not, within `config.service_timeout` seconds.
    """
    deadline = time.monotonic() + config.service_timeout
    while not _workers(config.service, config.service_timeout, "data.service"):
        if time.monotonic() > deadline:
            raise UsageError(
                f"data.service ({config.service}) has no worker after {config.service_timeout:g} s: start one with"
                f" python -m tools.data_service worker --dispatcher={config.service}"
            )
        time.sleep(RETRY_SECONDS)


def _workers(address: str, timeout: float, name: str) -> bool:
    """Whether the dispatcher at `address` has workers; waits for it to answer."""
    with grpc.insecure_channel(address.removeprefix(PROTOCOL)) as channel:
        try:
            return bool(channel.unary_unary(GET_WORKERS)(b"", timeout=timeout, wait_for_ready=True))
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
                reason = f"no dispatcher answers within {timeout:g} s"
            else:
                reason = f"what answers there is no tf.data service dispatcher ({error.code().name})"
            raise UsageError(
                f"{name} ({address}): {reason}; start one with python -m tools.data_service dispatcher, or mend the"
                " address."
            ) from error


def start_dispatcher(port: int, work_dir: str = "", workers: tuple[str, ...] = ()) -> Any:
    """A running dispatcher on `port` (0: any free one); `target` is its address.

    With a `work_dir` it writes a journal, and one started again there goes on where the last one stopped. `workers`
    (HOST:PORT each) are those that static sharding divides the data among.

    Raises:
      UsageError: the port or the directory cannot be used.
    """
    _require_free(port)
    config = tf.data.experimental.service.DispatcherConfig(
        port=port, work_dir=work_dir or None, fault_tolerant_mode=bool(work_dir), worker_addresses=workers or None
    )
    try:
        return tf.data.experimental.service.DispatchServer(config)
    except (RuntimeError, tf.errors.OpError) as error:
        raise UsageError(
            f"a dispatcher cannot start with the work directory {work_dir or '(none)'}: {_line(error)} Choose another."
        ) from error


def start_worker(dispatcher: str, host: str, port: int = 0, timeout: float = 60.0) -> Any:
    """A running worker of the `dispatcher` (grpc://HOST:PORT); trainers reach it as `host` on `port` (0: any free one).

    Raises:
      UsageError: no dispatcher answers within `timeout` seconds, it was told of other workers, or the port is taken.
    """
    _workers(dispatcher, timeout, "--dispatcher")
    if port:
        _require_free(port)
    config = tf.data.experimental.service.WorkerConfig(
        dispatcher_address=dispatcher.removeprefix(PROTOCOL),
        worker_address=f"{host}:{port or '%port%'}",
        data_transfer_address=f"{host}:%dts_port%",
        port=port,
    )
    try:
        return tf.data.experimental.service.WorkerServer(config)
    except (RuntimeError, tf.errors.OpError) as error:
        raise UsageError(f"the dispatcher refuses {host}:{port or '(any port)'}: {_line(error)}") from error


def _require_free(port: int) -> None:
    """gRPC would share a port with whoever listens there already, and each would get some of the calls."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise UsageError(f"port {port} cannot be listened on: {error.strerror}; choose another.") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
