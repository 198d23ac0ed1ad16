"""Runs a task file inside the environment of a peer, as a worker of a race; imports only the standard library.

    PEER/bin/python worker.py step32_torch.py 2
    PEER/bin/python worker.py load_torch.py 2 '{"folder": "/data/jpeg224"}'

A task file defines `prepare(threads, **settings) -> (facts, run)`; it may import the modules beside it. The facts:
    same             values that must be equal for all peers, so that the comparison is fair
    alike            numbers that may differ a little, such as the mean of the images
    images_per_step
    about            versions and settings, for the record
    works_ahead      true if the peer continues to work after `run` has returned, so it must be stopped between turns
`run(steps)` runs this number of steps and returns values to record, such as the loss.

The worker prints one line of JSON when it is ready, and then one for each line `run STEPS` that it reads, until its
input ends:
    {"facts": {...}}   {"error": ".."}
    {"cpu_seconds": .., "wall_seconds": .., "idle_cpu_seconds": .., "idle_wall_seconds": .., "seen": {...}}
"Idle" is the time since the previous reply; "seen" contains the values that `run` returned.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import signal
import sys
import time
import types


def serve(path: str, threads: int, settings: dict[str, str]) -> int:
    """Prepares the task file `path` and answers requests until the standard input ends; returns the exit code."""
    # The worker has its own process group, so that all its processes can be stopped at once. If the parent process is
    # killed, the kernel sends SIGHUP to the stopped group, which ends it. The default action is set, because under
    # nohup children inherit that this signal is ignored.
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Replies go to the real standard output; text that frameworks print goes to standard error instead.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def reply(**message: object) -> None:
        replies.write(json.dumps(message) + "\n")

    try:
        facts, run = load_task(path).prepare(threads, **settings)
        reply(facts=facts)
        pid = os.getpid()
        idle_start = cpu_seconds() + living_descendants_cpu_seconds(pid), time.perf_counter()
        for line in sys.stdin:
            _, steps = line.split()
            # Reading /proc takes 1.3 ms with 63 processes, so it is read before and after the timed part of the turn.
            start = living_descendants_cpu_seconds(pid) + cpu_seconds(), time.perf_counter()
            seen = run(int(steps))
            cpu_end, wall_end = cpu_seconds(), time.perf_counter()
            end = cpu_end + living_descendants_cpu_seconds(pid), wall_end
            reply(
                cpu_seconds=end[0] - start[0],
                wall_seconds=end[1] - start[1],
                idle_cpu_seconds=start[0] - idle_start[0],
                idle_wall_seconds=start[1] - idle_start[1],
                seen=seen,
            )
            idle_start = end
    except Exception as error:
        reply(error=" ".join(f"{type(error).__name__}: {error}".split())[:300])
        raise
    return 0


def load_task(path: str) -> types.ModuleType:
    """Imports the task file under its own name, so that compilers and child processes can import it again."""
    # The folder of the task file comes first, because another version of evenkeel has its own modules with equal names.
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def cpu_seconds() -> float:
    """User and system time of all threads and of the descendants that were waited for, in seconds."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def living_descendants_cpu_seconds(ancestor: int) -> float:
    """CPU seconds of descendants that still run, such as the worker processes of a loader. getrusage excludes them.

    The times come from /proc, with a resolution of 10 ms per process; the result is 0 if there is no /proc.
    """
    parents, ticks = {}, {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()  # the process name before it may contain spaces
            except (FileNotFoundError, ProcessLookupError):  # the process has just ended
                continue
            # proc(5): ppid is field 4, and utime to cstime are fields 14 to 17. `fields` starts with field 3.
            parents[int(name)], ticks[int(name)] = int(fields[1]), sum(map(int, fields[11:15]))
    family = {ancestor}
    growing = True
    while growing:
        children = {pid for pid, parent in parents.items() if parent in family} - family
        family |= children
        growing = bool(children)
    return sum(ticks[pid] for pid in family - {ancestor}) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}))
