"""Make the shards of a store: in this process, in several, or on a Ray cluster.

A shard is made whole or not at all, and making it twice is safe.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice, tee
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from concordant.core.errors import ConfigError, StoreError, did_you_mean
from concordant.embeddings.origins import EncodeShards, Opened
from concordant.embeddings.reuse import Place, take_over
from concordant.embeddings.shards import Encoded, EncodedShard, Layout, write_shard

_RAY_RETRIES = 20
_SECONDS_TO_CONNECT = 5.0
_RAY_TASKS_PER_PROCESSOR = 2


@dataclass(frozen=True, slots=True)
class ShardEngine:
    """Where shards are made.

    Attributes:
        name: "local", or "ray".
        address: Of a Ray cluster that runs ("auto" finds one on this machine); None starts one of
            this machine alone.
        workers: Processes on this machine that read scans or make shards; on Ray, those of each
            task. 0 = none but this one, which a decoder that crashes then ends; with one process or
            more it costs its scan.
    """

    name: str = "local"
    address: str | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuse what is not known."""
        if self.name not in _ENGINES:
            raise ConfigError(f"unknown engine {self.name!r}.{did_you_mean(self.name, _ENGINES)}")
        if self.workers < 0:
            raise ConfigError(f"workers = {self.workers}: expected at least 0")
        if self.address is not None and self.name != "ray":
            raise ConfigError(
                f"address {self.address!r} is for the engine 'ray', not {self.name!r}"
            )


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to make, complete in itself, so that it can be sent to another process or machine.

    Attributes:
        folder: The store.
        shard: Number of the shard.
        sample_ids: Its samples.
        inputs: What is encoded for each of them.
        encode: Turns inputs into embeddings.
        layout: What these keep to.
        keys: What each embedding is made of, or None.
        places: Where a store made before holds it already, or None.
        batch_size: Samples that are encoded together.
        device: Returns where the encoder works, in the process that asks.
    """

    folder: Path
    shard: int
    sample_ids: tuple[str, ...]
    inputs: Sequence[Any]
    encode: EncodeShards
    layout: Layout
    keys: Sequence[str | None]
    places: Sequence[Place | None]
    batch_size: int
    device: Callable[[], str]

    def to_encode(self) -> Sequence[Any]:
        """Return the inputs; in the place of those that were encoded before, their embeddings."""
        return take_over(self.inputs, self.places, self.batch_size, self.layout, self.device())


def make_shards(tasks: Iterator[ShardTask], opened: Opened, engine: ShardEngine) -> Iterator[int]:
    """Make shards and yield numbers of samples as they are done.

    Args:
        tasks: The shards; only a few are taken ahead, so that the inputs of all are never in memory
            at once.
        opened: What fills them.
        engine: Where.

    Raises:
        StoreError: An encoder that breaks its own declaration, a process that died.
    """
    return _ENGINES[engine.name](tasks, opened, engine)


def _make(tasks: Iterable[ShardTask], encode: EncodeShards, processes: int) -> Iterator[int]:
    """Make shards and yield numbers of samples as they are done.

    A shard is written after its last.
    """
    here, ahead = tee(tasks)
    for task, samples in zip(
        here, encode((task.to_encode() for task in ahead), processes=processes), strict=True
    ):
        encoded = yield from _gathered(samples)
        write_shard(
            task.folder, task.shard, task.sample_ids, encoded, task.layout, task.keys, task.device()
        )


def _gathered(samples: Iterator[Encoded] | EncodedShard) -> Generator[int, None, EncodedShard]:
    """Gather what became of the samples of a shard.

    Yield 1 for each, or the number of those that come together.
    """
    if isinstance(samples, EncodedShard):
        yield len(samples)
        return samples
    encoded = []
    for one in samples:
        encoded.append(one)
        yield 1
    return EncodedShard.of(encoded)


def _make_whole(task: ShardTask, processes: int = 0) -> int:
    return sum(_make([task], task.encode, processes))


def _make_locally(tasks: Iterator[ShardTask], opened: Opened, engine: ShardEngine) -> Iterator[int]:
    if engine.workers > 1 and not opened.reads_ahead:
        return _make_in_pool(tasks, engine.workers)
    return _make(tasks, opened.encode, engine.workers)


def _make_in_pool(tasks: Iterator[ShardTask], workers: int) -> Iterator[int]:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            pending = {pool.submit(_make_whole, task) for task in islice(tasks, 2 * workers)}
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from [future.result() for future in finished]
                pending |= {pool.submit(_make_whole, task) for task in islice(tasks, len(finished))}
        except BrokenProcessPool:
            raise StoreError(
                "a worker process died, most often for lack of memory; run again with fewer "
                "workers (whole shards are kept)"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _make_on_ray(
    tasks: Iterator[ShardTask], opened: Opened, engine: ShardEngine
) -> Generator[int, None, None]:
    """Make shards as Ray tasks.

    One whose worker or node is lost runs again elsewhere, and what it had written is written again.
    """
    ray = _connected(engine.address)
    resources = ray.cluster_resources()
    needs_gpu = opened.reads_ahead and resources.get("GPU", 0) > 0
    processes = max(engine.workers, 1)
    make = ray.remote(num_cpus=processes, num_gpus=int(needs_gpu), max_retries=_RAY_RETRIES)(
        _make_whole
    )
    limit = max(1, _RAY_TASKS_PER_PROCESSOR * int(resources.get("CPU", 1)))
    pending = [make.remote(task, processes) for task in islice(tasks, limit)]
    try:
        while pending:
            finished, pending = ray.wait(pending)
            yield from ray.get(finished)
            pending += [make.remote(task, processes) for task in islice(tasks, len(finished))]
    except ray.exceptions.RayTaskError as error:
        raise StoreError(
            str(error.cause) if isinstance(error.cause, StoreError) else str(error)
        ) from None
    except ray.exceptions.RayError as error:
        raise StoreError(
            f"Ray lost a task more than {_RAY_RETRIES} times ({type(error).__name__}); whole "
            "shards are kept: run again"
        ) from None
    finally:
        for task in pending:
            ray.cancel(task, force=True)


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


_ENGINES: dict[str, Callable[[Iterator[ShardTask], Opened, ShardEngine], Iterator[int]]] = {
    "local": _make_locally,
    "ray": _make_on_ray,
}
