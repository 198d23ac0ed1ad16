"""The side of a race that runs inside a peer's own environment; standard library only.

    PEER/bin/python worker.py step32_torch.py 2
    PEER/bin/python worker.py load_torch.py 2 '{"folder": "/data/jpeg224"}'

A task file defines `prepare(threads, **settings) -> (facts, run)`. `facts` is a dict: `same`, what all peers must share
for the race to be fair; `alike`, numbers that may differ a little, such as the mean of what they put out;
`images_per_step`; `about`, versions and settings for the record; `works_ahead`, true for who goes on working when `run`
has returned and must be stopped. `run(steps)` does that many steps and returns what is worth a look, such as the loss.

Prints one line of JSON once ready, then one for each line `run STEPS` it reads, until its input ends:
    {"facts": {...}}   {"error": ".."}
    {"cpu_seconds": .., "wall_seconds": .., "idle_cpu_seconds": .., "idle_wall_seconds": .., "seen": {...}}
"Idle" is the time since the reply before.
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


def load(path: str) -> types.ModuleType:
    """The task file as a module that compilers and child processes can find again by its name."""
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def cpu_seconds() -> float:
    """User and system time of all threads, and of the descendants that were waited for."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def living_descendants_cpu_seconds(ancestor: int) -> float:
    """What getrusage leaves out: the time of children that still live, such as a loader's worker processes.

    Out of /proc, to 10 ms a process; 0 where there is no /proc.
    """
    parent, ticks = {}, {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()  # the name before it may hold spaces
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
            # proc(5): ppid is field 4, utime to cstime are 14 to 17; the first here is field 3.
            parent[int(name)], ticks[int(name)] = int(fields[1]), sum(map(int, fields[11:15]))
    family = {ancestor}
    grown = True
    while grown:
        young = {pid for pid, of in parent.items() if of in family} - family
        family |= young
        grown = bool(young)
    return sum(ticks[pid] for pid in family - {ancestor}) / os.sysconf("SC_CLK_TCK")


def serve(path: str, threads: int, settings: dict[str, str]) -> int:
    os.setpgid(0, 0)  # so that all of its processes can be stopped at once, and end when what started it is killed:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the kernel then sends this one, which nohup has children ignore
    # Replies get the real standard output to themselves; what frameworks print goes to standard error.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def reply(**message: object) -> None:
        replies.write(json.dumps(message) + "\n")

    try:
        facts, run = load(path).prepare(threads, **settings)
        reply(facts=facts)
        own = os.getpid()
        waiting = cpu_seconds() + living_descendants_cpu_seconds(own), time.perf_counter()
        for line in sys.stdin:
            _, steps = line.split()
            # To go through /proc takes 1.3 ms with 63 processes: before the turn and behind it.
            start = living_descendants_cpu_seconds(own) + cpu_seconds(), time.perf_counter()
            seen = run(int(steps))
            taken, clock = cpu_seconds(), time.perf_counter()
            end = taken + living_descendants_cpu_seconds(own), clock
            reply(
                cpu_seconds=end[0] - start[0],
                wall_seconds=end[1] - start[1],
                idle_cpu_seconds=start[0] - waiting[0],
                idle_wall_seconds=start[1] - waiting[1],
                seen=seen,
            )
            waiting = end
    except Exception as error:
        reply(error=" ".join(f"{type(error).__name__}: {error}".split())[:300])
        raise
    return 0


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}))
