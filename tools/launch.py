"""python -m tools.launch --workers=2 --preset=quick --model_dir=runs/two"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO, Any

from absl import flags as absl_flags

from models.config import TrainConfig
from pipeline.config import require
from tools import flags, train

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
    workers = [started(index, environment, command) for index, environment in enumerate(environments(count))]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: [each.send_signal(number) for each in workers])
    return ended(workers)


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
    """Of each worker: its TF_CONFIG, at ports that are free now, and its share of the cores."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    hosts = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    cores = str(max(1, len(os.sched_getaffinity(0)) // count))
    own = {"TF_NUM_INTRAOP_THREADS": cores, "TF_NUM_INTEROP_THREADS": cores}
    return [{**own, **os.environ, "TF_CONFIG": tf_config(hosts, index)} for index in range(count)]


def started(index: int, environment: dict[str, str], command: list[str]) -> subprocess.Popen:
    """A worker whose lines come out here, with its number. Ctrl-C reaches it from here alone."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    assert process.stdout
    threading.Thread(target=_pass_on, args=(index, process.stdout), daemon=True).start()
    return process


def _pass_on(index: int, lines: IO[Any]) -> None:
    for line in lines:
        print(f"worker {index} | {line.rstrip()}", flush=True)


def ended(workers: list[subprocess.Popen]) -> int:
    """Waits for all; the exit code of the first one that did not end well, 0 where there is none."""
    first, code, since = None, 0, 0.0
    while any(each.poll() is None for each in workers):
        time.sleep(0.2)
        bad = next((index for index, each in enumerate(workers) if each.poll()), None)
        if bad is not None and first is None:
            first, code, since = bad, workers[bad].returncode, time.monotonic()
            print(f"worker {bad} has ended with {code}", file=sys.stderr, flush=True)
        if first is not None and time.monotonic() > since + GRACE:
            for index, each in enumerate(workers):
                if each.poll() is None:
                    print(f"worker {index} did not end within {GRACE} s and is killed", file=sys.stderr, flush=True)
                    each.kill()
    if first is None:
        code = next((each.returncode for each in workers if each.returncode), 0)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    flags.run(main, USAGE, TrainConfig, own=("workers", *train.OWN))
