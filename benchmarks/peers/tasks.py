"""Compares the peers on tasks. A task consists of an entry in `TASKS` and one file per peer.

task = dataclasses.replace(TASKS["jpeg224"], settings={"folder": str(sources.write_task_data("jpeg224", "shapes"))})
comparison = compare_peers("jpeg224", rounds=5, directory=environments.default_directory(), task=task)
print(comparison.summary)

The files are named TASK_PEER.py, or load_PEER.py for the loading tasks.
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
from evenkeel.benchmarks.peers.environments import UnavailableError
from evenkeel.benchmarks.peers.race import (
    Outcome,
    UnequalWorkError,
    Worker,
    calibrate_steps,
    check_equal_work,
    find_dissimilar,
    race,
)
from evenkeel.benchmarks.results import Result, Skipped
from evenkeel.benchmarks.timing import paired_ratio
from evenkeel.pipeline.system.cpu import cores

OWN_PEER = "evenkeel"  # the library that all other peers are compared with
# {peer: packages to install}; the first package is also the name of the environment. A peer that is not listed runs in
# the environment of the project.
PACKAGES = {
    "torch": ("torch", "torchvision", "numpy", "pillow"),
    "torch_eager": ("torch", "torchvision", "numpy", "pillow"),
    "keras": ("keras", "tensorflow"),
    "dali": ("nvidia-dali-cuda120", "numpy"),
    "ffcv": ("ffcv", "numba", "numpy", "opencv-python", "pillow", "torch"),
    "grain": ("grain", "numpy", "pillow"),
}
# System packages that pip cannot install. The reason names them if the installation fails.
SYSTEM_PACKAGES = {"ffcv": "g++, pkg-config, libopencv-dev and libturbojpeg0-dev"}
PEERS_DIRECTORY = Path(__file__).resolve().parent
TASK_FILES = PEERS_DIRECTORY / "task_files"


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of the comparison.

    Attributes:
      peers: the peers that take part.
      steps: steps in a turn; None means as many as take `seconds`.
      seconds: length of a turn if `steps` is None.
      folder: folder that contains the task files.
      file: name of the task file, as a format string with `task` and `peer`.
      settings: keyword arguments for `prepare` in the task files.
    """

    peers: tuple[str, ...]
    steps: int | None = None
    seconds: float = 3.0
    folder: Path = TASK_FILES
    file: str = "{task}_{peer}.py"
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _loading_task(*peers: str) -> Task:
    return Task((OWN_PEER, "tfdata_naive", *peers), file="load_{peer}.py")


TASKS = {
    "step32": Task((OWN_PEER, "torch", "torch_eager", "keras"), steps=10),
    "jpeg224": _loading_task("keras", "tfds", "torch", "dali", "ffcv", "grain"),
    "bounded224": _loading_task("keras", "tfds", "torch", "dali", "ffcv", "grain"),
    "prepared224": _loading_task("keras", "tfds", "torch", "dali", "ffcv", "grain"),
    "raw224": Task((OWN_PEER, "torch", "ffcv", "grain"), file="load_{peer}.py"),
    "small32": _loading_task("keras", "tfds", "torch", "ffcv", "grain"),
}
LOADING_TASKS = tuple(name for name, task in TASKS.items() if task.file == "load_{peer}.py")


@dataclasses.dataclass(frozen=True)
class TaskComparison:
    """The result of one task.

    Attributes:
      results: metrics of the peers that were measured.
      skipped: peers that were not measured, with reasons.
      about: settings, versions and disturbance, for the result file.
      summary: ratios to evenkeel and disturbance, as text.
    """

    results: list[Result]
    skipped: list[Skipped]
    about: dict[str, Any]
    summary: str


