"""Peers measured in turns: each a process that waits while another works.

    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(command, environ)) for name, command in ...}
        for worker in workers.values():
            worker.start()
        refuse_unequal(workers)
        outcome = race(workers, steps={name: 10 for name in workers}, rounds=5, dropped=print)

A worker that fails leaves the race: `dropped(name, reason)`. Rounds in which other programs took CPU time are repeated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evenkeel.benchmarks.peers.environments import Unavailable
from evenkeel.benchmarks.timing import (
    PATIENCE,
    QUIET_CORES,
    Sample,
    machine_cpu_seconds,
    turns,
)

START_SECONDS = 900.0  # torch.compile took 80 s on two busy cores
TURN_SECONDS = 300.0
UNLIKE = 8.0  # gray levels; 1024 random crops of the same photographs differ by 2


class Refused(Exception):
    """The peers do not do the same work, so their times are not compared; the text is one line."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """One worker's turn: what it took, what its wait before took, the CPU seconds of others meanwhile.

    These are a difference of clocks that tick every 10 ms: of a short turn it may be negative. `seen` is what its `run`
    returned.
    """

    sample: Sample
    idle: Sample
    others_cpu_seconds: float
    seen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def others_cores(self) -> float:
        """How many cores others kept busy."""
        return max(0.0, self.others_cpu_seconds) / max(self.sample.wall_seconds, 0.01)

    def __add__(self, later: Turn) -> Turn:
        """Both as one; what was seen is the later one's."""
        others = self.others_cpu_seconds + later.others_cpu_seconds
        return Turn(self.sample + later.sample, self.idle + later.idle, others, later.seen)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Turns by worker, turn i of all of them next to each other in time, and how many rounds were run in all."""

    turns: dict[str, list[Turn]]
    rounds_run: int

    @property
    def others_cores(self) -> float:
        """The worst kept turn's."""
        return max((turn.others_cores for turns_ in self.turns.values() for turn in turns_), default=0.0)

    def idle_cores(self, name: str) -> float:
        """Cores a worker kept busy while it waited: threads that spin would take time from the others."""
        waits = [turn.idle for turn in self.turns[name]]
        return sum(wait.cpu_seconds for wait in waits) / max(sum(wait.wall_seconds for wait in waits), 1e-9)


