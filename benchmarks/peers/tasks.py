"""What is compared with whom: a task is a row here and a file for each of its peers, TASK_PEER.py or load_PEER.py.

task = dataclasses.replace(TASKS["jpeg224"], settings={"folder": str(sources.written("jpeg224", "shapes"))})
compared = compare("jpeg224", rounds=5, directory=environments.default_directory(), task=task)
print(compared.summary)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evenkeel.benchmarks import results
from evenkeel.benchmarks.peers import environments
from evenkeel.benchmarks.peers.environments import Unavailable
from evenkeel.benchmarks.peers.race import (
    Outcome,
    Refused,
    Worker,
    race,
    refuse_unequal,
    steps_of_a_turn,
    unlike,
)
from evenkeel.benchmarks.results import Result, Skipped
from evenkeel.benchmarks.timing import paired_ratio
from evenkeel.pipeline.system.cpu import cores

OWN = "evenkeel"  # the others are compared with it
# What is installed for a peer, the environment's name first; who is not here runs in the project's own environment.
PACKAGES = {
    "torch": ("torch", "torchvision", "numpy", "pillow"),
    "torch_eager": ("torch", "torchvision", "numpy", "pillow"),
    "keras": ("keras", "tensorflow"),
    "dali": ("nvidia-dali-cuda120", "numpy"),
    "ffcv": ("ffcv", "numba", "numpy", "opencv-python", "pillow", "torch"),
    "grain": ("grain", "numpy", "pillow"),
}
# What pip cannot install, for the reason when it fails.
SYSTEM_PACKAGES = {"ffcv": "g++, pkg-config, libopencv-dev and libturbojpeg0-dev"}
HERE = Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Task:
    """Who takes part and the work of one turn: a number of steps, or as many as take so many seconds."""

    peers: tuple[str, ...]
    steps: int | None = None
    seconds: float = 3.0
    folder: Path = HERE
    file: str = "{task}_{peer}.py"
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)  # for `prepare` of the peers' files


def _loading(*peers: str) -> Task:
    return Task((OWN, "tfdata_naive", *peers), file="load_{peer}.py")


TASKS = {
    "step32": Task((OWN, "torch", "torch_eager", "keras"), steps=10),
    "jpeg224": _loading("keras", "tfds", "torch", "dali", "ffcv", "grain"),
    "bounded224": _loading("keras", "tfds", "torch", "dali", "ffcv", "grain"),
    "prepared224": _loading("keras", "tfds", "torch", "dali", "ffcv", "grain"),
    "raw224": Task((OWN, "torch", "ffcv", "grain"), file="load_{peer}.py"),
    "small32": _loading("keras", "tfds", "torch", "ffcv", "grain"),
}
LOADING = tuple(name for name, task in TASKS.items() if task.file == "load_{peer}.py")


@dataclasses.dataclass(frozen=True)
class Compared:
    """What a task came to: results, who was left out and why, what else is worth recording, and all that as text."""

    results: list[Result]
    skipped: list[Skipped]
    about: dict[str, Any]
    summary: str


def compare(name: str, rounds: int, directory: Path, task: Task) -> Compared:
    """Installs, starts, checks and measures the peers of a task; environments live in `directory`."""
    skipped: list[Skipped] = []

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
        for peer, reason in unlike(workers).items():
            skip(peer, reason)
            del workers[peer]
        steps: dict[str, int] = {}
        for peer in list(workers):
            try:
                steps[peer] = task.steps or steps_of_a_turn(workers[peer], task.seconds)
            except Unavailable as error:
                skip(peer, str(error))
                del workers[peer]
        outcome = race(workers, steps, rounds, skip)
    images = {peer: steps[peer] * workers[peer].facts["images_per_step"] for peer in outcome.turns}
    found = [result for peer in outcome.turns for result in metrics(f"{peer}/{name}", outcome, peer, images[peer])]
    about = {
        "settings": {
            name: os.path.basename(value) for name, value in task.settings.items()
        },  # whose cache is no matter
        "images_a_turn": images,
        "rounds_run": outcome.rounds_run,
        "others_cores": outcome.others_cores,
        "idle_cores": {peer: outcome.idle_cores(peer) for peer in outcome.turns},
        "peers": {peer: {**workers[peer].facts, "seen": workers[peer].seen} for peer in outcome.turns},
    }
    return Compared(found, skipped, about, summary(name, outcome, images))


def command(name: str, task: Task, peer: str, directory: Path) -> list[str]:
    """What starts a peer's process; its environment is built on the way.

    Raises:
      Unavailable: it cannot be installed.
    """
    python = sys.executable
    if peer in PACKAGES:
        try:
            python = str(environments.python_of(PACKAGES[peer][0], PACKAGES[peer], directory))
        except Unavailable as error:
            if peer not in SYSTEM_PACKAGES:
                raise
            raise Unavailable(f"{error}; it needs Debian's {SYSTEM_PACKAGES[peer]}") from error
    file = task.folder / task.file.format(task=name, peer=peer)
    return [python, str(HERE / "worker.py"), str(file), str(cores()), json.dumps(dict(task.settings))]


def environ(peer: str) -> dict[str, str]:
    """The environment variables of a peer's process: the same for all, but for the way to our own modules."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    if peer not in PACKAGES:
        variables["PYTHONPATH"] = str(results.ROOT)
    return {
        **variables,
        "OMP_NUM_THREADS": str(cores()),
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


def summary(name: str, outcome: Outcome, images: Mapping[str, int]) -> str:
    """How much more the others take for an image than we do, and what limits the worth of that."""
    lines = []
    if OWN in outcome.turns:
        ours = [turn.sample for turn in outcome.turns[OWN]]
        rows = [(name, f"CPU time / {OWN}'s", f"time / {OWN}'s")]
        for peer, turns in outcome.turns.items():
            theirs, more = [turn.sample for turn in turns], images[peer] / images[OWN]
            cpu = paired_ratio([s.cpu_seconds / more for s in theirs], [s.cpu_seconds for s in ours])
            wall = paired_ratio([s.wall_seconds / more for s in theirs], [s.wall_seconds for s in ours])
            rows.append((peer, str(cpu), str(wall)))
        lines.append(results.aligned(rows))
    idle = ", ".join(f"{peer} {outcome.idle_cores(peer):.4f}" for peer in outcome.turns)
    lines.append(f"cores kept busy by peers that wait: {idle or 'none ran'}")
    others = f"other programs took up to {outcome.others_cores:.2f} cores"
    lines.append(f"{outcome.rounds_run} rounds run; in those that count {others}")
    return "\n".join(lines)
