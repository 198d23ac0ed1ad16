"""What is compared with whom: a task is a row here and a file TASK_PEER.py for each of its peers.

compared = compare("step32", rounds=5, directory=environments.default_directory())
print(compared.summary)
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.peers import environments
from benchmarks.peers.environments import Unavailable
from benchmarks.peers.race import Outcome, Refused, Worker, race, refuse_unequal
from benchmarks.results import Result, Skipped
from benchmarks.timing import paired_ratio

OWN = "evenkeel"  # runs in the project's own environment; the others are compared with it
# What is installed for each of the others.
PACKAGES = {"torch": ("torch",), "torch_eager": ("torch",), "keras": ("keras", "tensorflow")}
HERE = Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Task:
    """Who takes part, and the steps of one turn: some seconds of work."""

    peers: tuple[str, ...]
    steps: int
    folder: Path = HERE


TASKS = {"step32": Task((OWN, "torch", "torch_eager", "keras"), steps=10)}


@dataclasses.dataclass(frozen=True)
class Compared:
    """What a task came to: results, who was left out and why, what else is worth recording, and all that as text."""

    results: list[Result]
    skipped: list[Skipped]
    about: dict[str, Any]
    summary: str


def compare(name: str, rounds: int, directory: Path, tasks: Mapping[str, Task] = TASKS) -> Compared:
    """Installs, starts, checks and measures the peers of a task; environments live in `directory`."""
    task, skipped = tasks[name], []

    def skip(peer: str, reason: str) -> None:
        print(f"{peer}/{name}: skipped: {reason}", flush=True)
        skipped.append(Skipped(f"{peer}/{name}", reason))

    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for peer in task.peers:
            print(f"{peer}/{name}: preparing", flush=True)
            try:
                worker = stack.enter_context(Worker(command(name, task, peer, directory), environ(peer)))
                worker.start()
            except Unavailable as error:
                skip(peer, str(error))
            else:
                workers[peer] = worker
                print(f"{peer}/{name}: {worker.facts['about']}", flush=True)
        try:
            refuse_unequal(workers)
        except Refused as error:
            for peer in workers:
                skip(peer, str(error))
            return Compared([], skipped, {}, f"{name}: {error}")
        outcome = race(workers, task.steps, rounds, skip)
    found = [
        result
        for peer in outcome.turns
        for result in metrics(f"{peer}/{name}", outcome, peer, task.steps * workers[peer].facts["images_per_step"])
    ]
    about = {
        "rounds_run": outcome.rounds_run,
        "others_cores": outcome.others_cores,
        "idle_cores": {peer: outcome.idle_cores(peer) for peer in outcome.turns},
        "peers": {peer: {**workers[peer].facts, "seen": workers[peer].seen} for peer in outcome.turns},
    }
    return Compared(found, skipped, about, summary(name, outcome))


def command(name: str, task: Task, peer: str, directory: Path) -> list[str]:
    """What starts a peer's process; its environment is built on the way.

    Raises:
      Unavailable: it cannot be installed.
    """
    python = sys.executable
    if peer in PACKAGES:
        python = str(environments.python_of(PACKAGES[peer][0], PACKAGES[peer], directory))
    return [python, str(HERE / "worker.py"), str(task.folder / f"{name}_{peer}.py"), str(results.cores())]


def environ(peer: str) -> dict[str, str]:
    """The environment variables of a peer's process: the same for all, but for the way to our own modules."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    if peer not in PACKAGES:
        variables["PYTHONPATH"] = str(results.ROOT)
    return {
        **variables,
        "OMP_NUM_THREADS": str(results.cores()),
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def metrics(case: str, outcome: Outcome, peer: str, images: int) -> list[Result]:
    """`images` are those of one turn."""
    samples = [turn.sample for turn in outcome.turns[peer]]
    cpu = tuple(sample.cpu_seconds / images * 1e3 for sample in samples)
    speed = tuple(images / sample.wall_seconds for sample in samples)
    return [
        Result("peers", case, "cpu_ms_per_image", "ms", "lower", cpu),
        Result("peers", case, "images_per_second", "images/s", "higher", speed),
    ]


def summary(name: str, outcome: Outcome) -> str:
    """How much more the others take than we do, and what limits the worth of that."""
    lines = []
    if OWN in outcome.turns:
        ours = [turn.sample for turn in outcome.turns[OWN]]
        rows = [(name, f"CPU time / {OWN}'s", f"time / {OWN}'s")]
        for peer, turns in outcome.turns.items():
            theirs = [turn.sample for turn in turns]
            cpu = paired_ratio([s.cpu_seconds for s in theirs], [s.cpu_seconds for s in ours])
            wall = paired_ratio([s.wall_seconds for s in theirs], [s.wall_seconds for s in ours])
            rows.append((peer, str(cpu), str(wall)))
        lines.append(results.aligned(rows))
    idle = ", ".join(f"{peer} {outcome.idle_cores(peer):.4f}" for peer in outcome.turns)
    lines.append(f"cores kept busy by peers that wait: {idle or 'none ran'}")
    others = f"other programs took up to {outcome.others_cores:.2f} cores"
    lines.append(f"{outcome.rounds_run} rounds run; in those that count {others}")
    return "\n".join(lines)
