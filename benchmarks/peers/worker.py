"""The side of a race that runs inside a peer's own environment; standard library only.

    PEER/bin/python worker.py step32_torch.py 2

A task file defines `prepare(threads) -> (facts, run)`. `facts` is a dict: `same`, numbers that all peers must share for
the race to be fair; `images_per_step`; `about`, versions and settings for the record. `run(steps)` does that many steps
and returns what is worth a look, such as the loss.

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
import sys
import time
import types


def load(path: str) -> types.ModuleType:
    """The task file as a module that compilers can find again by its name."""
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def cpu_seconds() -> float:
    """User and system time, all threads and all children that were waited for."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def serve(path: str, threads: int) -> int:
    # Replies get the real standard output to themselves; what frameworks print goes to standard error.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def reply(**message: object) -> None:
        replies.write(json.dumps(message) + "\n")

    try:
        facts, run = load(path).prepare(threads)
        reply(facts=facts)
        waiting = cpu_seconds(), time.perf_counter()
        for line in sys.stdin:
            _, steps = line.split()
            start = cpu_seconds(), time.perf_counter()
            seen = run(int(steps))
            end = cpu_seconds(), time.perf_counter()
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
    sys.exit(serve(sys.argv[1], int(sys.argv[2])))
