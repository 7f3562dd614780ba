"""Run independent tasks: in this process, or in worker processes that survive each other's crashes.

Other engines (a cluster, say) register themselves in `ENGINES`; a task must be safe to run twice,
since an engine may do so after a crash. The processes are those of `core.processes`; this module
imports nothing heavy either.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from multiprocessing.connection import wait
from typing import Any, Protocol, TypeVar

from concordant.core.errors import ConfigError, did_you_mean
from concordant.core.processes import Outcome, Worker, attempt, one_thread_each, stop_workers

T = TypeVar("T")
R = TypeVar("R")


class Engine(Protocol):
    """Something that runs tasks and yields their outcomes as they come, in any order."""

    def __call__(
        self,
        function: Callable[[Any], Any],
        tasks: Sequence[Any],
        *,
        workers: int,
        imports: Sequence[str],
    ) -> Generator[Outcome[Any]]:
        """Run every task once, and again only where a crash made that necessary."""


def run_tasks(
    function: Callable[[T], R],
    tasks: Sequence[T],
    *,
    workers: int | None = None,
    engine: str = "local",
    imports: Sequence[str] = (),
    on_done: Callable[[Outcome[R]], None] | None = None,
) -> tuple[Outcome[R], ...]:
    """Run a function on every task and return the outcomes in the order of the tasks.

    A task that raises, or whose process dies, yields a failure; the others go on. An interrupt
    (Ctrl-C) stops the workers, then is raised.

    Args:
        function: A function of a module; it and the tasks must be picklable where there is more
            than one worker.
        tasks: One argument each.
        workers: Number of processes with one thread each; 1 = in this process, None = one per
            processor.
        engine: A name in `ENGINES`.
        imports: Modules a worker imports first, so that components registered outside this package
            are known there.
        on_done: Called in this process with each outcome as it comes.

    Raises:
        ConfigError: An unknown engine, or fewer than one worker.
    """
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}.{did_you_mean(engine, ENGINES)}")
    count = default_workers() if workers is None else workers
    if count < 1:
        raise ConfigError(f"workers = {count}: expected at least 1")
    outcomes: dict[int, Outcome[R]] = {}
    with closing(
        ENGINES[engine](function, tasks, workers=count, imports=imports)
    ) as running:  # closed: an interrupt stops the workers
        for outcome in running:
            outcomes[outcome.index] = outcome
            if on_done is not None:
                on_done(outcome)
    return tuple(outcomes[index] for index in range(len(tasks)))


def default_workers() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_local(
    function: Callable[[T], R], tasks: Sequence[T], *, workers: int, imports: Sequence[str] = ()
) -> Generator[Outcome[R]]:
    """Run tasks in this process (one worker) or in processes started afresh.

    Never more workers than tasks.
    """
    if workers == 1:
        return (attempt(function, task, imports, index) for index, task in enumerate(tasks))
    return _run_processes(function, tasks, workers, tuple(imports))


ENGINES: dict[str, Engine] = {"local": run_local}
"""Engines by name."""


def _started(imports: tuple[str, ...]) -> Worker:
    with one_thread_each():
        return Worker(imports)


def _run_processes(
    function: Callable[[T], R], tasks: Sequence[T], workers: int, imports: tuple[str, ...]
) -> Generator[Outcome[R]]:
    waiting = deque(enumerate(tasks))
    idle: list[Worker] = []
    busy: list[Worker] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                index, task = waiting.popleft()
                worker = idle.pop() if idle else _started(imports)
                failure = worker.begin(function, task, index)
                (busy if failure is None else idle).append(worker)
                if failure is not None:
                    yield Outcome(index, failure=failure)
            ready = wait([worker.pipe for worker in busy])
            for worker in [worker for worker in busy if worker.pipe in ready]:
                outcome = worker.receive()
                busy.remove(worker)
                if worker.process.is_alive():
                    idle.append(worker)
                yield outcome
    finally:
        stop_workers(idle + busy)
