"""Measures peers in alternating turns. Each peer is a process that waits while another process works.

    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(command, environ)) for name, command in ...}
        for worker in workers.values():
            worker.start()
        check_equal_work(workers)
        outcome = race(workers, steps={name: 10 for name in workers}, rounds=5, on_failure=print)

If a worker fails, `on_failure(name, reason)` is called and the race continues without this worker. Rounds in which
other programs took CPU time are repeated.
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
MAX_GRAY_LEVEL_DISTANCE = 8.0  # the means of two sets of 1024 random crops of the same photographs differ by 2


class UnequalWorkError(Exception):
    """The peers do not do the same work, so their times are not compared; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """One turn of a worker.

    Attributes:
      sample: CPU and wall time of the turn.
      idle: CPU and wall time of the wait before the turn.
      others_cpu_seconds: CPU seconds of other programs during the turn. The value is a difference of clocks that tick
        every 10 ms, so it may be negative for a short turn.
      seen: the values that the `run` of the task returned.
    """

    sample: Sample
    idle: Sample
    others_cpu_seconds: float
    seen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def others_cores(self) -> float:
        """The number of cores that other programs used during the turn."""
        return max(0.0, self.others_cpu_seconds) / max(self.sample.wall_seconds, 0.01)

    def __add__(self, later: Turn) -> Turn:
        """The sum of both turns, with `seen` of the later turn."""
        others = self.others_cpu_seconds + later.others_cpu_seconds
        return Turn(self.sample + later.sample, self.idle + later.idle, others, later.seen)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a race.

    Attributes:
      turns: {worker: its turns}; turns with the same index are adjacent in time.
      rounds_run: number of rounds that were run, including repeated rounds.
    """

    turns: dict[str, list[Turn]]
    rounds_run: int

    @property
    def others_cores(self) -> float:
        """The largest number of cores that other programs used during any turn that is included in the result."""
        return max((turn.others_cores for turns in self.turns.values() for turn in turns), default=0.0)

    def idle_cores(self, name: str) -> float:
        """The number of cores that a worker used while it waited. Spinning threads take time from the other workers."""
        waits = [turn.idle for turn in self.turns[name]]
        return sum(wait.cpu_seconds for wait in waits) / max(sum(wait.wall_seconds for wait in waits), 1e-9)


class Worker:
    """A process that runs `worker.py` with a task file; a context manager that ends the process.

    If the facts contain `works_ahead`, the process and its children are stopped (SIGSTOP) between its turns. Otherwise
    a loader would fill its buffers while another worker is measured, and seconds of work would be missing from its own
    turns. A stopped loader continues where it stopped, so its turns contain exactly the work of their steps, for any
    size of buffer.

    Attributes:
      facts: the facts that the `prepare` of the task returned; empty before `start`.
      seen: the values that `run` returned in each turn.
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
        """Starts the process and waits until its task is prepared.

        Raises:
          UnavailableError: the process failed or did not answer in time.
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
        """Runs one turn of `steps` steps and returns it.

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
        with contextlib.suppress(ProcessLookupError):  # the process has ended or has not created its process group yet
            os.killpg(self._process.pid, number)

    def _read_reply(self, timeout_seconds: float) -> dict[str, Any]:
        pipe = self._pipe(self._process.stdout)
        if not select.select([pipe], [], [], timeout_seconds)[0]:
            raise UnavailableError(f"no answer in {timeout_seconds:.0f} s")
        line = pipe.readline()
        if not line:
            self._log.seek(0)
            last = [text.strip() for text in self._log.read().splitlines() if text.strip()][-1:]
            raise UnavailableError(f"ended with exit code {self._process.wait()}: {(last or ['no message'])[0][:300]}")
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
      UnequalWorkError: the facts of two workers differ.
    """
    keys = dict.fromkeys(key for worker in workers.values() for key in worker.facts["same"])
    for key in keys:
        values = {name: worker.facts["same"].get(key) for name, worker in workers.items()}
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name} {value}" for name, value in values.items())
            raise UnequalWorkError(f"not compared: {key} must be equal but differ ({listed}): make the work equal.")


def find_dissimilar(workers: Mapping[str, Worker], tolerance: float = MAX_GRAY_LEVEL_DISTANCE) -> dict[str, str]:
    """Returns {worker: reason} for workers with a number under `alike` that is far from the median of all workers."""
    reasons: dict[str, str] = {}
    for key in dict.fromkeys(key for worker in workers.values() for key in worker.facts.get("alike", {})):
        values = {name: worker.facts["alike"][key] for name, worker in workers.items() if "alike" in worker.facts}
        median = statistics.median(values.values())
        # The distance of two values from their median is half of their difference, so the tolerance is halved, too.
        allowed = tolerance / 2 if len(values) == 2 else tolerance
        for name, value in values.items():
            if not abs(value - median) <= allowed:  # also true of NaN
                reasons.setdefault(name, f"its {key} is {value:.1f}, but the median of all peers is {median:.1f}")
    return reasons


def calibrate_steps(worker: Worker, seconds: float) -> int:
    """Returns the number of steps that take about `seconds`; warms up the worker and empties its prefetch buffers.

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
    """Runs the workers in turns A B C, C B A, ... of `parts` times `steps` steps; a first round does not count.

    The parts of the turns of a round alternate in the same way, so a disturbance that is longer than a part affects all
    workers equally.

    Runs until other programs used fewer than `max_others_cores` cores in each turn of `rounds` rounds, but at most
    `MAX_ROUNDS_FACTOR` times `rounds` rounds, and keeps the `rounds` rounds with the least disturbance. The choice
    depends only on the other programs, not on the measured times.
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
