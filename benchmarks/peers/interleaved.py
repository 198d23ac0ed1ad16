"""Starts two or more workers that do the same steps and runs them in alternating turns.

result = run_interleaved({"base": (command, environ), "head": (other, environ)}, rounds=15, seconds=2.0)
result.turns["head"][0].sample.cpu_seconds, result.turns["head"][0].seen["loss"]
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from evenkeel.benchmarks.peers.environments import UnavailableError
from evenkeel.benchmarks.peers.race import (
    Turn,
    UnequalWorkError,
    Worker,
    calibrate_steps,
    check_equal_work,
    find_dissimilar,
    race,
)
from evenkeel.benchmarks.timing import MAX_OTHERS_CORES
from evenkeel.pipeline.system.cpu import cores

BENCHMARKS_DIRECTORY = Path(__file__).resolve().parents[1]


class InterleavedTurns(NamedTuple):
    """The turns of all workers.

    Attributes:
      turns: {worker: its turns}; turns with the same index are adjacent in time.
      steps: steps in each turn.
    """

    turns: dict[str, list[Turn]]
    steps: int

    def samples(self, name: str, kind: str) -> list[float]:
        """Returns the time of each turn of the worker `name`; `kind` is "cpu_seconds" or "wall_seconds"."""
        return [getattr(turn.sample, kind) for turn in self.turns[name]]


def worker_command(python: str, task_file: str | os.PathLike[str], settings: Mapping[str, str]) -> list[str]:
    """Returns the command that starts `peers/worker.py`. A relative `task_file` is below the folder `benchmarks`."""
    worker = BENCHMARKS_DIRECTORY / "peers" / "worker.py"
    return [python, str(worker), str(BENCHMARKS_DIRECTORY / task_file), str(cores()), json.dumps(settings)]


def run_interleaved(
    commands: Mapping[str, tuple[Sequence[str], Mapping[str, str]]],
    rounds: int,
    seconds: float = 2.0,
    steps: int = 0,
    max_others_cores: float = MAX_OTHERS_CORES,
    parts: int = 1,
) -> InterleavedTurns:
    """Starts a worker for each (command, environment variables) and runs `rounds` turns of each worker.

    A turn has `steps` steps, or, if `steps` is 0, as many as take about `seconds`. Each turn is divided into `parts`
    parts of whole steps, which alternate with the parts of the other workers.

    Raises:
      UnavailableError: a worker failed.
      UnequalWorkError: the workers do not do the same work.
    """
    with contextlib.ExitStack() as stack:
        workers = {}
        for name, (command, environ) in commands.items():
            environ = {**environ, "OMP_NUM_THREADS": str(cores())}
            workers[name] = stack.enter_context(Worker(command, environ))
            print(f"starting {name}: {command[2]}", file=sys.stderr, flush=True)
            with _name_in_errors(name):
                workers[name].start()
        check_equal_work(workers)
        if reasons := find_dissimilar(workers):
            raise UnequalWorkError("not the same work: " + "; ".join(f"{name}: {why}" for name, why in reasons.items()))
        if not steps:
            for name, worker in workers.items():  # every worker, because this also empties its prefetch buffers
                with _name_in_errors(name):
                    steps = calibrate_steps(worker, seconds)
        failures: list[str] = []
        steps_per_part = max(1, round(steps / parts))
        outcome = race(
            workers,
            dict.fromkeys(workers, steps_per_part),
            rounds,
            lambda name, reason: failures.append(f"{name}: {reason}"),
            max_others_cores,
            parts,
        )
        if failures:
            raise UnavailableError(failures[0])
        return InterleavedTurns(outcome.turns, parts * steps_per_part)


@contextlib.contextmanager
def _name_in_errors(name: str) -> Iterator[None]:
    """Adds the name of the worker to the reason of an `UnavailableError` that the block raises."""
    try:
        yield
    except UnavailableError as error:
        raise UnavailableError(f"{name}: {error}") from error
