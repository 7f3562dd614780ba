"""A worker process: it survives the crash of any other, and does not outlive its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from concordant.engines.base import CRASH, Failure, Outcome, attempt

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
_STOP_SECONDS = 5.0
_UNKNOWN = -1  # a worker does not know which task it has; the process that gave it the task does


class Worker:
    """A process that serves one task at a time, and this side of its pipe."""

    def __init__(self, imports: Sequence[str] = ()) -> None:
        """Start the process; it inherits the environment, see `one_thread_each`."""
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(far_end, imports), daemon=True)
        self.process.start()
        far_end.close()

    def ask(self, function: Callable[[Any], Any], task: Any, index: int) -> Outcome[Any]:
        """Have a task done and return what became of it; a process that dies fails its task."""
        try:
            self._pipe.send((function, task))
            outcome: Outcome[Any] = self._pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            crash = Failure(CRASH, _crash_message(self.process.exitcode))
            return Outcome(index, failure=crash)
        except Exception as error:  # what cannot be pickled raises whatever its class raises
            return Outcome(index, failure=Failure.of(error))
        return replace(outcome, index=index)


def _crash_message(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"the worker process exited with code {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = "; often the memory ran out: use fewer workers" if name == "SIGKILL" else ""
    return f"the worker process was ended by {name}{hint}"


def stop_workers(workers: Sequence[Worker]) -> None:
    """End processes: ask all, wait a little, insist."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.join(_STOP_SECONDS)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let processes started here use one thread each.

    Libraries read these variables when they are loaded.

    Enter and leave it while no other thread works: compiled code may read the environment at any
    time, and a change under its eyes is a segmentation fault.
    """
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _serve(pipe: Connection[Any, Any], imports: Sequence[str]) -> None:
    """Serve tasks until the pipe closes: the life of a worker process."""
    # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()
    # set here only: numba refuses a change in a process whose threads run
    os.environ["NUMBA_NUM_THREADS"] = "1"
    try:
        while True:
            _serve_task(pipe, imports)
    except EOFError:
        return
    finally:
        # it is leaving: a signal now would only disturb what is left to do
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _serve_task(pipe: Connection[Any, Any], imports: Sequence[str]) -> None:
    try:
        function, task = pipe.recv()
    except EOFError:
        raise
    except Exception as error:
        outcome: Outcome[Any] = Outcome(_UNKNOWN, failure=Failure.of(error))
    else:
        outcome = attempt(function, task, imports, _UNKNOWN)
    try:
        pipe.send(outcome)
    except ConnectionError:
        raise SystemExit(1) from None  # the parent is gone
    except Exception as error:  # a result that cannot be pickled
        pipe.send(Outcome(_UNKNOWN, failure=Failure.of(error)))


def _leave(number: int, frame: object) -> None:
    """Unwind, so that half-written temporary files are removed."""
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    """End as soon as the parent is gone, killed without a word perhaps.

    What is in hand, a new run does again. A parent that ends in an orderly way stops its workers
    itself.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
