"""Two or more workers that do the same steps, in turns, from their start to their end.

found = raced({"base": (command, environ), "head": (other, environ)}, rounds=15, seconds=2.0)
found.turns["head"][0].sample.cpu_seconds, found.turns["head"][0].seen["loss"]
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from evenkeel.benchmarks.peers.environments import Unavailable
from evenkeel.benchmarks.peers.race import (
    Refused,
    Turn,
    Worker,
    race,
    refuse_unequal,
    steps_of_a_turn,
    unlike,
)
from evenkeel.benchmarks.timing import QUIET_CORES
from evenkeel.pipeline.system.cpu import cores

HERE = Path(__file__).resolve().parents[1]


class Raced(NamedTuple):
    """Turns of so many `steps` each; turn i of all are next to each other in time."""

    turns: dict[str, list[Turn]]
    steps: int

    def samples(self, name: str, kind: str) -> list[float]:
        """`cpu_seconds` or `wall_seconds` of each turn."""
        return [getattr(turn.sample, kind) for turn in self.turns[name]]


def command(python: str, file: str, settings: Mapping[str, str]) -> list[str]:
    """What starts `peers/worker.py` with the task file `file`, a path below this folder."""
    return [python, str(HERE / "peers" / "worker.py"), str(HERE / file), str(cores()), json.dumps(settings)]


def raced(
    commands: Mapping[str, tuple[Sequence[str], Mapping[str, str]]],
    rounds: int,
    seconds: float = 2.0,
    steps: int = 0,
    quiet_cores: float = QUIET_CORES,
    parts: int = 1,
) -> Raced:
    """`rounds` turns of each (command, environment), of `steps` steps, or of as many as take about `seconds`.

    Of `parts` parts each, rounded to whole steps, which alternate with the others'.

    Raises:
      Unavailable: one of them cannot do it.
      Refused: they do not do the same.
    """
    with contextlib.ExitStack() as stack:
        workers = {}
        for name, (line, environ) in commands.items():
            environ = {**environ, "OMP_NUM_THREADS": str(cores())}
            workers[name] = stack.enter_context(Worker(line, environ))
            print(f"starting {name}: {line[2]}", file=sys.stderr, flush=True)
            with _named(name):
                workers[name].start()
        refuse_unequal(workers)
        if reasons := unlike(workers):
            raise Refused("not the same work: " + "; ".join(f"{name}: {why}" for name, why in reasons.items()))
        if not steps:
            for name, worker in workers.items():  # of all, as it also empties what they have made ahead
                with _named(name):
                    steps = steps_of_a_turn(worker, seconds)
        lost: list[str] = []
        in_part = max(1, round(steps / parts))
        outcome = race(
            workers,
            dict.fromkeys(workers, in_part),
            rounds,
            lambda name, reason: lost.append(f"{name}: {reason}"),
            quiet_cores,
            parts,
        )
        if lost:
            raise Unavailable(lost[0])
        return Raced(outcome.turns, parts * in_part)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Who is unavailable stands before the reason."""
    try:
        yield
    except Unavailable as error:
        raise Unavailable(f"{name}: {error}") from error
