"""Tasks on a Ray cluster, in batches that are worth sending."""

from __future__ import annotations

import math
import os
import pickle
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import length_hint
from typing import Any, ClassVar, Self, TypeVar

from concordant.core.errors import ConfigError
from concordant.engines.base import CRASH, Engine, Failure, Outcome, attempt
from concordant.engines.worker import THREAD_VARIABLES

T = TypeVar("T")
R = TypeVar("R")

BATCH_SECONDS = 5.0
"""Work that a batch holds at least, where there are tasks enough."""

_BATCHES_PER_PROCESSOR = 2
_LARGEST_BATCH = 1000
_SECONDS_TO_CONNECT = 5.0
_CRASHES = 3
_LOSSES = 20


@dataclass(frozen=True, slots=True)
class RayEngine(Engine):
    """Runs tasks on a Ray cluster.

    A task whose process dies is tried three times, one whose machine is lost twenty; the others of
    its batch run again elsewhere.

    Attributes:
        address: Of a cluster that runs ("auto" finds one on this machine); None starts one of this
            machine alone.
        cpus: Processors that each task reserves.
    """

    address: str | None = None
    cpus: int = 1
    is_remote: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse less than one processor."""
        if self.cpus < 1:
            raise ConfigError(f"cpus = {self.cpus}: expected at least 1")

    @classmethod
    def of(cls, workers: int | None, address: str | None) -> Self:
        """Make an engine whose tasks reserve that many processors."""
        return cls(address, 1 if workers is None else workers)

    @property
    def processes(self) -> int:
        """Processes that a task may start where it runs."""
        return self.cpus

    def run(
        self,
        function: Callable[[T], R],
        tasks: Iterable[T],
        *,
        imports: Sequence[str] = (),
        gpu: bool = False,
    ) -> Generator[Outcome[R]]:
        """Run tasks in batches; each outcome comes when its task is done."""
        ray = _connected(self.address)
        gpus = int(gpu and ray.cluster_resources().get("GPU", 0) > 0)
        work = ray.remote(num_cpus=self.cpus, num_gpus=gpus, max_retries=0)(_work)
        place = _Place(tuple(imports), tuple(sys.path), self.cpus)
        given = ray.put(ray.cloudpickle.dumps(function))
        waiting = _Waiting(tasks, ray)
        running: dict[Any, deque[_Task]] = {}
        try:
            while True:
                slots = int(ray.cluster_resources().get("CPU", 1)) // self.cpus
                limit = max(1, _BATCHES_PER_PROCESSOR * slots)
                while len(running) < limit and (batch := waiting.take(limit)):
                    stream = work.remote(place, given, [task.packed for task in batch])
                    running[stream] = batch
                if not running:
                    yield from waiting.unsent
                    return
                ((stream, *_), _) = ray.wait(list(running))
                yield from _received(ray, stream, running, waiting)
        finally:
            for stream in running:
                ray.cancel(stream, force=True)


@dataclass(frozen=True, slots=True)
class _Task:
    index: int
    packed: bytes


class _Waiting:
    """Tasks that wait to be sent, handed out in batches by the time that those before them took."""

    def __init__(self, tasks: Iterable[Any], ray: Any) -> None:
        self._left, self._ray = enumerate(tasks), ray
        self._count = length_hint(tasks, _LARGEST_BATCH)
        self._again: deque[_Task] = deque()
        self._seconds: deque[float] = deque(maxlen=32)
        self._lost: Counter[int] = Counter()
        self.unsent: list[Outcome[Any]] = []
        """Outcomes of tasks that cannot be pickled."""

    def take(self, shares: int) -> deque[_Task]:
        """Return the next batch: enough work, but no more than a share of what is left."""
        batch: deque[_Task] = deque()
        size = min(self._enough(), max(1, math.ceil(self._count / shares)))
        while len(batch) < size and (task := self._next()) is not None:
            batch.append(task)
        return batch

    def took(self, seconds: float) -> None:
        """Learn how long a task took."""
        self._seconds.append(seconds)

    def lost(self, batch: deque[_Task], error: Exception, limit: int) -> Iterator[Outcome[Any]]:
        """Take back a batch that was lost; its first task was in hand and may be to blame."""
        self._again.extendleft(reversed(batch))
        first = batch[0].index
        self._lost[first] += 1
        if self._lost[first] >= limit:
            self._again.popleft()
            yield Outcome(first, failure=Failure(CRASH, " ".join(str(error).split())))

    def _enough(self) -> int:
        if not self._seconds:
            return 1
        mean = sum(self._seconds) / len(self._seconds)
        return min(_LARGEST_BATCH, math.ceil(BATCH_SECONDS / max(mean, 1e-6)))

    def _next(self) -> _Task | None:
        if self._again:
            return self._again.popleft()
        for index, task in self._left:
            self._count -= 1
            try:
                return _Task(index, self._ray.cloudpickle.dumps(task))
            except Exception as error:  # whatever its class raises
                self.unsent.append(Outcome(index, failure=Failure.of(error)))
        return None


def _received(
    ray: Any, stream: Any, running: dict[Any, deque[_Task]], waiting: _Waiting
) -> Iterator[Outcome[Any]]:
    """Yield the next outcome of a batch; one that is through, or lost, runs no more."""
    batch = running[stream]
    try:
        outcome, seconds = pickle.loads(ray.get(next(stream)))  # noqa: S301 - our own, from the cluster
    except StopIteration:
        del running[stream]
    except ray.exceptions.RayError as error:
        is_node = isinstance(error, ray.exceptions.NodeDiedError)
        yield from waiting.lost(running.pop(stream), error, _LOSSES if is_node else _CRASHES)
    else:
        waiting.took(seconds)
        yield replace(outcome, index=batch.popleft().index)


@dataclass(frozen=True, slots=True)
class _Place:
    """What the process of a task has to have: modules, where they are found, threads."""

    imports: tuple[str, ...]
    path: tuple[str, ...]
    threads: int


def _work(place: _Place, function: bytes, tasks: Sequence[bytes]) -> Iterator[bytes]:
    """Do a batch on the cluster, and tell of each task what became of it and how long it took."""
    sys.path += [folder for folder in place.path if folder not in sys.path]
    # before anything heavy loads
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(place.threads)))
    for task in tasks:
        began = time.perf_counter()
        outcome = attempt(_unpacked, (function, task), place.imports, 0)
        seconds = time.perf_counter() - began
        try:
            packed = pickle.dumps((outcome, seconds))
        except Exception as error:  # a result that cannot be pickled
            packed = pickle.dumps((Outcome(0, failure=Failure.of(error)), seconds))
        yield packed


def _unpacked(given: tuple[bytes, bytes]) -> Any:
    function, task = (pickle.loads(one) for one in given)  # noqa: S301 - what the driver sent
    return function(task)


def _connected(address: str | None) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "engine 'ray' needs the package ray: pip install 'concordant[ray]'"
        ) from None
    if not ray.is_initialized():
        try:
            _refuse_silence(address)
            ray.init(address=address or "local", include_dashboard=False, log_to_driver=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"no Ray cluster at {address!r} ({error}); start one with `ray start --head`, or "
                "leave out the address"
            ) from None
    return ray


def _refuse_silence(address: str | None) -> None:
    """Raise an OSError where nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and "/" not in host and port.isdigit():
        socket.create_connection((host, int(port)), _SECONDS_TO_CONNECT).close()
