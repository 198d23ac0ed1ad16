"""The processes that find seek points."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from evenkeel.pipeline.errors import UsageError
from evenkeel.pipeline.jpeg import worker


def test_a_failing_process_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directories = [tmp_path / "0", tmp_path / "1"]
    for directory in directories:
        directory.mkdir()
    os.mkfifo(tmp_path / "meeting")  # a process that opens it waits for the other one
    body = """
        import os, signal, sys
        meeting = os.path.join(sys.argv[1], "..", "meeting")
        print(1, flush=True)
        if sys.argv[1].endswith("0"):
            with open(meeting) as file, open(os.path.join(sys.argv[1], "pid"), "w") as pid:
                pid.write(file.read())
            sys.exit("no room")
        with open(meeting, "w") as file:
            file.write(str(os.getpid()))
        signal.pause()
    """
    monkeypatch.setattr(worker, "COMMAND", textwrap.dedent(body))
    done: list[int] = []
    with pytest.raises(UsageError, match=r"^the seek index of JPEGs cannot be built \(no room\)"):
        worker.run_workers([str(directory) for directory in directories], done.append)
    assert sum(done) in (1, 2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((directories[0] / "pid").read_text()), 0)
