"""Batches from service workers on the loopback address: which batches arrive, and what survives a failure."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import signal
import socket
import tempfile
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.models import callbacks
from evenkeel.models import train as training
from evenkeel.models.config import ModelConfig, TrainConfig
from evenkeel.models.training.batches import load_first_images
from evenkeel.pipeline import service
from evenkeel.pipeline.build import training_batches, training_chain
from evenkeel.pipeline.config import AugmentConfig, DataConfig, ShapesConfig
from evenkeel.pipeline.dataset import Dataset, load_dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.replica_shard import ReplicaShard
from evenkeel.pipeline.reading import byte_source, reader
from tests import factories, forked
from tests.command_line import free_ports

COUNT, BATCH = 240, 20
IN_FLIGHT = 24  # batches that a worker may have begun, or delivered before the others
EPOCH = COUNT // BATCH
Batch = tuple[np.ndarray, np.ndarray]


class Process:
    """A process of `evenkeel data-service`."""

    def __init__(self, role: str, *flags: str) -> None:
        reading, writing = os.pipe()
        self._out, self._err = open(reading), tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the process)
        with open(writing, "w") as out:
            arguments = (role, "--host=localhost", *flags)
            self._process = forked.start("tools.data_service", *arguments, out=out, err=self._err)
        self.role = role

    def wait_until_ready(self) -> str:
        """Returns the line that reports readiness. Starting takes seconds: start several processes, then wait."""
        line = self._out.readline().strip()
        if not line.startswith(f"{self.role} ready: "):
            self._process.join(60)
            self._err.seek(0)
            raise AssertionError(self._err.read().strip())
        return line

    def end(self, number: int) -> int | None:
        if self._process.is_alive():
            os.kill(self._process.pid, number)
        self._process.join(60)
        return self._process.exitcode


class Cluster:
    """A dispatcher with a journal, on a fixed port, and its workers."""

    def __init__(self, directory: pathlib.Path, *flags: str) -> None:
        (self.port,) = free_ports(1)
        self._flags = (f"--port={self.port}", f"--work_dir={directory}", *flags)
        self.address = f"grpc://localhost:{self.port}"
        self.processes: list[Process] = []
        self.dispatcher = self.start("dispatcher", *self._flags)

    def start(self, role: str, *flags: str) -> Process:
        self.processes.append(Process(role, *flags))
        return self.processes[-1]

    def worker(self, *flags: str) -> Process:
        return self.start("worker", f"--dispatcher={self.address}", *flags)

    def restart_dispatcher(self) -> None:
        self.dispatcher.end(signal.SIGKILL)
        self.dispatcher = self.start("dispatcher", *self._flags)
        self.dispatcher.wait_until_ready()

    def close(self) -> None:
        for process in self.processes:
            process.end(signal.SIGKILL)


@pytest.fixture
def cluster(tmp_path: pathlib.Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "journal")
    yield cluster
    cluster.close()


# Every augmentation that compiles its own function, and some that do not.
MANY = AugmentConfig(random_resized_crop=0.5, flip=0.5, rotation=20, hue=0.1, equalize=0.5, noise=5, cutout=0.3)


@pytest.fixture(scope="module")
def local() -> DataConfig:
    """A config with the augmentations of few operations, for which no batch equals another one."""
    augment = AugmentConfig(random_resized_crop=0.5, flip=0.5)
    shapes = ShapesConfig(size=16, count=COUNT)
    return DataConfig(image_size=16, batch_size=BATCH, shapes=shapes, augment=augment, service_timeout=60)


@pytest.fixture(scope="module")
def data(local: DataConfig) -> Dataset:
    return load_dataset(local)


@pytest.fixture(scope="module")
def known(local: DataConfig, data: Dataset) -> dict[bytes, int]:
    """{batch: its step} of 40 epochs that this process makes."""
    known = local_batches(data, local, 40 * EPOCH)
    assert len(known) == 40 * EPOCH
    return known


def key(batch: Batch) -> bytes:
    return batch[0].tobytes() + batch[1].tobytes()


def local_batches(data: Dataset, config: DataConfig, steps: int, start_step: int = 0) -> dict[bytes, int]:
    """{batch: its step} of the batches that this process makes from mapped memory."""
    ds = training_batches(data, dataclasses.replace(config, service=""), 0, ReplicaShard(BATCH), start_step)
    return {key(batch): start_step + step for step, batch in enumerate(ds.take(steps).as_numpy_iterator())}


def steps_of(batches: Iterator[Batch], known: dict[bytes, int], count: int) -> list[int]:
    return [known[key(next(batches))] for _ in range(count)]


def served_batches(
    data: Dataset, config: DataConfig, cluster: Cluster, start_step: int = 0, **changes: str
) -> Iterator[Batch]:
    config = dataclasses.replace(config, service=cluster.address, **changes)
    return training_batches(data, config, 0, ReplicaShard(BATCH), start_step).as_numpy_iterator()


@pytest.mark.slow
def test_two_workers_make_each_batch_of_one_process_exactly_once(
    local: DataConfig, data: Dataset, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels, labels and random numbers are equal, so every image comes exactly once per epoch."""
    for worker in (cluster.worker(), cluster.worker()):
        worker.wait_until_ready()
    config = dataclasses.replace(local, augment=MANY)
    known = local_batches(data, config, 5 * EPOCH)
    assert len(known) == 5 * EPOCH
    monkeypatch.setattr(reader, "ENDLESS_BATCHES", 4 * EPOCH)
    steps = [known[key(batch)] for batch in served_batches(data, config, cluster, start_step=EPOCH)]
    assert sorted(steps) == list(range(EPOCH, 4 * EPOCH))
    for process in cluster.processes[1:]:
        assert process.end(signal.SIGTERM) == 0
    assert cluster.dispatcher.end(signal.SIGINT) == 130


