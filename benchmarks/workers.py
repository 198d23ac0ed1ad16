"""Runs groups of cases in parallel worker processes and yields each case when it ends.

    for case, values in run_groups(groups, make_work, processes=2): ...

All cases of a group run in the same process, where they share compiled functions. Each process calls `make_work()` once
to get the function that runs a case.
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
POLL_SECONDS = 2.0  # interval between checks that the processes are alive


class WorkerError(Exception):
    """A worker process ended early, or a case raised an exception; the message contains the traceback."""


def run_groups(
    groups: Sequence[Sequence[Case]], make_work: Callable[[], Work], processes: int
) -> Iterator[tuple[Case, Any]]:
    """Yields (case, the values that the case returned), in the order in which the cases end.

    Raises:
      WorkerError: a case could not be run.
      UsageError: a case raised a `UsageError`.
    """
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    todo, done = context.Queue(), context.Queue()
    for group in groups:
        todo.put(list(group))
    workers = [context.Process(target=_work_loop, args=(make_work, todo, done), daemon=True) for _ in range(processes)]
    for worker in workers:
        todo.put(None)
        worker.start()
    remaining = sum(map(len, groups))
    try:
        while remaining:
            try:
                case, values, error = done.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if not any(worker.is_alive() for worker in workers) and done.empty():
                    raise WorkerError(f"all worker processes ended before {remaining} of the cases had run") from None
                continue
            if isinstance(error, UsageError):
                raise error
            if error:
                raise WorkerError(error)
            remaining -= 1
            yield case, values
    finally:
        for worker in workers:
            worker.terminate()
            worker.join()


def _work_loop(make_work: Callable[[], Work], todo: Any, done: Any) -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow's notices would break up the progress bar
    # One thread per process: passing small operations to other threads costs 10% to 25% more CPU time.
    os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        work = make_work()
        while (group := todo.get()) is not None:
            for case in group:
                done.put((case, work(case), ""))
    except UsageError as error:
        done.put((None, None, error))
    except BaseException:
        done.put((None, None, traceback.format_exc()))
        raise


def _exit_with_parent() -> None:
    """Makes this process end when its parent ends, even by SIGKILL, which the parent cannot forward."""
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
