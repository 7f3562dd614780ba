"""Scans to embeddings: processes read and prepare scans ahead of the encoder, so that neither waits
for the other.

An encoder without a network does all of its work in the reading processes. A process that dies (a
decoder that crashes, say) harms no other scan: its scan is tried once more in a fresh process, then
quarantined.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, islice, tee
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock

import numpy as np
import torch

from concordant.core.embedding import CodeEmbedding, TokenEmbedding
from concordant.core.errors import ConcordantError, StoreError, VolumeError
from concordant.core.processes import Outcome, Worker, one_thread_each, stop_workers
from concordant.data.volumes import open_volume, read_volume
from concordant.embeddings.shards import Encoded
from concordant.encoders.base import Encoder, VolumeEncoder
from concordant.encoders.network import Prepared, VolumeNetwork

NOT_FINITE = "the encoder returned values that are not finite"
"""Reason for quarantine."""

TOO_LARGE = "does not fit into the memory of the GPU, not even alone"
"""Reason for quarantine of a scan that is too large for the network."""

CRASHED = "the process that read it died twice"
"""Start of the reason for quarantine of a scan that takes its process down."""

_UNEXPECTED = "unexpected"
"""Start of the reason for quarantine where an error came that is not of the bytes.

Want of memory, or a fault of the program.
"""

_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class _Scan:
    """One scan to read: complete in itself, so that it can be sent to another process."""

    encoder: VolumeEncoder
    path: Path


def no_device() -> str:
    """Return where features that were given, not encoded, come from: "cpu"."""
    return "cpu"


def device_of(encoder: Encoder) -> str:
    """Return where an encoder works in this process, "cpu" or "cuda".

    The two differ in the digits they give.
    """
    return str(getattr(encoder, "device", "cpu"))


def scans_per_batch(encoder: VolumeEncoder) -> int:
    """Return how many scans go through an encoder together."""
    return encoder.batch_size if isinstance(encoder, VolumeNetwork) else 1


def encode_scans(
    encoder: VolumeEncoder, shards: Iterable[Sequence[Path | Encoded | None]], *, processes: int
) -> Generator[Iterator[Encoded], None, None]:
    """Encode scans shard by shard, in order.

    Batches never cross a shard, so that a shard's bytes do not depend on which other shards are
    made in the same run.

    Args:
        encoder: The encoder.
        shards: The scans of each shard; None where a sample has none, its embedding where that is
            known. Read ahead of what is yielded.
        processes: Processes that read; 0 = read in this process, one scan after another.

    Yields:
        Per shard, what became of each of its scans; it has to be used up before the next.
    """
    lengths, ahead = tee(shards)
    given = (Encoded(None) if one is None else one for one in chain.from_iterable(ahead))
    size = scans_per_batch(encoder)
    with closing(_read_all(encoder, given, processes, size)) as scans:
        for shard in lengths:
            yield _encode_shard(encoder, islice(scans, len(shard)), size)


def _encode_shard(
    encoder: VolumeEncoder, scans: Iterator[Prepared | Encoded], size: int
) -> Iterator[Encoded]:
    while batch := list(islice(scans, size)):
        prepared = [one for one in batch if isinstance(one, Prepared)]
        encoded = iter(
            _encode_batch(encoder, prepared)
            if prepared and isinstance(encoder, VolumeNetwork)
            else ()
        )
        for one in batch:
            yield next(encoded) if isinstance(one, Prepared) else one


def _encode_batch(encoder: VolumeNetwork, prepared: Sequence[Prepared]) -> list[Encoded]:
    """Encode a batch; where the encoder refuses it, or memory does not hold it, in halves, so
    that one scan harms no other.
    """
    try:
        return [sound(embedding) for embedding in encoder.encode_prepared(prepared)]
    except VolumeError as error:
        reason = error.reason
    except torch.OutOfMemoryError:
        reason = TOO_LARGE
    # after the exception, which holds what the failed attempt had made
    torch.cuda.empty_cache()
    if len(prepared) == 1:
        return [Encoded(None, reason)]
    half = len(prepared) // 2
    return [*_encode_batch(encoder, prepared[:half]), *_encode_batch(encoder, prepared[half:])]


def sound(embedding: TokenEmbedding | CodeEmbedding) -> Encoded:
    """Quarantine what is not finite; nothing at all (no code, no token) is a missing modality."""
    if isinstance(embedding, CodeEmbedding):
        numbers = [embedding.weights]
    else:
        numbers = (
            [embedding.tokens] if embedding.pooled is None else [embedding.tokens, embedding.pooled]
        )
    if not all(np.isfinite(values).all() for values in numbers):
        return Encoded(None, NOT_FINITE)
    return Encoded(embedding if len(numbers[0]) else None)


def _read(scan: _Scan) -> Prepared | Encoded:
    """Read a scan and do with it what needs no network.

    What goes wrong with this scan is a reason, not an exception.
    """
    try:
        if isinstance(scan.encoder, VolumeNetwork):
            return scan.encoder.prepare(open_volume(scan.path))
        return sound(scan.encoder.encode([read_volume(scan.path)])[0])
    except VolumeError as error:
        return Encoded(None, error.reason)
    except ConcordantError:  # not this scan's fault: a missing file of weights, say
        raise
    except Exception as error:
        return Encoded(None, f"{_UNEXPECTED} {type(error).__name__} at {_place(error)}")


def is_of_the_bytes(reason: str) -> bool:
    """Tell whether a scan is quarantined for what its bytes are.

    If not, it may be encoded with more memory or once a fault is mended.
    """
    return not reason.startswith((TOO_LARGE, CRASHED, _UNEXPECTED))


def _place(error: Exception) -> str:
    """Name the line that raised, which tells nothing of the scan; a message might hold its path."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _read_all(
    encoder: VolumeEncoder, given: Iterator[Path | Encoded], processes: int, size: int
) -> Generator[Prepared | Encoded, None, None]:
    if processes < 1:
        yield from (
            one if isinstance(one, Encoded) else _read(_Scan(encoder, one)) for one in given
        )
        return
    with _readers(processes) as readers:
        waiting: deque[Future[Prepared | Encoded] | Encoded] = deque()
        while True:
            # as many scans in flight as keep every process and the next batch busy: memory is
            # bounded by this, not by the cohort
            for one in islice(given, size + 2 * processes - len(waiting)):
                waiting.append(
                    one if isinstance(one, Encoded) else readers.submit(_Scan(encoder, one))
                )
            if not waiting:
                return
            first = waiting.popleft()
            yield first if isinstance(first, Encoded) else first.result()


