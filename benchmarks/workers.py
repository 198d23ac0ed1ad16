"""Groups of cases run side by side in processes of their own; each case comes back as it ends.

    for case, values in run(groups, work, processes=2): ...

A group stays in one process, where its cases share what is compiled. `work(case)` runs there.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from evenkeel.pipeline.errors import UsageError

Case = Any
Work = Callable[[Case], dict[str, Any]]
PATIENCE = 2.0  # seconds between looks at whether the processes live


class Failed(Exception):
    """A process ended, or a case raised; its traceback is the message."""


def run(groups: Sequence[Sequence[Case]], make: Callable[[], Work], processes: int) -> Iterator[tuple[Case, Any]]:
    """(case, what its work returned), in the order in which they end; `make` is called once in each process.

    Raises:
      Failed: a case could not be run.
      UsageError: as a case raised it.
    """
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    todo, done = context.Queue(), context.Queue()
    for group in groups:
        todo.put(list(group))
    workers = [context.Process(target=_worker, args=(make, todo, done), daemon=True) for _ in range(processes)]
    for worker in workers:
        todo.put(None)
        worker.start()
    left = sum(map(len, groups))
    try:
        while left:
            try:
                case, values, error = done.get(timeout=PATIENCE)
            except queue.Empty:
                if not any(worker.is_alive() for worker in workers) and done.empty():
                    raise Failed(f"the processes ended with {left} cases to go") from None
                continue
            if isinstance(error, UsageError):
                raise error
            if error:
                raise Failed(error)
            left -= 1
            yield case, values
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _worker(make: Callable[[], Work], todo: Any, done: Any) -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # its notices would tear up the progress bar
    # Each of the processes has a core: handing small operations to threads costs a tenth to a quarter more.
    os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work = make()
        while (group := todo.get()) is not None:
            for case in group:
                done.put((case, work(case), ""))
    except UsageError as error:
        done.put((None, None, error))
    except BaseException:
        done.put((None, None, traceback.format_exc()))
        raise


def _end_with_parent() -> None:
    """However that ends: one that is killed cannot tell."""
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
