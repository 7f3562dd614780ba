"""Worker processes that survive each other's crashes and do not outlive the process that started
them.

This module imports nothing heavy: a worker sets its threads before anything loads numpy or torch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from concordant.core.errors import ConcordantError

T = TypeVar("T")
R = TypeVar("R")

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


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task has no result.

    Attributes:
        kind: Name of the exception's class, or "WorkerCrash" where the process died.
        message: The exception's message.
        expected: True for a `ConcordantError`: the input is at fault and the message says what to
            do.
        details: The traceback; empty for a crash.
    """

    kind: str
    message: str
    expected: bool = False
    details: str = ""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R]):
    """What became of one task.

    Attributes:
        index: Position of the task in the sequence given.
        value: What the function returned; None after a failure.
        failure: Why there is no value, or None.
    """

    index: int
    value: R | None = None
    failure: Failure | None = None


def attempt(
    function: Callable[[T], R], task: T, imports: Sequence[str] = (), index: int = _UNKNOWN
) -> Outcome[R]:
    """Run a function on a task in this process and return what became of it.

    Modules in `imports` come first.
    """
    try:
        for module in imports:
            import_module(module)
        return Outcome(index, function(task))
    except Exception as error:
        return Outcome(index, failure=_failure(error))


def _failure(error: Exception) -> Failure:
    """Keep an exception as text, which always passes between processes."""
    details = "".join(traceback.format_exception(error))
    return Failure(type(error).__name__, str(error), isinstance(error, ConcordantError), details)


class Worker:
    """A process that serves one task at a time, and this side of its pipe."""

    def __init__(self, imports: tuple[str, ...] = ()) -> None:
        """Start the process; it inherits the environment, see `one_thread_each`."""
        context = multiprocessing.get_context("spawn")
        self.pipe, far_end = context.Pipe()
        self.process = context.Process(target=_serve, args=(far_end, imports), daemon=True)
        self.process.start()
        far_end.close()
        self.index = _UNKNOWN

    def begin(self, function: Callable[[Any], Any], task: Any, index: int) -> Failure | None:
        """Send a task, or return why it cannot be sent.

        A process that is gone is noticed by `receive`.
        """
        self.index = index
        try:
            self.pipe.send((function, task))
        except ConnectionError:
            return None
        except Exception as error:  # a task that cannot be pickled raises whatever its class raises
            return _failure(error)
        return None

    def receive(self) -> Outcome[Any]:
        """Return what became of the task in hand; a process that died is a failure of its task."""
        try:
            outcome: Outcome[Any] = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return Outcome(
                self.index, failure=Failure("WorkerCrash", _crash_message(self.process.exitcode))
            )
        except Exception as error:  # the same for a result that cannot be unpickled
            return Outcome(self.index, failure=_failure(error))
        return replace(outcome, index=self.index)


def _crash_message(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"the worker process exited with code {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = "; often the memory ran out: use fewer workers" if name == "SIGKILL" else ""
    return f"the worker process was ended by {name}{hint}"


def stop_workers(workers: Sequence[Worker]) -> None:
    """End processes: ask all, wait a little, insist."""
    for worker in workers:
        worker.pipe.close()
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


def _serve(pipe: Connection[Any, Any], imports: tuple[str, ...]) -> None:
    """Serve tasks until the pipe closes: the life of a worker process."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, _leave)
    end_with_parent()
    os.environ["NUMBA_NUM_THREADS"] = (
        "1"  # set here only: numba refuses a change in a process whose threads run
    )
    try:
        _serve_tasks(pipe, imports)
    finally:
        signal.signal(
            signal.SIGTERM, signal.SIG_IGN
        )  # it is leaving: a signal now would only disturb what is left to do


def _serve_tasks(pipe: Connection[Any, Any], imports: tuple[str, ...]) -> None:
    while True:
        try:
            function, task = pipe.recv()
        except EOFError:
            return
        except Exception as error:
            _reply(pipe, Outcome(_UNKNOWN, failure=_failure(error)))
        else:
            _reply(pipe, attempt(function, task, imports))


def _leave(number: int, frame: object) -> None:
    """Unwind, so that half-written temporary files are removed."""
    raise SystemExit(128 + number)


def _reply(pipe: Connection[Any, Any], outcome: Outcome[Any]) -> None:
    try:
        pipe.send(outcome)
    except ConnectionError:
        raise SystemExit(1) from None  # the parent is gone
    except Exception as error:  # a result that cannot be pickled
        pipe.send(Outcome(_UNKNOWN, failure=_failure(error)))


def end_with_parent() -> None:
    """Let this worker process end as soon as its parent is gone, killed without a word perhaps.

    What it works on, a new run does again.

    A parent that ends in an orderly way stops its workers itself. Called once, in the worker;
    elsewhere it does nothing.
    """
    if multiprocessing.parent_process() is not None:
        threading.Thread(target=_wait_and_end, name="end with parent", daemon=True).start()


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