class _Readers:
    """Reading processes, each served by a thread of this process."""

    def __init__(self, processes: int) -> None:
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="reader")
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        self._all: list[Worker] = []
        self._starting = Lock()
        self._closing = False

    def submit(self, scan: _Scan) -> Future[Prepared | Encoded]:
        return self._threads.submit(self._read, scan)

    def close(self) -> None:
        self._closing = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._all:
            worker.process.terminate()  # a thread that waits for an answer gets the end of the pipe
        self._threads.shutdown(wait=True)
        stop_workers(self._all)

    def _read(self, scan: _Scan) -> Prepared | Encoded:
        outcome = self._ask(scan)
        for _ in range(1, _ATTEMPTS):
            if self._closing or outcome.failure is None or outcome.failure.kind != "WorkerCrash":
                break
            outcome = self._ask(scan)
        return _given(outcome)

    def _ask(self, scan: _Scan) -> Outcome[Prepared | Encoded]:
        worker = self._take()
        failure = worker.begin(_read, scan, 0)
        outcome: Outcome[Prepared | Encoded] = (
            worker.receive() if failure is None else Outcome(0, failure=failure)
        )
        if worker.process.is_alive():
            self._idle.put(worker)
        return outcome

    def _take(self) -> Worker:
        try:
            worker = self._idle.get_nowait()
        except Empty:
            with self._starting:
                worker = Worker()
                self._all.append(worker)
        return worker


@contextmanager
def _readers(processes: int) -> Iterator[_Readers]:
    with one_thread_each():  # before the threads that start processes, and until they are gone
        readers = _Readers(processes)
        try:
            yield readers
        finally:
            readers.close()


def _given(outcome: Outcome[Prepared | Encoded]) -> Prepared | Encoded:
    """Return what a reading process returned.

    A crash is the scan's reason, any other failure is raised.
    """
    if outcome.failure is None:
        # `_read` never returns None; for the type checker
        assert outcome.value is not None  # noqa: S101
        return outcome.value
    if outcome.failure.kind == "WorkerCrash":
        return Encoded(None, f"{CRASHED}: {outcome.failure.message}")
    raise StoreError(
        outcome.failure.message if outcome.failure.expected else outcome.failure.details
    )