@pytest.mark.slow
def test_three_trainers_get_each_batch_of_their_own_shards_once(
    local: DataConfig, data: Dataset, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their shards make up each global batch: every image comes exactly once per epoch, to one of the trainers."""
    for worker in (cluster.worker(), cluster.worker()):
        worker.wait_until_ready()
    config, steps, size = dataclasses.replace(local, batch_size=21), 2 * COUNT // 21, 7
    monkeypatch.setattr(reader, "ENDLESS_BATCHES", steps)
    replica_shards = [ReplicaShard(21, replicas=3, first_replica=replica) for replica in range(3)]
    remote = dataclasses.replace(config, service=cluster.address)
    iterators = [
        training_batches(data, remote, 0, replica_shard).as_numpy_iterator() for replica_shard in replica_shards
    ]
    for replica_shard, batches in zip(replica_shards, iterators, strict=True):
        here = list(training_batches(data, config, 0, replica_shard).take(steps).as_numpy_iterator())
        assert {len(labels) for _, labels in here} == {size}
        known = {key(batch): step for step, batch in enumerate(here)}
        assert len(known) == steps
        assert sorted(known[key(batch)] for batch in batches) == list(range(steps))


@pytest.mark.slow
def test_a_killed_worker_loses_only_its_started_batches_and_a_new_worker_takes_over(
    local: DataConfig, data: Dataset, known: dict[bytes, int], cluster: Cluster
) -> None:
    dying, staying = cluster.worker(), cluster.worker()
    dying.wait_until_ready()
    staying.wait_until_ready()
    batches = served_batches(data, local, cluster)
    steps = steps_of(batches, known, 2 * EPOCH)
    dying.end(signal.SIGKILL)
    steps += steps_of(batches, known, 6 * EPOCH)
    joined = cluster.worker()
    joined.wait_until_ready()
    steps += steps_of(batches, known, 2 * EPOCH)
    staying.end(signal.SIGKILL)
    steps += steps_of(batches, known, 6 * EPOCH)  # after the batches that were ready, all are from the third worker
    assert len(set(steps)) == len(steps)  # at most once
    assert max(steps) < len(steps) + 3 * IN_FLIGHT


@pytest.mark.slow
def test_training_continues_when_a_worker_is_killed(
    local: DataConfig, cluster: Cluster, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying, staying = cluster.worker(), cluster.worker()
    dying.wait_until_ready()
    staying.wait_until_ready()
    killed = []

    class Killing(callbacks.Checkpointer):
        """Kills a worker after the first of four epochs."""

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                killed.append(dying.end(signal.SIGKILL))
            super().on_epoch_end(epoch, logs)

    monkeypatch.setattr(callbacks, "Checkpointer", Killing)
    config = dataclasses.replace(local, service=cluster.address, augment=AugmentConfig(flip=0.5))
    run = TrainConfig(
        epochs=4, data=config, model=ModelConfig(name=f"{factories.FILE}:plain"), histograms_every=0, preflight="off"
    )
    summary = training.train(run, str(tmp_path / "run"))
    assert killed == [-signal.SIGKILL]
    assert (summary["status"], summary["steps"]) == ("completed", 4 * EPOCH)


@pytest.mark.slow
def test_a_worker_that_cannot_open_the_shards_is_one_error_line(
    local: DataConfig, cluster: Cluster, tmp_path: pathlib.Path
) -> None:
    cluster.worker().wait_until_ready()
    config = dataclasses.replace(local, shapes=ShapesConfig(size=16, count=40), service=cluster.address)
    loaded = load_dataset(config)
    moved = dataclasses.replace(loaded.train, shards=tuple(f"{path}.gone" for path in loaded.train.shards))
    batches = training_batches(dataclasses.replace(loaded, train=moved), config, 0, ReplicaShard(BATCH))
    with pytest.raises(
        UsageError, match=r"^data\.service \(grpc://localhost:[0-9]+\): .*\.gone; No such file.* paths as"
    ):
        load_first_images(batches, config)


@pytest.mark.slow
def test_a_restarted_dispatcher_continues_and_loses_at_most_one_batch(
    local: DataConfig, data: Dataset, known: dict[bytes, int], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.worker().wait_until_ready()
    monkeypatch.setattr(reader, "ENDLESS_BATCHES", 20 * EPOCH)
    batches = served_batches(data, local, cluster)
    steps = steps_of(batches, known, EPOCH)
    cluster.restart_dispatcher()
    steps += [known[key(batch)] for batch in batches]
    assert len(set(steps)) == len(steps)
    # The worker had one request in flight: a batch number that is in the journal but was not sent is lost.
    assert len(set(range(20 * EPOCH)) - set(steps)) <= 1


@pytest.mark.slow
def test_static_parts_make_up_the_whole_data_set(
    local: DataConfig,
    data: Dataset,
    known: dict[bytes, int],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ports = free_ports(2)
    cluster = Cluster(tmp_path / "journal", f"--workers={','.join(f'localhost:{port}' for port in ports)}")
    try:
        for worker in [cluster.worker(f"--port={port}") for port in ports]:
            worker.wait_until_ready()
        monkeypatch.setattr(reader, "ENDLESS_BATCHES", 2 * EPOCH)
        steps = [known[key(batch)] for batch in served_batches(data, local, cluster, service_sharding="static")]
        assert sorted(steps) == list(range(2 * EPOCH))
        unlisted = cluster.worker()
        with pytest.raises(
            AssertionError,
            match=r"^error: the dispatcher cannot register worker localhost:\(any port\): .* is not configured[^\n]*$",
        ):
            unlisted.wait_until_ready()
    finally:
        cluster.close()


@pytest.mark.slow
def test_without_sharding_each_worker_gives_all_images_in_its_own_order(
    local: DataConfig, data: Dataset, known: dict[bytes, int], cluster: Cluster
) -> None:
    for worker in (cluster.worker(), cluster.worker()):
        worker.wait_until_ready()
    batches = served_batches(data, local, cluster, service_sharding="off")
    drawn = [next(batches) for _ in range(6 * EPOCH)]
    assert len({key(batch) for batch in drawn}) == 6 * EPOCH
    labels = np.concatenate([labels for _, labels in drawn])
    assert np.bincount(labels).min() > 0
    assert not {key(batch) for batch in drawn} & known.keys()


@pytest.mark.slow
def test_without_sharding_every_epoch_from_the_random_start_on_is_complete(local: DataConfig, data: Dataset) -> None:
    config = dataclasses.replace(local, service="grpc://localhost:1", service_sharding="off")
    starts = []
    for _ in range(2):
        chain = training_chain(data.train, config, 0, ReplicaShard(COUNT))
        (batch_number, rows, images), *_ = chain.read.take(1).as_numpy_iterator()
        starts.append(int(batch_number))
        assert sorted(rows.tolist()) == list(range(COUNT))
        assert all(image[:3] == b"\xff\xd8\xff" for image in images)
    assert starts[0] != starts[1]


def test_the_record_reader_reads_the_same_images_as_mapped_memory(data: Dataset) -> None:
    rows = tf.constant(np.random.default_rng(0).permutation(COUNT))
    mapped = byte_source.mapped_source(data.train)
    expected = [mapped.read_bytes(row).numpy() for row in rows]
    assert list(reader.make_record_reader(data.train)(rows).as_numpy_iterator()) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"service": "localhost:5050"}, r"^data\.service \(localhost:5050\) must be written grpc://HOST:PORT"),
        ({"service": "grpc://localhost"}, r"must be written grpc://HOST:PORT"),
        ({"service": "grpc://a:1", "reader": "mapped"}, r"^data\.reader=mapped cannot be combined with data\.service"),
        ({"service": "grpc://a:1", "cache": "memory"}, r"^data\.cache=memory cannot be combined with data\.service"),
        ({"service_sharding": "file"}, r"^data\.service_sharding \('file'\) must be one of dynamic, static, off"),
        ({"service_timeout": 0}, r"^data\.service_timeout \(0\) must be positive"),
    ],
)
def test_impossible_combinations_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DataConfig(**changes)


def test_a_deterministic_run_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^deterministic cannot go with data\.service \(grpc://a:1\): "):
        TrainConfig(deterministic=True, data=DataConfig(service="grpc://a:1"))


def test_a_missing_dispatcher_is_one_error_line_and_no_hang(local: DataConfig, data: Dataset) -> None:
    (port,) = free_ports(1)
    config = dataclasses.replace(local, service=f"grpc://localhost:{port}", service_timeout=0.3)
    with pytest.raises(UsageError) as raised:
        training_batches(data, config, 0, ReplicaShard(BATCH))
    assert str(raised.value) == (
        f"data.service (grpc://localhost:{port}): no dispatcher answers within 0.3 s; start a dispatcher with"
        " evenkeel data-service dispatcher, or correct the address."
    )


def test_another_server_is_one_error_line_and_no_hang() -> None:
    with socket.create_server(("localhost", 0)) as silent:
        config = DataConfig(service=f"grpc://localhost:{silent.getsockname()[1]}", service_timeout=0.3)
        with pytest.raises(UsageError, match=r"no dispatcher answers within 0\.3 s"):
            service.wait_for_workers(config)


def test_a_dispatcher_without_workers_is_one_error_line_and_no_hang() -> None:
    dispatcher = service.start_dispatcher(0)
    config = DataConfig(service=dispatcher.target, service_timeout=0.3)
    with pytest.raises(UsageError, match=r"has no worker after 0\.3 s: start one with evenkeel data-service"):
        service.wait_for_workers(config)
    with pytest.raises(UsageError, match=r"^cannot listen on port [0-9]+: Address already in use"):
        service.start_dispatcher(int(dispatcher.target.rpartition(":")[2]))
    dispatcher.stop()
    with pytest.raises(UsageError, match=r"^--dispatcher \(.*\): no dispatcher answers within 0\.3 s"):
        service.start_worker(dispatcher.target, "localhost", timeout=0.3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the first argument must be dispatcher or worker"),
        (["--port=1"], "the first argument must be dispatcher or worker"),
        (["worker"], "--dispatcher is missing"),
        (["worker", "--dispatcher=here:1"], "--dispatcher (here:1) must be written grpc://HOST:PORT"),
        (["dispatcher", "--port=70000"], "--port (70000) must be from 0 to 65535"),
        (["dispatcher", "worker"], "unexpected argument 'worker'"),
    ],
)
def test_bad_flags_are_one_error_line(arguments: list[str], words: str) -> None:
    done = forked.run("tools.data_service", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert words in line
