"""evenkeel launch: trains with several workers on this machine."""

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

from absl import flags

from evenkeel.models.config import TrainConfig
from evenkeel.pipeline.errors import require
from evenkeel.pipeline.system import cpu
from evenkeel.tools import cli, train
from evenkeel.tools.flags import config_from_flags, require_flag

FLAGS = flags.FLAGS
USAGE = """
Trains with several workers on this machine, as a trial of a run on several machines.

  evenkeel launch --workers=2 --preset=quick --model_dir=runs/two
  evenkeel launch --workers=2 --resume --config=runs/two/config.json --model_dir=runs/two

All other flags are those of evenkeel train. The first lines of output show the command for real machines. A signal is
passed to all workers. When a worker ends, the others end too, and --resume continues from the last checkpoint.
"""
EXAMPLE_PORT = 2222  # in the TF_CONFIG for several machines; workers that this command starts use free ports
GRACE_SECONDS = 60  # time for the other workers to notice a lost worker, which takes up to 30 s
GOOD_EXIT_CODES = (0, 75, 130)  # the other workers then end by themselves, with no limit for their last checkpoint

flags.DEFINE_integer("workers", 2, "number of worker processes")


def main(argv: list[str]) -> int:
    config = config_from_flags(TrainConfig)
    count, kind = FLAGS.workers, config.strategy.name
    require(count >= 1, f"--workers ({count}) must be 1 or more.")
    require(
        kind in ("auto", "multiworker"),
        f"--strategy.name ({kind}) must be left out: workers always use multiworker.",
    )
    require_flag("model_dir", "the directory that all workers write to")
    given = [FLAGS[name].serialize() for name in FLAGS if FLAGS[name].present and name != "workers"]
    command = [sys.executable, "-m", "evenkeel", "train", *given, "--strategy.name=multiworker"]
    print(cluster_instructions(count, ["evenkeel", *command[3:]]), flush=True)
    workers: list[Worker] = []

    def pass_on(number: int, _: Any) -> None:
        for each in workers:
            each.process.send_signal(number)

    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, pass_on)
        for index, environment in enumerate(worker_environments(count)):
            workers.append(Worker(index, environment, command))
        return wait_for_workers(workers)
    finally:
        for each in workers:
            each.end()


def cluster_instructions(count: int, command: list[str]) -> str:
    """The environment variable and the command for each of `count` machines."""
    hosts = [f"host{index}:{EXAMPLE_PORT}" for index in range(count)]
    return (
        f"For {count} machines that share model_dir, run this on each, with its own index:\n"
        f"  TF_CONFIG='{tf_config(hosts, 0)}' \\\n  {shlex.join(command)}"
    )


def tf_config(hosts: list[str], index: int) -> str:
    return json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}})


def worker_environments(count: int) -> list[dict[str, str]]:
    """The environment of each worker: TF_CONFIG with free ports, and its share of the cores and GPUs."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    hosts = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    cores = str(max(1, cpu.cores() // count))
    threads = {"TF_NUM_INTRAOP_THREADS": cores, "TF_NUM_INTEROP_THREADS": cores}
    gpus = visible_gpus()
    gpus_each = len(gpus) // count  # workers cannot share a GPU: with too few GPUs no worker gets one
    return [
        {
            **threads,
            **os.environ,
            "TF_CONFIG": tf_config(hosts, index),
            "CUDA_VISIBLE_DEVICES": ",".join(gpus[index * gpus_each : (index + 1) * gpus_each]),
        }
        for index in range(count)
    ]


def visible_gpus() -> list[str]:
    """The names of the GPUs that this process may use."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name]
    if not shutil.which("nvidia-smi"):
        return []
    listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number, line in enumerate(listing.splitlines()) if line.startswith("GPU ")]


class Worker:
    """A worker process. Its output is printed with its number, and it gets Ctrl-C only from this process."""

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
        """Kills the process if it still runs, and prints the rest of its output."""
        self.process.kill()
        self.process.wait()
        self._lines.join(timeout=10)


def wait_for_workers(workers: list[Worker]) -> int:
    """Waits for all workers. Returns the exit code of the first that failed, or 0.

    A worker that ends with 75 (resume) may only have noticed a lost worker; the exit code of the lost worker counts.
    """
    codes: dict[int, int] = {}
    deadline = math.inf
    while len(codes) < len(workers):
        time.sleep(0.2)
        for each in workers:
            code = each.process.poll()
            if code is None or each.index in codes:
                continue
            codes[each.index] = code
            if code not in GOOD_EXIT_CODES:
                print(f"worker {each.index} ended with exit code {code}", file=sys.stderr, flush=True)
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        if time.monotonic() > deadline:
            for each in workers:
                if each.index not in codes:
                    print(
                        f"worker {each.index} did not end within {GRACE_SECONDS} s after another worker ended:"
                        " it is killed",
                        file=sys.stderr,
                    )
                    each.end()
            deadline = math.inf
    failures = [code for code in codes.values() if code not in GOOD_EXIT_CODES] or [
        code for code in codes.values() if code
    ]
    if not failures:
        return 0
    return 128 - failures[0] if failures[0] < 0 else failures[0]  # a negative code is the signal that ended the worker


COMMAND = cli.Command(main, USAGE, TrainConfig, ("workers", *train.OWN), ("workers", *train.COMMON))

if __name__ == "__main__":
    cli.run(COMMAND)
