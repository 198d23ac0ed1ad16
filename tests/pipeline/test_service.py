"""Batches made by other processes, on the loopback address: which ones come, and what outlives whom."""

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
from evenkeel.pipeline import service
from evenkeel.pipeline.build import training_batches
from evenkeel.pipeline.config import AugmentConfig, DataConfig, ShapesConfig
from evenkeel.pipeline.dataset import Dataset, load_dataset
from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.index.shuffle import ReplicaShard
from evenkeel.pipeline.reading import byte_source, reader
from tests import forked
from tests.models.distribute.test_multiworker import free_ports

COUNT, BATCH = 240, 20
IN_FLIGHT = 24  # batches that a worker may have begun, or dealt out before the others
EPOCH = COUNT // BATCH
Batch = tuple[np.ndarray, np.ndarray]


class Process:
    """A process of tools.data_service that has said that it is ready."""

    def __init__(self, role: str, *flags: str) -> None:
        reading, writing = os.pipe()
        self._out, self._err = open(reading), tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the process)
        with open(writing, "w") as out:
            arguments = (role, "--host=localhost", *flags)
            self._process = forked.start("tools.data_service", *arguments, out=out, err=self._err)
        self.role = role

    def ready(self) -> str:
        """The line that says so; starting takes seconds, so start several and then ask."""
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
    """A dispatcher with a journal, on a port that stays, and its workers."""

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
        self.dispatcher.ready()

    def close(self) -> None:
        for process in self.processes:
            process.end(signal.SIGKILL)


@pytest.fixture
def cluster(tmp_path: pathlib.Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "journal")
    yield made
    made.close()


@pytest.fixture(scope="module")
def local() -> DataConfig:
    """Every augmentation that compiles a function of its own, and some that do not."""
    augment = AugmentConfig(random_resized_crop=0.5, flip=0.5, rotation=20, hue=0.1, equalize=0.5, noise=5, cutout=0.3)
    shapes = ShapesConfig(size=16, count=COUNT)
    return DataConfig(image_size=16, batch_size=BATCH, shapes=shapes, augment=augment, service_timeout=60)


@pytest.fixture(scope="module")
def data(local: DataConfig) -> Dataset:
    return load_dataset(local)


def key(batch: Batch) -> bytes:
    return batch[0].tobytes() + batch[1].tobytes()


def made_here(data: Dataset, config: DataConfig, steps: int, start_step: int = 0) -> dict[bytes, int]:
    """{a batch: its step}, out of mapped memory in this process."""
    ds = training_batches(data, dataclasses.replace(config, service=""), 0, ReplicaShard(BATCH), start_step)
    return {key(batch): start_step + step for step, batch in enumerate(ds.take(steps).as_numpy_iterator())}


def steps_of(batches: Iterator[Batch], known: dict[bytes, int], count: int) -> list[int]:
    return [known[key(next(batches))] for _ in range(count)]


def served(data: Dataset, config: DataConfig, cluster: Cluster, start_step: int = 0, **changes: str) -> Iterator[Batch]:
    config = dataclasses.replace(config, service=cluster.address, **changes)
    return training_batches(data, config, 0, ReplicaShard(BATCH), start_step).as_numpy_iterator()


