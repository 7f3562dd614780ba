"""Tasks in this process, or in worker processes of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import Any, ClassVar, Self, TypeVar

from concordant.core.errors import ConfigError
from concordant.engines.base import CRASH, Engine, Failure, Outcome, attempt
from concordant.engines.worker import Worker, one_thread_each, stop_workers

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class LocalEngine(Engine):
    """Runs tasks in this process, or in several of this machine with one thread each.

    Attributes:
        workers: Number of processes; 1 = this one, unless `isolated`. More than one starts
            processes afresh, so a script needs `if __name__ == "__main__":`.
        isolated: Whether even one worker is a process of its own, so that a task that crashes its
            process does not end this one.
    """

    workers: int = 1
    isolated: bool = False
    is_remote: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse less than one worker."""
        if self.workers < 1:
            raise ConfigError(f"workers = {self.workers}: expected at least 1")

    @classmethod
    def of(cls, workers: int | None, address: str | None) -> Self:
        """Make an engine whose tasks end no other process than their own."""
        if address is not None:
            raise ConfigError(f"address {address!r} is for the engine 'ray', not 'local'")
        return cls(default_workers() if workers is None else workers, isolated=True)

    @property
    def processes(self) -> int:
        """Processes beside this one; 0 where this one does the work."""
        return self.workers if self.isolated or self.workers > 1 else 0

    def run(
        self,
        function: Callable[[T], R],
        tasks: Iterable[T],
        *,
        imports: Sequence[str] = (),
        gpu: bool = False,
    ) -> Generator[Outcome[R]]:
        """Run tasks one by one; two for each process are taken ahead."""
        numbered = enumerate(tasks)
        if not self.processes:
            yield from (attempt(function, task, imports, index) for index, task in numbered)
            return
        with open_pool(self.workers, imports=imports) as pool:
            pending: set[Future[Outcome[R]]] = set()
            while True:
                ahead = islice(numbered, 2 * self.workers - len(pending))
                pending |= {pool.submit(function, task, index) for index, task in ahead}
                if not pending:
                    return
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from [future.result() for future in finished]


def default_workers() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Worker processes, each served by a thread of this process; see `open_pool`."""

    def __init__(self, processes: int, imports: Sequence[str], attempts: int) -> None:
        """Start nothing yet: a process starts when there is a task and none is idle."""
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="worker")
        self._imports, self._attempts = tuple(imports), attempts
        self._idle: list[Worker] = []
        self._all: list[Worker] = []
        self._lock = Lock()
        self._closed = False

    def submit(
        self, function: Callable[[Any], Any], task: Any, index: int = 0
    ) -> Future[Outcome[Any]]:
        """Have a task done by the next process that is free."""
        return self._threads.submit(self._run, function, task, index)

    def close(self) -> None:
        """Stop the processes; what they had in hand is a crash."""
        with self._lock:
            self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        stop_workers(self._all)
        self._threads.shutdown(wait=True)

    def _run(self, function: Callable[[Any], Any], task: Any, index: int) -> Outcome[Any]:
        outcome: Outcome[Any] = Outcome(index, failure=Failure(CRASH, "the run was stopped"))
        for _ in range(self._attempts):
            worker = self._take()
            if worker is None:
                break
            outcome = worker.ask(function, task, index)
            if outcome.failure is None or outcome.failure.kind != CRASH:
                self._idle.append(worker)
                break
        return outcome

    def _take(self) -> Worker | None:
        """Return an idle process or a new one; None once the pool is closed."""
        with self._lock:
            if self._closed:
                return None
            while self._idle:
                worker = self._idle.pop()
                if worker.process.is_alive():  # it may have been killed while it had nothing to do
                    return worker
            worker = Worker(self._imports)
            self._all.append(worker)
            return worker


@contextmanager
def open_pool(processes: int, *, imports: Sequence[str] = (), attempts: int = 1) -> Iterator[Pool]:
    """Yield worker processes that are stopped when the block ends.

    Args:
        processes: How many at most.
        imports: Modules they import first.
        attempts: How often a task is tried whose process dies.
    """
    with one_thread_each():  # before the threads that start processes, and until they are gone
        pool = Pool(processes, imports, attempts)
        try:
            yield pool
        finally:
            pool.close()
