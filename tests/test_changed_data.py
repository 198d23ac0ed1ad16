"""A shard that is cut short while a run reads it: what ends, what is said, what stays good."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from models import sealed
from models.checkpoints import steps
from tests.test_cli import TINY, tool

ROOT = pathlib.Path(__file__).parent.parent
FLAGS = (*TINY, "--model.name=cnn", "--epochs=1000", "--precision=float32", "--preflight=off", "--data.cache=none")


@pytest.mark.slow
def test_a_shard_cut_short_ends_the_run_and_the_next_one_names_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path / "cache"))
    flags = [*FLAGS, f"--model_dir={tmp_path / 'run'}"]
    log = tmp_path / "log"
    with open(log, "w") as file:
        process = subprocess.Popen([sys.executable, "-m", "tools.train", *flags], cwd=ROOT, stdout=file, stderr=file)
    try:
        begun = time.monotonic()
        while not steps(str(tmp_path / "run" / "checkpoints")):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < begun + 120, log.read_text()
            time.sleep(0.1)
        (shard,) = (tmp_path / "cache").rglob("shapes-train.tfrecord*")
        os.truncate(shard, 0)
        assert process.wait(timeout=60) == -signal.SIGBUS
    finally:
        process.kill()
        process.wait()
    said = log.read_text()
    assert f"training on 300 images of {shard.parent}" in said
    assert "Fatal Python error: Bus error" in said
    for kept in (tmp_path / "run" / "checkpoints").glob("step-*"):
        assert sealed.fault(str(kept)) == ""
    done = tool("train", *flags, "--resume")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: 300 of 300 images of split 'train' are corrupt")
    assert f"{shard} record 0: lost behind byte 0 of its shard, which holds 0: damaged or cut short there" in last
