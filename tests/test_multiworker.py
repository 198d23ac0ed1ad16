"""Two processes of MultiWorkerMirroredStrategy on the loopback address."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from models.config import ModelConfig, OptimizerConfig, StrategyConfig, TrainConfig, to_dict
from pipeline.config import AugmentConfig, DataConfig
from pipeline.opening import Data

ROOT = pathlib.Path(__file__).parent.parent
WORKERS, EPOCHS = 2, 2


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.mark.slow
def test_two_workers_end_with_equal_weights_and_see_every_row_once(
    small: DataConfig, data: Data, tmp_path: pathlib.Path
) -> None:
    config = TrainConfig(
        epochs=EPOCHS,
        precision="float32",
        histograms_every=0,
        data=dataclasses.replace(small, augment=AugmentConfig(flip=0.5)),
        model=ModelConfig(name="cnn", width=4, dropout=0.1),
        optimizer=OptimizerConfig(learning_rate=0.05),
        strategy=StrategyConfig(name="multiworker"),
    )
    ports = free_ports(WORKERS)
    processes = []
    for index in range(WORKERS):
        cluster = {"cluster": {"worker": [f"localhost:{port}" for port in ports]}}
        environment = {**os.environ, "TF_CONFIG": json.dumps({**cluster, "task": {"type": "worker", "index": index}})}
        arguments = [json.dumps(to_dict(config)), str(tmp_path / "run"), str(tmp_path / f"{index}.npz")]
        log = open(tmp_path / f"{index}.log", "w")  # noqa: SIM115 (the process's for as long as it runs)
        command = [sys.executable, "-m", "tests.worker", *arguments]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    for index, process in enumerate(processes):
        assert process.wait(timeout=240) == 0, (tmp_path / f"{index}.log").read_text()[-3000:]

    ends = [np.load(tmp_path / f"{index}.npz") for index in range(WORKERS)]
    steps, size, batch = len(data.train) // small.batch_size, len(data.train), small.batch_size
    assert [int(end["steps"]) for end in ends] == [steps * EPOCHS] * WORKERS
    weights = [name for name in ends[0].files if name.startswith("arr_")]
    assert len(weights) > 10
    for name in weights:
        np.testing.assert_array_equal(ends[0][name], ends[1][name])
    # Only what was trained on counts: the input runs ahead, and the picture of the first batch reads it once more.
    seen: list[dict[int, int]] = [dict(zip(end["positions"], end["rows"], strict=True)) for end in ends]
    trained = [{p: row for p, row in of.items() if p < steps * EPOCHS * batch} for of in seen]
    assert [len(of) for of in trained] == [size * EPOCHS // WORKERS] * WORKERS
    for epoch in range(EPOCHS):
        rows = [row for of in trained for p, row in of.items() if p // size == epoch]
        assert sorted(rows) == list(range(size))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert summary["final"]["accuracy"] > 0