def compare_peers(name: str, rounds: int, directory: Path, task: Task) -> TaskComparison:
    """Installs, starts, checks and measures the peers of a task. `directory` contains the environments of the peers."""
    skipped: list[Skipped] = []

    def skip(peer: str, reason: str) -> None:
        print(f"{peer}/{name}: skipped: {reason}", flush=True)
        skipped.append(Skipped(f"{peer}/{name}", reason))

    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for peer in task.peers:
            print(f"{peer}/{name}: preparing", flush=True)
            try:
                command = peer_command(name, task, peer, directory)
                worker = stack.enter_context(Worker(command, peer_environment(peer)))
                worker.start()
            except UnavailableError as error:
                skip(peer, str(error))
            else:
                workers[peer] = worker
                print(f"{peer}/{name}: {worker.facts['about']}", flush=True)
        try:
            check_equal_work(workers)
        except UnequalWorkError as error:
            for peer in workers:
                skip(peer, str(error))
            return TaskComparison([], skipped, {}, f"{name}: {error}")
        for peer, reason in find_dissimilar(workers).items():
            skip(peer, reason)
            del workers[peer]
        steps: dict[str, int] = {}
        for peer in list(workers):
            try:
                steps[peer] = task.steps or calibrate_steps(workers[peer], task.seconds)
            except UnavailableError as error:
                skip(peer, str(error))
                del workers[peer]
        outcome = race(workers, steps, rounds, skip)
    images = {peer: steps[peer] * workers[peer].facts["images_per_step"] for peer in outcome.turns}
    task_results = [
        result for peer in outcome.turns for result in peer_results(f"{peer}/{name}", outcome, peer, images[peer])
    ]
    about = {
        # Only the name of the data folder, without the cache directory that contains it.
        "settings": {key: os.path.basename(value) for key, value in task.settings.items()},
        "images_a_turn": images,
        "rounds_run": outcome.rounds_run,
        "others_cores": outcome.others_cores,
        "idle_cores": {peer: outcome.idle_cores(peer) for peer in outcome.turns},
        "peers": {peer: {**workers[peer].facts, "seen": workers[peer].seen} for peer in outcome.turns},
    }
    return TaskComparison(task_results, skipped, about, summary(name, outcome, images))


def peer_command(name: str, task: Task, peer: str, directory: Path) -> list[str]:
    """Returns the command that starts the process of a peer; installs the environment of the peer if needed.

    Raises:
      UnavailableError: the environment cannot be installed.
    """
    python = sys.executable
    if peer in PACKAGES:
        try:
            python = str(environments.install_environment(PACKAGES[peer][0], PACKAGES[peer], directory))
        except UnavailableError as error:
            if peer not in SYSTEM_PACKAGES:
                raise
            raise UnavailableError(f"{error}; install the Debian packages {SYSTEM_PACKAGES[peer]}") from error
    file = task.folder / task.file.format(task=name, peer=peer)
    return [python, str(PEERS_DIRECTORY / "worker.py"), str(file), str(cores()), json.dumps(dict(task.settings))]


def peer_environment(peer: str) -> dict[str, str]:
    """Returns the environment variables of a peer. Only peers in the environment of the project get PYTHONPATH."""
    hidden = ("PYTHONPATH", "PYTHONHOME") if peer in PACKAGES else ("PYTHONHOME",)
    return {
        **{name: value for name, value in os.environ.items() if name not in hidden},
        "OMP_NUM_THREADS": str(cores()),
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def peer_results(case: str, outcome: Outcome, peer: str, images: int) -> list[Result]:
    """Returns CPU ms per image and images per second of a peer. `images` is the number of images in a turn."""
    samples = [turn.sample for turn in outcome.turns[peer]]
    cpu = tuple(sample.cpu_seconds / images * 1e3 for sample in samples)
    throughput = tuple(images / sample.wall_seconds for sample in samples)
    return [
        Result("peers", case, "cpu_ms_per_image", "ms", "lower", cpu),
        Result("peers", case, "images_per_second", "images/s", "higher", throughput),
    ]


def summary(name: str, outcome: Outcome, images: Mapping[str, int]) -> str:
    """Formats the ratio of each peer's time per image to that of evenkeel, and how much the machine was disturbed."""
    lines = []
    if OWN_PEER in outcome.turns:
        own = [turn.sample for turn in outcome.turns[OWN_PEER]]
        rows = [(name, f"CPU time / {OWN_PEER}'s", f"time / {OWN_PEER}'s")]
        for peer, turns in outcome.turns.items():
            samples, scale = [turn.sample for turn in turns], images[peer] / images[OWN_PEER]
            cpu = paired_ratio([s.cpu_seconds / scale for s in samples], [s.cpu_seconds for s in own])
            wall = paired_ratio([s.wall_seconds / scale for s in samples], [s.wall_seconds for s in own])
            rows.append((peer, str(cpu), str(wall)))
        lines.append(results.align_columns(rows))
    idle = ", ".join(f"{peer} {outcome.idle_cores(peer):.4f}" for peer in outcome.turns)
    lines.append(f"cores used by waiting peers: {idle or 'no peer ran'}")
    others = f"other programs used up to {outcome.others_cores:.2f} cores"
    lines.append(f"{outcome.rounds_run} rounds run; in the rounds that count, {others}")
    return "\n".join(lines)
