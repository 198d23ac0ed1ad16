"""Measures peers in alternating turns: each is a process that waits while another one works.

    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(command, environ)) for name, command in ...}
        for worker in workers.values():
            worker.start()
        check_equal_work(workers)
        outcome = race(workers, steps={name: 10 for name in workers}, rounds=5, on_failure=print)

A worker that fails leaves the race: `on_failure(name, reason)` is called. Rounds in which other programs took CPU time
are repeated.
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

from evenkeel.benchmarks.peers.environments import UnavailableError
from evenkeel.benchmarks.timing import (
    MAX_OTHERS_CORES,
    MAX_ROUNDS_FACTOR,
    Sample,
    machine_cpu_seconds,
    turn_order,
)

START_TIMEOUT_SECONDS = 900.0  # torch.compile took 80 s on two busy cores
TURN_TIMEOUT_SECONDS = 300.0
MAX_GRAY_LEVEL_DISTANCE = 8.0  # two means over 1024 random crops of the same photographs differ by 2


class UnequalWorkError(Exception):
    """The peers do not do the same work, so their times are not compared; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """One worker's turn.

    Attributes:
      sample: time of the turn.
      idle: time of the wait before the turn.
      others_cpu_seconds: CPU seconds of other programs during the turn. As a difference of clocks that tick every
        10 ms, it may be negative for a short turn.
      seen: what the task's `run` returned.
    """

    sample: Sample
    idle: Sample
    others_cpu_seconds: float
    seen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def others_cores(self) -> float:
        """The number of cores that other programs kept busy."""
        return max(0.0, self.others_cpu_seconds) / max(self.sample.wall_seconds, 0.01)

    def __add__(self, later: Turn) -> Turn:
        """Both turns as one, with `seen` of the later one."""
        others = self.others_cpu_seconds + later.others_cpu_seconds
        return Turn(self.sample + later.sample, self.idle + later.idle, others, later.seen)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a race.

    Attributes:
      turns: turns by worker; turns with one index are next to each other in time.
      rounds_run: rounds that were run, repeated ones included.
    """

    turns: dict[str, list[Turn]]
    rounds_run: int

    @property
    def others_cores(self) -> float:
        """The largest number of cores that other programs kept busy in a turn that counts."""
        return max((turn.others_cores for turns in self.turns.values() for turn in turns), default=0.0)

    def idle_cores(self, name: str) -> float:
        """The number of cores a worker kept busy while it waited: spinning threads take time from the other workers."""
        waits = [turn.idle for turn in self.turns[name]]
        return sum(wait.cpu_seconds for wait in waits) / max(sum(wait.wall_seconds for wait in waits), 1e-9)


class Worker:
    """A process that runs `worker.py` with a task file. It is a context manager; the process ends with the block.

    If the facts say `works_ahead`, the process and its children are stopped (SIGSTOP) between its turns. Otherwise a
    loader would fill its buffers during another worker's turn: seconds of work that its own turns would then lack. A
    stopped loader continues where it was, so its turns hold exactly the work of their steps, however deep its buffers
    are.

    Attributes:
      facts: what the task's `prepare` reported; empty before `start`.
      seen: what each turn's `run` returned.
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
        self._signal(signal.SIGKILL)  # ends children that still run
        self._pipe(self._process.stdout).close()
        self._log.close()

    def start(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> None:
        """Starts the process and waits until it has built its network and warmed up.

        Raises:
          UnavailableError: it failed.
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
            raise UnavailableError(f"{self.command[0]} cannot be run: {error.strerror}") from error
        self.facts = self._read_reply(timeout_seconds)["facts"]
        self._pause()

    def run(self, steps: int, timeout_seconds: float = TURN_TIMEOUT_SECONDS) -> Turn:
        """Runs `steps` steps.

        Raises:
          UnavailableError: the process failed, ended or did not answer in time.
        """
        machine_before = machine_cpu_seconds()
        self._signal(signal.SIGCONT)
        try:
            pipe = self._pipe(self._process.stdin)
            pipe.write(f"run {steps}\n")
            pipe.flush()
        except OSError:  # the process has ended; reading the reply gives the reason
            pass
        reply = self._read_reply(timeout_seconds)
        self._pause()
        machine_after = machine_cpu_seconds()
        sample = Sample(reply["cpu_seconds"], reply["wall_seconds"])
        others = 0.0
        if machine_before is not None and machine_after is not None:
            others = machine_after - machine_before - sample.cpu_seconds
        self.seen.append(reply["seen"])
        return Turn(sample, Sample(reply["idle_cpu_seconds"], reply["idle_wall_seconds"]), others, reply["seen"])

    def _pause(self) -> None:
        if self.facts.get("works_ahead"):
            self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended, or has not made its own process group yet
            os.killpg(self._process.pid, number)

    def _read_reply(self, timeout_seconds: float) -> dict[str, Any]:
        pipe = self._pipe(self._process.stdout)
        if not select.select([pipe], [], [], timeout_seconds)[0]:
            raise UnavailableError(f"no answer in {timeout_seconds:.0f} s")
        line = pipe.readline()
        if not line:
            self._log.seek(0)
            last = [text.strip() for text in self._log.read().splitlines() if text.strip()][-1:]
            raise UnavailableError(f"exited with code {self._process.wait()}: {(last or ['no message'])[0][:300]}")
        reply = json.loads(line)
        if "error" in reply:
            raise UnavailableError(reply["error"])
        return reply

    @staticmethod
    def _pipe(pipe: Any) -> Any:
        assert pipe is not None
        return pipe


def check_equal_work(workers: Mapping[str, Worker]) -> None:
    """Checks that all workers report the same facts under `same` (parameters, batch size, ...).

    Raises:
      UnequalWorkError: they differ.
    """
    keys = dict.fromkeys(key for worker in workers.values() for key in worker.facts["same"])
    for key in keys:
        values = {name: worker.facts["same"].get(key) for name, worker in workers.items()}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name} {value}" for name, value in values.items())
            raise UnequalWorkError(f"not compared: {key} must be equal but differ ({listed}); make the work equal.")


def find_dissimilar(workers: Mapping[str, Worker], tolerance: float = MAX_GRAY_LEVEL_DISTANCE) -> dict[str, str]:
    """{worker: reason} of workers whose output differs: a number under `alike` is far from the median of all."""
    reasons: dict[str, str] = {}
    for key in dict.fromkeys(key for worker in workers.values() for key in worker.facts.get("alike", {})):
        values = {name: worker.facts["alike"][key] for name, worker in workers.items() if "alike" in worker.facts}
        median = statistics.median(values.values())
        # Of two values, both are equally far from their median: half their distance. So the tolerance is halved, too.
        allowed = tolerance / 2 if len(values) == 2 else tolerance
        for name, value in values.items():
            if not abs(value - median) <= allowed:  # also true of NaN
                reasons.setdefault(name, f"its {key} is {value:.1f}, the median of all peers' {median:.1f}")
    return reasons


def calibrate_steps(worker: Worker, seconds: float) -> int:
    """The number of steps that take about `seconds`; also warms up the worker and empties its prefetch buffers.

    Raises:
      UnavailableError: the worker failed.
    """
    steps = 1
    while worker.run(steps).sample.wall_seconds < seconds / 2:
        steps *= 2
    return max(1, round(steps * seconds / worker.run(steps).sample.wall_seconds))


def race(
    workers: Mapping[str, Worker],
    steps: Mapping[str, int],
    rounds: int,
    on_failure: Callable[[str, str], None],
    max_others_cores: float = MAX_OTHERS_CORES,
    parts: int = 1,
) -> Outcome:
    """Runs turns A B C, C B A, ... of `parts` times `steps` steps, after one turn of each that does not count.

    The parts of a round's turns alternate in the same way, so a disturbance longer than a part hits all workers alike.

    Runs until other programs took less than `max_others_cores` in each turn of `rounds` rounds, but at most
    `MAX_ROUNDS_FACTOR` times as many rounds, and keeps the quietest `rounds`. The choice depends on the other programs
    only, not on the measured times.
    """
    running = dict(workers)
    completed: list[dict[str, Turn]] = []

    def run_round(names: Sequence[str]) -> dict[str, Turn]:
        round_turns: dict[str, Turn] = {}
        for part in range(parts):
            for name in turn_order([name for name in names if name in running], part):
                try:
                    turn = running[name].run(steps[name])
                    round_turns[name] = round_turns[name] + turn if part else turn
                except UnavailableError as error:
                    on_failure(name, str(error))
                    del running[name]
                    round_turns.pop(name, None)
        return round_turns

    def noise(round_turns: dict[str, Turn]) -> float:
        return max((turn.others_cores for turn in round_turns.values()), default=0.0)

    def quiet_rounds() -> int:
        return sum(noise(round_turns) < max_others_cores for round_turns in completed)

    run_round(list(running))
    rounds_run = 0
    while running and rounds_run < MAX_ROUNDS_FACTOR * rounds and quiet_rounds() < rounds:
        completed.append(run_round(turn_order(list(running), rounds_run)))
        rounds_run += 1
    quietest = sorted(sorted(range(len(completed)), key=lambda index: noise(completed[index]))[:rounds])
    by_name = {name: [completed[index][name] for index in quietest] for name in running}
    return Outcome(by_name, rounds_run)