@pytest.mark.slow
def test_two_workers_make_the_very_batches_of_one_process_each_once(
    local: DataConfig, data: Dataset, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels, labels and random numbers: so every example comes exactly once an epoch, as it does there."""
    for worker in (cluster.worker(), cluster.worker()):
        worker.ready()
    known = made_here(data, local, 5 * EPOCH)
    assert len(known) == 5 * EPOCH
    monkeypatch.setattr(reader, "FOREVER", 4 * EPOCH)
    steps = [known[key(batch)] for batch in served(data, local, cluster, start_step=EPOCH)]
    assert sorted(steps) == list(range(EPOCH, 4 * EPOCH))
    for process in cluster.processes[1:]:
        assert process.end(signal.SIGTERM) == 0
    assert cluster.dispatcher.end(signal.SIGINT) == 130


@pytest.mark.slow
def test_three_trainers_get_the_batches_of_their_own_shares_each_once(
    local: DataConfig, data: Dataset, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which are the parts of each global batch: every example comes exactly once a pass, to one of them."""
    for worker in (cluster.worker(), cluster.worker()):
        worker.ready()
    config, steps, size = dataclasses.replace(local, batch_size=21), 2 * COUNT // 21, 7
    monkeypatch.setattr(reader, "FOREVER", steps)
    shares = [ReplicaShard(21, replicas=3, first_replica=place) for place in range(3)]
    remote = dataclasses.replace(config, service=cluster.address)
    reading = [training_batches(data, remote, 0, share).as_numpy_iterator() for share in shares]
    for share, batches in zip(shares, reading, strict=True):
        here = list(training_batches(data, config, 0, share).take(steps).as_numpy_iterator())
        assert {len(labels) for _, labels in here} == {size}
        known = {key(batch): step for step, batch in enumerate(here)}
        assert len(known) == steps
        assert sorted(known[key(batch)] for batch in batches) == list(range(steps))


@pytest.mark.slow
def test_a_killed_worker_costs_what_it_had_begun_and_one_that_joins_takes_over(
    local: DataConfig, data: Dataset, cluster: Cluster
) -> None:
    dying, staying = cluster.worker(), cluster.worker()
    dying.ready()
    staying.ready()
    known = made_here(data, local, 40 * EPOCH)
    batches = served(data, local, cluster)
    steps = steps_of(batches, known, 2 * EPOCH)
    dying.end(signal.SIGKILL)
    steps += steps_of(batches, known, 6 * EPOCH)
    joined = cluster.worker()
    joined.ready()
    steps += steps_of(batches, known, 2 * EPOCH)
    staying.end(signal.SIGKILL)
    steps += steps_of(batches, known, 6 * EPOCH)  # all but what lay ready is the third one's
    assert len(set(steps)) == len(steps)  # at most once
    assert max(steps) < len(steps) + 3 * IN_FLIGHT


@pytest.mark.slow
def test_training_goes_on_when_a_worker_is_killed(
    local: DataConfig, cluster: Cluster, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying, staying = cluster.worker(), cluster.worker()
    dying.ready()
    staying.ready()
    killed = []

    class Killing(callbacks.Checkpointer):
        """After the first of four epochs."""

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                killed.append(dying.end(signal.SIGKILL))
            super().on_epoch_end(epoch, logs)

    monkeypatch.setattr(callbacks, "Checkpointer", Killing)
    config = dataclasses.replace(local, service=cluster.address, augment=AugmentConfig(flip=0.5))
    run = TrainConfig(epochs=4, data=config, model=ModelConfig(name="cnn", width=4), histograms_every=0)
    summary = training.train(run, str(tmp_path / "run"))
    assert killed == [-signal.SIGKILL]
    assert (summary["status"], summary["steps"]) == ("completed", 4 * EPOCH)


@pytest.mark.slow
def test_a_worker_that_cannot_open_the_shards_is_a_line(
    local: DataConfig, cluster: Cluster, tmp_path: pathlib.Path
) -> None:
    cluster.worker().ready()
    config = dataclasses.replace(local, shapes=ShapesConfig(size=16, count=40), service=cluster.address)
    found = load_dataset(config)
    gone = dataclasses.replace(found.train, shards=tuple(f"{path}.gone" for path in found.train.shards))
    with pytest.raises(
        UsageError, match=r"^data\.service \(grpc://localhost:[0-9]+\): .*\.gone; No such file.* paths as"
    ):
        training.first_images(TrainConfig(data=config), dataclasses.replace(found, train=gone), ReplicaShard(BATCH))


@pytest.mark.slow
def test_a_dispatcher_started_again_goes_on_and_loses_no_more_than_an_answer(
    local: DataConfig, data: Dataset, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.worker().ready()
    known = made_here(data, local, 20 * EPOCH)
    monkeypatch.setattr(reader, "FOREVER", 20 * EPOCH)
    batches = served(data, local, cluster)
    steps = steps_of(batches, known, EPOCH)
    cluster.restart_dispatcher()
    steps += [known[key(batch)] for batch in batches]
    assert len(set(steps)) == len(steps)
    # The worker has one question on its way: what was written to the journal but not answered, no one gets.
    assert len(set(range(20 * EPOCH)) - set(steps)) <= 1


@pytest.mark.slow
def test_static_parts_are_one_whole(
    local: DataConfig, data: Dataset, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = free_ports(2)
    cluster = Cluster(tmp_path / "journal", f"--workers={','.join(f'localhost:{port}' for port in ports)}")
    try:
        for worker in [cluster.worker(f"--port={port}") for port in ports]:
            worker.ready()
        known = made_here(data, local, 2 * EPOCH)
        monkeypatch.setattr(reader, "FOREVER", 2 * EPOCH)
        steps = [known[key(batch)] for batch in served(data, local, cluster, service_sharding="static")]
        assert sorted(steps) == list(range(2 * EPOCH))
        stranger = cluster.worker()
        with pytest.raises(
            AssertionError, match=r"^error: the dispatcher refuses localhost:\(any port\): .* is not configured[^\n]*$"
        ):
            stranger.ready()
    finally:
        cluster.close()


@pytest.mark.slow
def test_off_each_worker_deals_out_every_image_in_an_order_of_its_own(
    local: DataConfig, data: Dataset, cluster: Cluster
) -> None:
    for worker in (cluster.worker(), cluster.worker()):
        worker.ready()
    batches = served(data, local, cluster, service_sharding="off")
    drawn = [next(batches) for _ in range(6 * EPOCH)]
    assert len({key(batch) for batch in drawn}) == 6 * EPOCH
    labels = np.concatenate([labels for _, labels in drawn])
    assert np.bincount(labels).min() > 0
    assert not {key(batch) for batch in drawn} & made_here(data, local, 6 * EPOCH).keys()


def test_off_every_pass_from_the_random_start_on_is_whole(local: DataConfig, data: Dataset) -> None:
    config = dataclasses.replace(local, service="grpc://localhost:1", service_sharding="off")
    starts = []
    for _ in range(2):
        ds, _ = reader.training_reader(config, data.train, 0, ReplicaShard(COUNT), start_step=0)
        (element, rows, images), *_ = ds.take(1).as_numpy_iterator()
        starts.append(int(element))
        assert sorted(rows.tolist()) == list(range(COUNT))
        assert all(image[:3] == b"\xff\xd8\xff" for image in images)
    assert starts[0] != starts[1]


def test_stored_images_are_those_of_the_mapping(data: Dataset) -> None:
    rows = tf.constant(np.random.default_rng(0).permutation(COUNT))
    mapped = byte_source.mapped(data.train)
    expected = [mapped.encoded(row).numpy() for row in rows]
    assert list(reader.stored_images(data.train)(rows).as_numpy_iterator()) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"service": "localhost:5050"}, r"^data\.service \(localhost:5050\) must be written grpc://HOST:PORT"),
        ({"service": "grpc://localhost"}, r"must be written grpc://HOST:PORT"),
        ({"service": "grpc://a:1", "reader": "mapped"}, r"^data\.reader=mapped cannot go with data\.service"),
        ({"service": "grpc://a:1", "cache": "memory"}, r"^data\.cache=memory cannot go with data\.service"),
        ({"service_sharding": "file"}, r"^data\.service_sharding \('file'\) must be one of dynamic, static, off"),
        ({"service_timeout": 0}, r"^data\.service_timeout \(0\) must be positive"),
    ],
)
def test_what_cannot_be_is_refused_up_front(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DataConfig(**changes)


def test_a_run_that_must_repeat_to_the_bit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^deterministic cannot go with data\.service \(grpc://a:1\): "):
        TrainConfig(deterministic=True, data=DataConfig(service="grpc://a:1"))


def test_no_dispatcher_is_a_line_and_not_a_hang(local: DataConfig, data: Dataset) -> None:
    (port,) = free_ports(1)
    config = dataclasses.replace(local, service=f"grpc://localhost:{port}", service_timeout=0.3)
    with pytest.raises(UsageError) as raised:
        training_batches(data, config, 0, ReplicaShard(BATCH))
    assert str(raised.value) == (
        f"data.service (grpc://localhost:{port}): no dispatcher answers within 0.3 s; start one with"
        " python -m tools.data_service dispatcher, or mend the address."
    )


def test_what_is_no_dispatcher_is_a_line_and_not_a_hang() -> None:
    with socket.create_server(("localhost", 0)) as silent:
        config = DataConfig(service=f"grpc://localhost:{silent.getsockname()[1]}", service_timeout=0.3)
        with pytest.raises(UsageError, match=r"no dispatcher answers within 0\.3 s"):
            service.wait_for_workers(config)


def test_a_dispatcher_without_workers_is_a_line_and_not_a_hang() -> None:
    dispatcher = service.start_dispatcher(0)
    config = DataConfig(service=dispatcher.target, service_timeout=0.3)
    with pytest.raises(UsageError, match=r"has no worker after 0\.3 s: start one with python -m tools\.data_service"):
        service.wait_for_workers(config)
    with pytest.raises(UsageError, match=r"^port [0-9]+ cannot be listened on: Address already in use"):
        service.start_dispatcher(int(dispatcher.target.rpartition(":")[2]))
    dispatcher.stop()
    with pytest.raises(UsageError, match=r"^--dispatcher \(.*\): no dispatcher answers within 0\.3 s"):
        service.start_worker(dispatcher.target, "localhost", timeout=0.3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say first what to run, dispatcher or worker"),
        (["--port=1"], "say first what to run, dispatcher or worker"),
        (["worker"], "--dispatcher is missing"),
        (["worker", "--dispatcher=here:1"], "--dispatcher (here:1) must be written grpc://HOST:PORT"),
        (["dispatcher", "--port=70000"], "--port (70000) must lie in 0 to 65535"),
        (["dispatcher", "worker"], "unexpected argument 'worker'"),
    ],
)
def test_bad_flags_are_one_line(arguments: list[str], words: str) -> None:
    done = forked.run("tools.data_service", *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert words in line
