"""Processes of MultiWorkerMirroredStrategy on the loopback address: equal weights, every row once, and their ends."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess

import numpy as np
import pytest
import tensorflow as tf

from evenkeel.models.config import (
    ModelConfig,
    OptimizerConfig,
    StrategyConfig,
    TrainConfig,
    to_dict,
)
from evenkeel.models.training.checkpoints import steps
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import Dataset
from tests import forked
from tests.models.networks import test_factory

ROOT = pathlib.Path(__file__).parents[3]
EPOCHS = 2


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextlib.contextmanager
def cluster(commands: list[list[str]], logs: pathlib.Path) -> Iterator[list[BaseProcess]]:
    """A worker for each of `commands`; what it says stands in INDEX.log."""
    ports, processes = free_ports(len(commands)), []
    logs.mkdir(parents=True, exist_ok=True)
    for index, command in enumerate(commands):
        workers = {"cluster": {"worker": [f"localhost:{port}" for port in ports]}}
        task = json.dumps({**workers, "task": {"type": "worker", "index": index}})
        with open(logs / f"{index}.log", "w") as log:
            processes.append(forked.start(*command, out=log, TF_CONFIG=task))
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def ended_with(process: BaseProcess, timeout: int) -> int | None:
    """The exit code; None where it goes on."""
    process.join(timeout)
    return process.exitcode


def small_config(small: DataConfig, **changes) -> TrainConfig:
    config = TrainConfig(
        epochs=EPOCHS,
        precision="float32",
        histograms_every=0,
        data=dataclasses.replace(small, augment=AugmentConfig(flip=0.5)),
        model=ModelConfig(name=f"{test_factory.FILE}:dropping"),
        optimizer=OptimizerConfig(learning_rate=0.05),
        strategy=StrategyConfig(name="multiworker"),
    )
    return dataclasses.replace(config, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "batch"), [(3, 21)])
def test_workers_end_with_equal_weights_and_see_every_row_once(
    workers: int, batch: int, small: DataConfig, data: Dataset, tmp_path: pathlib.Path
) -> None:
    config = small_config(dataclasses.replace(small, batch_size=batch))
    arguments = [json.dumps(to_dict(config)), str(tmp_path / "run")]
    commands = [["tests.worker", *arguments, str(tmp_path / f"{index}.npz")] for index in range(workers)]
    with cluster(commands, tmp_path) as processes:
        for index, process in enumerate(processes):
            assert ended_with(process, timeout=240) == 0, (tmp_path / f"{index}.log").read_text()[-3000:]

    ends = [np.load(tmp_path / f"{index}.npz") for index in range(workers)]
    size, in_epoch = len(data.train), round(len(data.train) / batch)
    assert [int(end["steps"]) for end in ends] == [in_epoch * EPOCHS] * workers
    weights = [name for name in ends[0].files if name.startswith("arr_")]
    assert len(weights) > 10
    for end in ends[1:]:
        for name in weights:
            np.testing.assert_array_equal(ends[0][name], end[name])
    # Only what was trained on counts: the input runs ahead, and the picture of the first batch reads it once more.
    trained = in_epoch * EPOCHS * batch
    seen: list[dict[int, int]] = [dict(zip(end["positions"], end["rows"], strict=True)) for end in ends]
    own = [{p: row for p, row in of.items() if p < trained} for of in seen]
    assert [len(of) for of in own] == [trained // workers] * workers
    for first in range(0, trained - size + 1, size):  # a pass; the last one may end in the middle
        rows = [row for of in own for p, row in of.items() if first <= p < first + size]
        assert sorted(rows) == list(range(size))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert summary["final"]["accuracy"] > 0


# Their ends.

FLAGS = [
    "--strategy.name=multiworker",
    "--deterministic",
    "--data.shapes.count=200",
    "--data.shapes.size=16",
    "--data.image_size=16",
    "--data.batch_size=20",
    "--data.augment.flip=0.5",
    f"--model.name={test_factory.FILE}:dropping",
    "--precision=float32",
    "--histograms_every=0",
    "--steps_per_execution=5",
    "--optimizer.learning_rate=0.05",
    "--checkpoint.every_steps=5",
    "--checkpoint.keep=100",
    "--preflight=off",
]


def trains(model_dir: pathlib.Path, epochs: int, *more: str) -> list[list[str]]:
    """The commands of two workers."""
    return [["tools.train", *FLAGS, f"--model_dir={model_dir}", f"--epochs={epochs}", *more]] * 2


def comes_to(model_dir: pathlib.Path, step: int, process: BaseProcess) -> None:
    """Waits for a checkpoint of that step or a later one."""
    begun = time.monotonic()
    while max(steps(str(model_dir / "checkpoints")), default=0) < step:
        assert process.exitcode is None, "it has ended before"
        assert time.monotonic() < begun + 180, "it has not come so far"
        time.sleep(0.1)


def variables(model_dir: pathlib.Path) -> dict[str, np.ndarray]:
    """Of the newest checkpoint."""
    newest = max(steps(str(model_dir / "checkpoints")))
    reader = tf.train.load_checkpoint(str(model_dir / "checkpoints" / f"step-{newest:08d}" / "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    return {name: reader.get_tensor(name) for name in names}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of 4 epochs, 40 steps, that nothing happens to."""
    directory = tmp_path_factory.mktemp("straight")
    with cluster(trains(directory / "run", 4), directory) as processes:
        for index, process in enumerate(processes):
            assert ended_with(process, timeout=240) == 0, (directory / f"{index}.log").read_text()[-3000:]
    return directory / "run"


