"""Clusters of MultiWorkerMirroredStrategy on the loopback address: equal weights, every row once, exit codes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
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
from evenkeel.models.run.checkpoints import checkpoint_steps
from evenkeel.pipeline.config import AugmentConfig, DataConfig
from evenkeel.pipeline.dataset import Dataset
from tests import factories, forked
from tests.command_line import free_ports

ROOT = pathlib.Path(__file__).parents[3]
EPOCHS = 2


@contextlib.contextmanager
def cluster(commands: list[list[str]], logs: pathlib.Path) -> Iterator[list[BaseProcess]]:
    """Starts a worker for each of `commands`; its output goes to INDEX.log in `logs`."""
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


def wait_for_exit(process: BaseProcess, timeout: int) -> int | None:
    """The exit code; None if the process still runs after `timeout` seconds."""
    process.join(timeout)
    return process.exitcode


def small_config(small: DataConfig, **changes) -> TrainConfig:
    config = TrainConfig(
        epochs=EPOCHS,
        precision="float32",
        histograms_every=0,
        data=dataclasses.replace(small, augment=AugmentConfig(flip=0.5)),
        model=ModelConfig(name=f"{factories.FILE}:normed"),
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
            assert wait_for_exit(process, timeout=240) == 0, (tmp_path / f"{index}.log").read_text()[-3000:]

    ends = [np.load(tmp_path / f"{index}.npz") for index in range(workers)]
    size, in_epoch = len(data.train), round(len(data.train) / batch)
    assert [int(end["steps"]) for end in ends] == [in_epoch * EPOCHS] * workers
    weights = [name for name in ends[0].files if name.startswith("arr_")]
    assert len(weights) == len(factories.normed((16, 16, 3), 10).trainable_variables)
    for end in ends[1:]:
        for name in weights:
            np.testing.assert_array_equal(ends[0][name], end[name])
    # Only trained positions count: the input reads ahead, and the picture of the first batch reads that batch again.
    trained = in_epoch * EPOCHS * batch
    read: list[dict[int, int]] = [dict(zip(end["positions"], end["rows"], strict=True)) for end in ends]
    trained_rows = [{p: row for p, row in worker.items() if p < trained} for worker in read]
    assert [len(worker) for worker in trained_rows] == [trained // workers] * workers
    for first in range(0, trained - size + 1, size):  # each whole pass
        rows = [row for worker in trained_rows for p, row in worker.items() if first <= p < first + size]
        assert sorted(rows) == list(range(size))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert summary["final"]["accuracy"] > 0


# Exit codes and messages.

FLAGS = [
    "--strategy.name=multiworker",
    "--deterministic",
    "--data.shapes.count=400",
    "--data.shapes.size=16",
    "--data.image_size=16",
    "--data.batch_size=4",
    "--data.augment.flip=0.5",
    f"--model.name={factories.FILE}:normed",
    "--precision=float32",
    "--histograms_every=0",
    "--steps_per_execution=5",
    "--optimizer.learning_rate=0.05",
    "--checkpoint.every_steps=10",
    "--checkpoint.keep=100",
    "--preflight=off",
]


def train_commands(model_dir: pathlib.Path, *more: str) -> list[list[str]]:
    """The command of each of two workers."""
    return [["tools.train", *FLAGS, f"--model_dir={model_dir}", f"--epochs={EPOCHS}", *more]] * 2


def wait_for_checkpoint(model_dir: pathlib.Path, process: BaseProcess) -> None:
    """Waits for a checkpoint that the process adds to those in the directory now."""
    checkpoints, start = str(model_dir / "checkpoints"), time.monotonic()
    newest = max(checkpoint_steps(checkpoints), default=0)
    while max(checkpoint_steps(checkpoints), default=0) == newest:
        assert process.exitcode is None, "the process ended before"
        assert time.monotonic() < start + 180, "no new checkpoint within 180 seconds"
        time.sleep(0.05)


def newest_variables(model_dir: pathlib.Path) -> dict[str, np.ndarray]:
    """{name: value} of the newest checkpoint."""
    newest = max(checkpoint_steps(str(model_dir / "checkpoints")))
    reader = tf.train.load_checkpoint(str(model_dir / "checkpoints" / f"step-{newest:08d}" / "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    return {name: reader.get_tensor(name) for name in names}


@dataclasses.dataclass(frozen=True)
class Launched:
    """A run of `evenkeel launch` with two workers: 2 epochs of 100 steps, without interruption.

    Attributes:
      directory: of the run.
      output: of the command and both workers.
      code: its exit code.
    """

    directory: pathlib.Path
    output: str
    code: int


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Launched:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    flags = [flag for flag in FLAGS if not flag.startswith("--strategy")]
    command = [sys.executable, "-m", "evenkeel", "launch", "--workers=2", *flags, f"--model_dir={run}"]
    done = subprocess.run(
        [*command, f"--epochs={EPOCHS}"], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    return Launched(run, done.stdout + done.stderr, done.returncode)


@pytest.mark.slow
def test_launch_starts_a_cluster_and_prints_the_commands_for_other_machines(uninterrupted: Launched) -> None:
    output = uninterrupted.output
    assert uninterrupted.code == 0, output
    assert '"cluster": {"worker": ["host0:2222", "host1:2222"]}' in output
    assert "evenkeel train" in output
    for index in range(2):
        assert f"worker {index} | completed after {EPOCHS}.0 epochs, 200 steps" in output


@pytest.mark.slow
def test_a_cluster_that_is_stopped_in_every_way_ends_as_the_uninterrupted_run(
    uninterrupted: Launched, tmp_path: pathlib.Path
) -> None:
    """Every part starts both workers, which go on from the newest checkpoint of the part before."""
    run = tmp_path / "run"
    kill_worker(1, run, tmp_path / "other killed")
    kill_worker(0, run, tmp_path / "chief killed", "--resume")
    send_signal(signal.SIGTERM, 75, run, tmp_path / "SIGTERM", "--resume")
    send_signal(signal.SIGINT, 130, run, tmp_path / "SIGINT", "--resume")
    fill_disk(run, tmp_path / "disk", "--resume")
    logs = tmp_path / "end"
    with cluster(train_commands(run, "--resume"), logs) as processes:
        for index, process in enumerate(processes):
            assert wait_for_exit(process, timeout=240) == 0, (logs / f"{index}.log").read_text()[-3000:]
    expected, resumed = newest_variables(uninterrupted.directory), newest_variables(run)
    assert len(expected) > 20
    assert expected.keys() == resumed.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)


def kill_worker(killed: int, run: pathlib.Path, logs: pathlib.Path, *flags: str) -> None:
    """Kills one worker after a checkpoint: the other one exits with code 75 and says how to go on."""
    survivor = 1 - killed
    with cluster(train_commands(run, *flags), logs) as processes:
        wait_for_checkpoint(run, processes[0])
        processes[killed].kill()
        assert wait_for_exit(processes[survivor], timeout=60) == 75, (logs / f"{survivor}.log").read_text()[-3000:]
    output = (logs / f"{survivor}.log").read_text()
    assert "error: another worker is gone" in output
    assert "start all workers again with --resume; they go on from" in output
    assert "Traceback" not in output


def send_signal(number: signal.Signals, code: int, run: pathlib.Path, logs: pathlib.Path, *flags: str) -> None:
    """Sends one worker a signal after a checkpoint: all exit with its code after the same call."""
    with cluster(train_commands(run, *flags), logs) as processes:
        wait_for_checkpoint(run, processes[0])
        assert processes[1].pid
        os.kill(processes[1].pid, number)
        for index, process in enumerate(processes):
            assert wait_for_exit(process, timeout=60) == code, (logs / f"{index}.log").read_text()[-3000:]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["signal"]) == ("preempted", number.name)
    assert summary["steps"] == max(checkpoint_steps(str(run / "checkpoints")))


def fill_disk(run: pathlib.Path, logs: pathlib.Path, *flags: str) -> None:
    """A file in place of the checkpoint directory stands for a full disk: all exit with code 3."""
    with cluster(train_commands(run, *flags), logs) as processes:
        wait_for_checkpoint(run, processes[0])
        (run / "checkpoints").rename(run / "aside")
        (run / "checkpoints").write_text("")
        for index, process in enumerate(processes):
            assert wait_for_exit(process, timeout=120) == 3, (logs / f"{index}.log").read_text()[-3000:]
    (run / "checkpoints").unlink()
    (run / "aside").rename(run / "checkpoints")
    chief, other = ((logs / f"{index}.log").read_text() for index in range(2))
    assert "a checkpoint could not be written under" in chief
    assert "error: the last checkpoint could not be written" in chief
    assert "error: the last checkpoint could not be written (on another worker: see its output)" in other


@pytest.mark.slow
def test_a_usage_error_of_the_chief_stops_all_workers_with_one_line(
    uninterrupted: Launched, tmp_path: pathlib.Path
) -> None:
    with cluster(train_commands(uninterrupted.directory), tmp_path) as processes:  # the directory holds a run already
        for index, process in enumerate(processes):
            assert wait_for_exit(process, timeout=90) == 2, (tmp_path / f"{index}.log").read_text()[-3000:]
    assert "already holds a run" in (tmp_path / "0.log").read_text()
    output = (tmp_path / "1.log").read_text()
    assert output.splitlines()[-1] == "error: 1 of 2 workers cannot start: correct the errors in their output."
    assert "Traceback" not in output


@pytest.mark.slow
def test_different_flags_stop_all_workers_with_one_line(tmp_path: pathlib.Path) -> None:
    first, second = train_commands(tmp_path / "run")
    with cluster([first, [*second, "--seed=1"]], tmp_path) as processes:
        for index, process in enumerate(processes):
            assert wait_for_exit(process, timeout=90) == 2, (tmp_path / f"{index}.log").read_text()[-3000:]
    for index in range(2):
        last = (tmp_path / f"{index}.log").read_text().splitlines()[-1]
        assert last.startswith("error: the workers were started with different flags (--resume is one of them)")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--workers=0", "--model_dir=runs/x"], "--workers (0) must be 1 or more"),
        (["--workers=2"], "--model_dir is missing"),
        (["--strategy.name=mirrored", "--model_dir=runs/x"], "must be left out: workers always use multiworker"),
        (["--epochs=-1", "--model_dir=runs/x"], "epochs (-1)"),
        (["--epoch=1", "--model_dir=runs/x"], "Unknown command line flag 'epoch'"),
    ],
)
def test_launch_checks_its_flags_before_it_starts_workers(flags: list[str], words: str) -> None:
    done = forked.run("tools.launch", *flags)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
