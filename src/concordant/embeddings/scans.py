"""Scans to embeddings: processes read and prepare scans ahead of the encoder, so that neither waits
for the other.

An encoder without a network does all of its work in the reading processes. A process that dies (a
decoder that crashes, say) harms no other scan: its scan is tried once more in a fresh process, then
quarantined.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from itertools import chain, islice
from pathlib import Path

import torch

from concordant.core.errors import ConcordantError, StoreError, VolumeError
from concordant.data.volumes import open_volume, read_volume
from concordant.embeddings.encoding import Count, Shards, ShardTask, layout_of, sound
from concordant.embeddings.shards import Encoded, EncodedShard
from concordant.encoders.base import VolumeEncoder
from concordant.encoders.network import Prepared, VolumeNetwork
from concordant.engines.base import CRASH, Outcome
from concordant.engines.local import open_pool

_LOG = logging.getLogger(__name__)

TOO_LARGE = "does not fit into the memory of the GPU, not even alone"
"""Reason for quarantine of a scan that is too large for the network."""

CRASHED = "the process that read it died twice"
"""Start of the reason for quarantine of a scan that takes its process down."""

_UNEXPECTED = "unexpected"
"""Start of the reason for an error that is not of the bytes: want of memory, a program's fault."""

_ATTEMPTS = 2
_MISSING = Encoded(None)


def scans_per_batch(encoder: VolumeEncoder) -> int:
    """Return how many scans go through an encoder together."""
    return encoder.batch_size if isinstance(encoder, VolumeNetwork) else 1


def is_of_the_bytes(reason: str) -> bool:
    """Tell whether a scan is quarantined for its bytes: not for memory or a program's fault."""
    return not reason.startswith((TOO_LARGE, CRASHED, _UNEXPECTED))


def encode_scans(
    encoder: VolumeEncoder, tasks: Iterable[ShardTask], processes: int, count: Count
) -> Shards:
    """Encode scans in batches that never cross a shard, whose bytes would depend on the others;
    `processes` read them, 0 = this one.
    """
    shards = list(tasks)
    size = scans_per_batch(encoder)
    given = chain.from_iterable(_to_read(encoder, task) for task in shards)
    with closing(_read_all(encoder, given, processes, size)) as scans:
        for task in shards:
            encoded: list[Encoded] = []
            while batch := list(islice(scans, min(size, len(task) - len(encoded)))):
                encoded += _encode_batch(encoder, batch)
                count(len(batch))
            yield task, EncodedShard.of(encoded)


def _to_read(encoder: VolumeEncoder, task: ShardTask) -> list[Path | Encoded]:
    """Return the scans of a shard; in place of those that were encoded before, their embeddings, by
    whole batches, or what is left would have other company.
    """
    taken = _taken_over(encoder, task)
    size = scans_per_batch(encoder)
    for start in range(0, len(task), size):
        batch = slice(start, start + size)
        if None in taken[batch]:
            taken[batch] = [_MISSING if path is None else None for path in task.inputs[batch]]
    return [own or path for own, path in zip(taken, task.inputs, strict=True)]


def _taken_over(encoder: VolumeEncoder, task: ShardTask) -> list[Encoded | None]:
    """Return what stores made before hold of a shard's scans, as far as it can be used."""
    layout, device, said = layout_of(encoder.card), encoder.device, set()
    taken = [_MISSING if path is None else None for path in task.inputs]
    for row, place in enumerate(task.places):
        if place is not None:
            try:
                taken[row] = place.read(layout, device)
            except StoreError as error:
                said.add(str(error))
    for sentence in sorted(said):
        _LOG.warning("%s; what it held is encoded again", sentence)
    return taken


def _encode_batch(encoder: VolumeEncoder, batch: Sequence[Prepared | Encoded]) -> list[Encoded]:
    """Encode those of a batch that wait for the network."""
    prepared = [one for one in batch if isinstance(one, Prepared)]
    if not prepared or not isinstance(encoder, VolumeNetwork):
        return [one for one in batch if isinstance(one, Encoded)]
    encoded = iter(_encode_prepared(encoder, prepared))
    return [next(encoded) if isinstance(one, Prepared) else one for one in batch]


def _encode_prepared(encoder: VolumeNetwork, prepared: Sequence[Prepared]) -> list[Encoded]:
    """Encode scans; where refused or out of memory, in halves, so that one harms no other."""
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
    halves = (prepared[:half], prepared[half:])
    return [one for part in halves for one in _encode_prepared(encoder, part)]


def _read_all(
    encoder: VolumeEncoder, given: Iterator[Path | Encoded], processes: int, size: int
) -> Generator[Prepared | Encoded]:
    """Read scans in order; what is no path passes."""
    read = partial(_read, encoder)
    if processes < 1:
        yield from (one if isinstance(one, Encoded) else read(one) for one in given)
        return
    with open_pool(processes, attempts=_ATTEMPTS) as pool:
        waiting: deque[Future[Outcome[Prepared | Encoded]] | Encoded] = deque()
        while True:
            # as many scans in flight as keep every process and the next batch busy: memory is
            # bounded by this, not by the cohort
            for one in islice(given, size + 2 * processes - len(waiting)):
                waiting.append(one if isinstance(one, Encoded) else pool.submit(read, one))
            if not waiting:
                return
            first = waiting.popleft()
            yield first if isinstance(first, Encoded) else _given(first.result())


def _read(encoder: VolumeEncoder, path: Path) -> Prepared | Encoded:
    """Read a scan and do what needs no network; what goes wrong with it becomes a reason."""
    try:
        if isinstance(encoder, VolumeNetwork):
            return encoder.prepare(open_volume(path))
        return sound(encoder.encode([read_volume(path)])[0])
    except VolumeError as error:
        return Encoded(None, error.reason)
    except ConcordantError:  # not this scan's fault: a missing file of weights, say
        raise
    except Exception as error:
        return Encoded(None, f"{_UNEXPECTED} {type(error).__name__} at {_line(error)}")


def _line(error: Exception) -> str:
    """Name the line that raised, which tells nothing of the scan; a message might hold its path."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _given(outcome: Outcome[Prepared | Encoded]) -> Prepared | Encoded:
    """Return what a process returned; a crash is the scan's reason, other failures are raised."""
    if outcome.value is not None:
        return outcome.value
    failure = outcome.failure
    assert failure is not None  # noqa: S101 # an outcome has one or the other; for the type checker
    if failure.kind == CRASH:
        return Encoded(None, f"{CRASHED}: {failure.message}")
    raise StoreError(failure.message if failure.expected else failure.details)