def goes_on_as(straight: pathlib.Path, run: pathlib.Path, logs: pathlib.Path) -> None:
    with cluster(trains(run, 4, "--resume"), logs) as processes:
        for index, process in enumerate(processes):
            assert ended_with(process, timeout=240) == 0, (logs / f"{index}.log").read_text()[-3000:]
    expected, found = variables(straight), variables(run)
    assert len(expected) > 20
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1], ids=["the chief", "another"])
def test_where_a_worker_is_killed_the_others_end_and_the_cluster_goes_on(
    killed: int, straight: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "run"
    with cluster(trains(run, 4), tmp_path) as processes:
        comes_to(run, 15, processes[0])
        processes[killed].kill()
        left = 1 - killed
        assert ended_with(processes[left], timeout=60) == 75, (tmp_path / f"{left}.log").read_text()[-3000:]
    said = (tmp_path / f"{left}.log").read_text()
    assert "error: another worker is gone" in said
    assert "start all again with --resume; they go on from" in said
    assert "Traceback" not in said
    if not killed:
        goes_on_as(straight, run, tmp_path / "again")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_that_one_worker_gets_stops_all_after_the_same_call(
    number: signal.Signals, code: int, straight: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = tmp_path / "run"
    with cluster(trains(run, 4), tmp_path) as processes:
        comes_to(run, 15, processes[0])
        os.kill(processes[1].pid, number)
        for index, process in enumerate(processes):
            assert ended_with(process, timeout=60) == code, (tmp_path / f"{index}.log").read_text()[-3000:]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["signal"]) == ("preempted", number.name)
    assert summary["steps"] == max(steps(str(run / "checkpoints")))
    if number == signal.SIGTERM:
        goes_on_as(straight, run, tmp_path / "again")


@pytest.mark.slow
def test_bad_input_of_the_chief_ends_all_in_one_line(straight: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with cluster(trains(straight, 4), tmp_path) as processes:  # it holds this run already
        for index, process in enumerate(processes):
            assert ended_with(process, timeout=90) == 2, (tmp_path / f"{index}.log").read_text()[-3000:]
    assert "holds this run already" in (tmp_path / "0.log").read_text()
    said = (tmp_path / "1.log").read_text()
    assert said.splitlines()[-1] == "error: 1 of 2 workers cannot start: look at what they say."
    assert "Traceback" not in said


@pytest.mark.slow
def test_flags_that_differ_end_all_in_one_line(tmp_path: pathlib.Path) -> None:
    ours, others = trains(tmp_path / "run", 4)
    with cluster([ours, [*others, "--seed=1"]], tmp_path) as processes:
        for index, process in enumerate(processes):
            assert ended_with(process, timeout=90) == 2, (tmp_path / f"{index}.log").read_text()[-3000:]
    for index in range(2):
        last = (tmp_path / f"{index}.log").read_text().splitlines()[-1]
        assert last.startswith("error: the workers were started with different flags (--resume is one of them)")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_chief_ends_all_alike(tmp_path: pathlib.Path) -> None:
    """In the place of a full disk: a file where the directory of checkpoints was."""
    run = tmp_path / "run"
    with cluster(trains(run, 6), tmp_path) as processes:
        comes_to(run, 10, processes[0])
        (run / "checkpoints").rename(tmp_path / "aside")
        (run / "checkpoints").write_text("")
        for index, process in enumerate(processes):
            assert ended_with(process, timeout=120) == 3, (tmp_path / f"{index}.log").read_text()[-3000:]
    assert "a checkpoint could not be written under" in (tmp_path / "0.log").read_text()
    assert "error: the last checkpoint could not be written" in (tmp_path / "0.log").read_text()
    said = (tmp_path / "1.log").read_text()
    assert "error: the last checkpoint could not be written (by another worker: look at what it says)" in said


@pytest.mark.slow
def test_launch_starts_a_cluster_and_says_how_to_elsewhere(tmp_path: pathlib.Path) -> None:
    own = [flag for flag in FLAGS if not flag.startswith("--strategy")]
    command = [sys.executable, "-m", "tools.launch", "--workers=2", *own, f"--model_dir={tmp_path / 'run'}"]
    done = subprocess.run([*command, "--epochs=1"], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"cluster": {"worker": ["host0:2222", "host1:2222"]}' in done.stdout
    assert "-m tools.train" in done.stdout
    for index in range(2):
        assert f"worker {index} | completed after 1.0 epochs, 10 steps" in done.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workers=0", "--model_dir=runs/x"], "--workers (0) must be 1 or more"),
        (["--workers=2"], "--model_dir is missing"),
        (["--strategy.name=mirrored", "--model_dir=runs/x"], "must be left out: a cluster's is multiworker"),
        (["--epochs=-1", "--model_dir=runs/x"], "epochs (-1)"),
        (["--epoch=1", "--model_dir=runs/x"], "Unknown command line flag 'epoch'"),
    ],
)
def test_launch_refuses_before_anything_starts(flags: list[str], words: str) -> None:
    done = forked.run("tools.launch", *flags)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
