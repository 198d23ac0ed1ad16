"""python -m tools.launch --workers=2 --preset=quick --model_dir=runs/two"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from absl import flags as absl_flags

from evenkeel.models.config import TrainConfig
from evenkeel.pipeline.errors import require
from evenkeel.pipeline.system import cpu
from evenkeel.tools import flags, train

FLAGS = absl_flags.FLAGS
USAGE = """
Trains with several workers on this machine, to try out what several machines would do.

  python -m tools.launch --workers=2 --preset=quick --model_dir=runs/two
  python -m tools.launch --workers=2 --resume --config=runs/two/config.json --model_dir=runs/two

Every other flag is one of tools.train. The first lines printed say what to run on machines of your own. A signal goes
to all workers; where one of them ends, the others end as well, and --resume goes on from the last checkpoint.
"""
PORT = 2222  # of the example; here the ports are whatever is free
GRACE = 60  # seconds that the other workers have to notice that one has gone: it takes them up to 30
WELL = (0, 75, 130)  # ends after which the others come to theirs, however long their last checkpoint takes

absl_flags.DEFINE_integer("workers", 2, "processes, each of which is a worker")


def main(argv: list[str]) -> int:
    config = flags.config(TrainConfig)
    count, kind = FLAGS.workers, config.strategy.name
    require(count >= 1, f"--workers ({count}) must be 1 or more.")
    require(kind in ("auto", "multiworker"), f"--strategy.name ({kind}) must be left out: a cluster's is multiworker.")
    flags.need("model_dir", "the directory that all workers write to")
    given = [FLAGS[name].serialize() for name in FLAGS if FLAGS[name].present and name != "workers"]
    command = [sys.executable, "-m", "tools.train", *given, "--strategy.name=multiworker"]
    print(on_other_machines(count, ["python", *command[1:]]), flush=True)
    workers: list[Worker] = []

    def pass_on(number: int, _: Any) -> None:
        for each in workers:
            each.process.send_signal(number)

    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, pass_on)
        for index, environment in enumerate(environments(count)):
            workers.append(Worker(index, environment, command))
        return ended(workers)
    finally:
        for each in workers:
            each.end()


def on_other_machines(count: int, command: list[str]) -> str:
    """What to set and run on each of so many machines."""
    hosts = [f"host{index}:{PORT}" for index in range(count)]
    return (
        f"On {count} machines of your own that share model_dir, run on each, with its own index:\n"
        f"  TF_CONFIG='{tf_config(hosts, 0)}' \\\n  {shlex.join(command)}"
    )


def tf_config(hosts: list[str], index: int) -> str:
    return json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}})


def environments(count: int) -> list[dict[str, str]]:
    """Of each worker: its TF_CONFIG, at ports that are free now, and its share of the cores and of the GPUs."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    hosts = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    cores = str(max(1, cpu.cores() // count))
    own = {"TF_NUM_INTRAOP_THREADS": cores, "TF_NUM_INTEROP_THREADS": cores}
    devices = gpus()
    each_has = len(devices) // count  # two workers cannot have the same one: none has, where there are too few
    return [
        {
            **own,
            **os.environ,
            "TF_CONFIG": tf_config(hosts, index),
            "CUDA_VISIBLE_DEVICES": ",".join(devices[index * each_has : (index + 1) * each_has]),
        }
        for index in range(count)
    ]


def gpus() -> list[str]:
    """The names of those that may be used here."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    if not shutil.which("nvidia-smi"):
        return []
    told = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, line in enumerate(told.splitlines()) if line.startswith("GPU ")]


class Worker:
    """A process whose lines come out here, with its number. Ctrl-C reaches it from here alone."""

    def __init__(self, index: int, environment: dict[str, str], command: list[str]) -> None:
        self.index = index
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(
            command, env=environment, start_new_session=True, text=True, errors="replace", **pipes
        )
        self._lines = threading.Thread(target=self._pass_on, daemon=True)
        self._lines.start()

    def _pass_on(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            print(f"worker {self.index} | {line.rstrip()}", flush=True)

    def end(self) -> None:
        """Killed where it still runs; all that it has said is passed on."""
        self.process.kill()
        self.process.wait()
        self._lines.join(timeout=10)


def ended(workers: list[Worker]) -> int:
    """Waits for all; the exit code of the first one that did not end well, 0 where there is none.

    What asks to be resumed (75) may only say that another one is gone: the code of that counts.
    """
    codes: dict[int, int] = {}
    until = math.inf
    while len(codes) < len(workers):
        time.sleep(0.2)
        for each in workers:
            code = each.process.poll()
            if code is None or each.index in codes:
                continue
            codes[each.index] = code
            if code not in WELL:
                print(f"worker {each.index} has ended with {code}", file=sys.stderr, flush=True)
                until = min(until, time.monotonic() + GRACE)
        if time.monotonic() > until:
            for each in workers:
                if each.index not in codes:
                    print(f"worker {each.index} did not end within {GRACE} s: it is killed", file=sys.stderr)
                    each.end()
            until = math.inf
    bad = [code for code in codes.values() if code not in WELL] or [code for code in codes.values() if code]
    return 128 - bad[0] if bad and bad[0] < 0 else bad[0] if bad else 0


if __name__ == "__main__":
    flags.run(main, USAGE, TrainConfig, own=("workers", *train.OWN))
