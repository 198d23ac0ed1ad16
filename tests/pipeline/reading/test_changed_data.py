"""A shard that is truncated while a run reads it: the run ends, and its checkpoints stay valid."""

from __future__ import annotations

import os
import pathlib
import signal

import pytest

from evenkeel.models.run import checksums
from tests import factories, forked
from tests.command_line import TINY

FLAGS = (
    *TINY,
    f"--model.name={factories.FILE}:plain",
    "--epochs=1000",
    "--precision=float32",
    "--preflight=off",
    "--data.cache=none",
)


@pytest.mark.slow
def test_a_truncated_shard_ends_the_run_and_the_next_run_names_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path / "cache"))
    flags = [*FLAGS, f"--model_dir={tmp_path / 'run'}"]
    reading, writing = os.pipe()
    with open(reading) as printed:
        with open(writing, "w") as out:
            process = forked.start("tools.train", *flags, out=out)
        try:
            output = ""
            for line in printed:
                output += line
                if line.startswith("epoch 2/"):  # the checkpoint of the first epoch is on disk
                    break
            (shard,) = (tmp_path / "cache").rglob("shapes-train.tfrecord*")
            os.truncate(shard, 0)
            output += printed.read()
            process.join(60)
            assert process.exitcode == -signal.SIGBUS, output
        finally:
            process.kill()
            process.join()
    checkpoints = list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert checkpoints
    assert [checksums.find_damage(str(path)) for path in checkpoints] == [""] * len(checkpoints)
    assert f"training on 300 images of shapes, read from {shard.parent}" in output
    assert "Fatal Python error: " in output  # "Bus error", unless a second thread faults meanwhile
    result = forked.run("tools.train", *flags, "--resume")
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: 300 of 300 images of split 'train' are corrupt")
    assert f"{shard} record 0: the shard of 0 bytes is damaged or cut short at byte 0: the rest is lost" in last
