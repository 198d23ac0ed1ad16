"""Runs two or more workers that do the same steps, in alternating turns, from start to end.

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
      turns: turns by worker; turns with one index are next to each other in time.
      steps: steps in each turn.
    """

    turns: dict[str, list[Turn]]
    steps: int

    def samples(self, name: str, kind: str) -> list[float]:
        """`cpu_seconds` or `wall_seconds` of each turn of a worker."""
        return [getattr(turn.sample, kind) for turn in self.turns[name]]


def worker_command(python: str, task_file: str | os.PathLike[str], settings: Mapping[str, str]) -> list[str]:
    """The command that starts `peers/worker.py`; a relative `task_file` is below the folder `benchmarks`."""
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
    """Starts a worker per (command, environment variables) and runs `rounds` turns of each.

    A turn has `steps` steps, or, if that is 0, as many as take about `seconds`. It is cut into `parts` parts of whole
    steps, which alternate with the parts of the other workers' turns.

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
            for name, worker in workers.items():  # all of them, because this also empties their prefetch buffers
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
    """Puts the worker's name before the reason of an `UnavailableError`."""
    try:
        yield
    except UnavailableError as error:
        raise UnavailableError(f"{name}: {error}") from error