class Worker:
    """A process that runs `worker.py` with a task file. Use as a context manager: it ends with the block.

    Where its facts say `works_ahead`, it and its children are stopped between its turns: a loader would fill its
    buffers in another's turn, seconds of work that its own turns would then lack. Stopped, it goes on where it was, so
    that its turns hold the work of exactly their steps, however deep its buffers are.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self.command, self.environ = list(command), dict(environ)
        self.facts: dict[str, Any] = {}
        self.seen: list[dict[str, float]] = []

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        if not hasattr(self, "_process"):
            return
        self._signal(signal.SIGCONT)
        with contextlib.suppress(OSError):
            self._pipe(self._process.stdin).close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._signal(signal.SIGKILL)  # what is left of its children
        self._pipe(self._process.stdout).close()
        self._log.close()

    def start(self, seconds: float = START_SECONDS) -> None:
        """Starts and waits until it has built its network and warmed up.

        Raises:
          Unavailable: it cannot.
        """
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed in __exit__)
        try:
            self._process = subprocess.Popen(
                self.command,
                env=self.environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
            )
        except OSError as error:
            self._log.close()
            raise Unavailable(f"{self.command[0]} cannot be run: {error.strerror}") from error
        self.facts = self._reply(seconds)["facts"]
        self._pause()

    def run(self, steps: int, seconds: float = TURN_SECONDS) -> Turn:
        """`steps` steps.

        Raises:
          Unavailable: it failed, died or gave no answer.
        """
        before = machine_cpu_seconds()
        self._signal(signal.SIGCONT)
        try:
            pipe = self._pipe(self._process.stdin)
            pipe.write(f"run {steps}\n")
            pipe.flush()
        except OSError:  # it has died; the reply says why
            pass
        reply = self._reply(seconds)
        self._pause()
        after = machine_cpu_seconds()
        sample = Sample(reply["cpu_seconds"], reply["wall_seconds"])
        others = 0.0
        if before is not None and after is not None:
            others = after - before - sample.cpu_seconds
        self.seen.append(reply["seen"])
        return Turn(sample, Sample(reply["idle_cpu_seconds"], reply["idle_wall_seconds"]), others, reply["seen"])

    def _pause(self) -> None:
        if self.facts.get("works_ahead"):
            self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended, or not yet come as far as its own group
            os.killpg(self._process.pid, number)

    def _reply(self, seconds: float) -> dict[str, Any]:
        pipe = self._pipe(self._process.stdout)
        if not select.select([pipe], [], [], seconds)[0]:
            raise Unavailable(f"no answer in {seconds:.0f} s")
        line = pipe.readline()
        if not line:
            self._log.seek(0)
            last = [text.strip() for text in self._log.read().splitlines() if text.strip()][-1:]
            raise Unavailable(f"exited with code {self._process.wait()}: {(last or ['no message'])[0][:300]}")
        reply = json.loads(line)
        if "error" in reply:
            raise Unavailable(reply["error"])
        return reply

    @staticmethod
    def _pipe(pipe: Any) -> Any:
        assert pipe is not None
        return pipe


def refuse_unequal(workers: Mapping[str, Worker]) -> None:
    """Raises `Refused` unless all workers report the same facts under `same` (parameters, batch, ...)."""
    keys = dict.fromkeys(key for worker in workers.values() for key in worker.facts["same"])
    for key in keys:
        values = {name: worker.facts["same"].get(key) for name, worker in workers.items()}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name} {value}" for name, value in values.items())
            raise Refused(f"not compared: {key} must be equal and are not ({listed}); make the networks one.")


def unlike(workers: Mapping[str, Worker], tolerance: float = UNLIKE) -> dict[str, str]:
    """Why a worker does not do the work of the others: a number of its `alike` is far from their median."""
    reasons: dict[str, str] = {}
    for key in dict.fromkeys(key for worker in workers.values() for key in worker.facts.get("alike", {})):
        values = {name: worker.facts["alike"][key] for name, worker in workers.items() if "alike" in worker.facts}
        middle = statistics.median(values.values())
        # Of two, both are as far from their median as it is from them: what counts is how far apart they are.
        allowed = tolerance / 2 if len(values) == 2 else tolerance
        for name, value in values.items():
            if not abs(value - middle) <= allowed:  # not a number is unlike, too
                reasons.setdefault(name, f"its {key} is {value:.1f}, the median of all peers' {middle:.1f}")
    return reasons


def steps_of_a_turn(worker: Worker, seconds: float) -> int:
    """How many steps take about so many seconds; the worker has warmed up and emptied its buffers afterwards.

    Raises:
      Unavailable: it failed.
    """
    steps = 1
    while worker.run(steps).sample.wall_seconds < seconds / 2:
        steps *= 2
    return max(1, round(steps * seconds / worker.run(steps).sample.wall_seconds))


def race(
    workers: Mapping[str, Worker],
    steps: Mapping[str, int],
    rounds: int,
    dropped: Callable[[str, str], None],
    quiet_cores: float = QUIET_CORES,
    parts: int = 1,
) -> Outcome:
    """Turns A B C, C B A, ... of `parts` times so many steps each, after one uncounted turn each.

    The parts of a round's turns alternate in the same way: what lasts for longer than a part falls on all alike.

    Goes on until `rounds` rounds were quiet, that is other programs took less than `quiet_cores` in each turn, at most
    `PATIENCE` times as many; keeps the `rounds` quietest. Which they are depends on the neighbours, not on the times.
    """
    running = dict(workers)
    kept: list[dict[str, Turn]] = []

    def round_of(names: Sequence[str]) -> dict[str, Turn]:
        taken: dict[str, Turn] = {}
        for part in range(parts):
            for name in turns([name for name in names if name in running], part):
                try:
                    turn = running[name].run(steps[name])
                    taken[name] = taken[name] + turn if part else turn
                except Unavailable as error:
                    dropped(name, str(error))
                    del running[name]
                    taken.pop(name, None)
        return taken

    def noise(turns_: dict[str, Turn]) -> float:
        return max((turn.others_cores for turn in turns_.values()), default=0.0)

    round_of(list(running))
    rounds_run = 0
    while running and rounds_run < PATIENCE * rounds and sum(noise(t) < quiet_cores for t in kept) < rounds:
        kept.append(round_of(turns(list(running), rounds_run)))
        rounds_run += 1
    quietest = sorted(sorted(range(len(kept)), key=lambda i: noise(kept[i]))[:rounds])
    by_name = {name: [kept[i][name] for i in quietest] for name in running}
    return Outcome(by_name, rounds_run)
