"""A file system of 1 MiB that fills up while a run writes to it."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from evenkeel.models.run import checksums
from tests import forked
from tests.command_line import TINY

FLAGS = (
    *TINY,
    "--model.name=cnn",
    "--model.width=8",  # checkpoints of 190 kB
    "--epochs=6",
    "--precision=float32",
    "--histograms_every=20",
    "--preflight=off",
)


@pytest.fixture
def disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    if os.geteuid():
        pytest.skip("only root can mount a file system")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.slow
def test_on_a_full_disk_training_goes_on_and_the_last_checkpoint_stays_intact(disk: pathlib.Path) -> None:
    done = forked.run("tools.train", *FLAGS, f"--model_dir={disk / 'run'}")
    assert done.returncode == 3, done.stderr
    assert "epoch 6/6" in done.stderr, "training went on"
    assert "a checkpoint could not be written under" in done.stderr
    assert "No space left on device): training goes on" in done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: the last checkpoint could not be written (")
    kept = sorted((disk / "run/checkpoints").iterdir())
    assert kept
    assert all(path.name.startswith("step-") for path in kept), "the remains of an unfinished checkpoint take no space"
    assert [checksums.find_damage(str(path)) for path in kept] == [""] * len(kept)
    assert last.endswith(f"make room, then go on with --resume from {kept[-1]}.")
