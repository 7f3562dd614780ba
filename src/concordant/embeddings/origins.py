"""Where embeddings come from.

Scans, records or a feature file, each with its digests, its inputs and the way they are encoded.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from concordant.core.embedding import CodeTable, TokenEmbedding
from concordant.core.errors import RecordError, StoreError
from concordant.core.events import Events, pack_events
from concordant.core.files import DigestCache, fingerprint
from concordant.core.modality import Modality
from concordant.data.cohort import Cohort
from concordant.data.features import FeatureOptions, read_features
from concordant.data.meds import RecordCounts, read_events, shard_paths
from concordant.data.volumes import INDEX_SUFFIX, source_files
from concordant.embeddings.pipeline import (
    device_of,
    encode_scans,
    no_device,
    scans_per_batch,
    sound,
)
from concordant.embeddings.shards import Encoded, EncodedShard, Layout
from concordant.encoders.base import Encoder, EncoderCard, RecordEncoder, VolumeEncoder

Input = TypeVar("Input")

_SECONDS_BETWEEN_SAVES = 60.0

Report = Callable[[int, int], None]
"""Called with how many are done and how many there are."""


class EncodeShards(Protocol):
    """Turns the inputs of shards into embeddings."""

    def __call__(
        self, shards: Iterable[Sequence[Any]], *, processes: int
    ) -> Iterator[Iterator[Encoded] | EncodedShard]:
        """Yield, shard by shard, what became of each input, or of all.

        `processes` may work on it beside this one, 0 = none.
        """


@dataclass(frozen=True, slots=True)
class Opened:
    """What fills the shards.

    Attributes:
        layout: What the embeddings keep to.
        n_inputs: Number of samples that have an input.
        inputs: Returns the inputs of the samples from one row of the cohort up to another, None
            where the modality is missing.
        encode: Turns the inputs of shards into embeddings, in order; it and the inputs can be sent
            to another process.
        records: What reading records met, or None.
        device: Returns where the encoder works, in the process that asks.
        reads_ahead: Whether `encode` has processes of its own; if not, whole shards are made in
            several processes.
    """

    layout: Layout
    n_inputs: int
    inputs: Callable[[int, int], Sequence[Any]]
    encode: EncodeShards
    records: RecordCounts | None = None
    device: Callable[[], str] = no_device
    reads_ahead: bool = False


class Origin(ABC):
    """What a store is made from.

    Attributes:
        version: Raised when the same input gives other embeddings than before.
        batch_size: Samples that are encoded together, where the digests of these inputs decide
            their embeddings; None where more does.
    """

    version: int
    batch_size: int | None = None

    @abstractmethod
    def digests(self, cache: DigestCache, report: Report, threads: int) -> list[str | None]:
        """Return the digest of every input file, several read at a time.

        None for a scan that is not there.
        """

    @abstractmethod
    def open(self) -> Opened:
        """Make the inputs ready."""


def origin_of(cohort: Cohort, modality: Modality, source: Encoder | FeatureOptions) -> Origin:
    """Return what a store of this source is made from.

    Raises:
        StoreError: An encoder of the other modality.
    """
    if isinstance(source, FeatureOptions):
        return FeatureOrigin(cohort, source)
    if source.modality is not modality:
        raise StoreError(
            f"{type(source).__name__} encodes {source.modality}, it was given for {modality}; "
            f"choose an encoder of {modality}"
        )
    if isinstance(source, VolumeEncoder):
        return ScanOrigin(cohort, source)
    if isinstance(source, RecordEncoder):
        return RecordOrigin(cohort, source)
    raise TypeError(f"{type(source).__name__} is neither a VolumeEncoder nor a RecordEncoder")


class ScanOrigin(Origin):
    """The scans of a cohort and an encoder of scans."""

    def __init__(self, cohort: Cohort, encoder: VolumeEncoder) -> None:
        self.version = encoder.version
        self.batch_size = scans_per_batch(encoder) if encoder.card.kind == "tokens" else None
        self._encoder = encoder
        self._paths = [cohort.ct_path(row) for row in range(len(cohort))]

    def digests(self, cache: DigestCache, report: Report, threads: int) -> list[str | None]:
        """Return the digest of every sample's scan."""
        return _digests(self._paths, partial(_digest_or_none, cache=cache), cache, report, threads)

    def open(self) -> Opened:
        """Return the paths; the workers read the scans."""
        n_inputs = sum(path is not None for path in self._paths)
        return Opened(
            layout=_layout(self._encoder.card),
            n_inputs=n_inputs,
            inputs=lambda start, end: self._paths[start:end],
            encode=partial(encode_scans, self._encoder),
            device=partial(device_of, self._encoder),
            reads_ahead=True,
        )


class RecordOrigin(Origin):
    """The MEDS records of a cohort and an encoder of records."""

    def __init__(self, cohort: Cohort, encoder: RecordEncoder) -> None:
        if cohort.meds is None:
            raise RecordError(
                f"cohort {cohort.label}: {type(encoder).__name__} reads records, but the cohort "
                "has no `meds`; give its MEDS dataset"
            )
        self.version = encoder.version
        self._encoder = encoder
        self._cohort = cohort
        self._meds = cohort.meds

    def digests(self, cache: DigestCache, report: Report, threads: int) -> list[str | None]:
        """Return the digest of every MEDS shard, and of the names of its columns where they are
        not those of MEDS.
        """
        renamed = self._cohort.meds_columns
        digests = _digests(shard_paths(self._meds), cache.digest, cache, report, threads)
        return [*digests, *([fingerprint(renamed)] if renamed else [])]

    def open(self) -> Opened:
        """Read all records, cut at their prediction times."""
        records = read_events(
            self._meds,
            self._cohort.table,
            columns=self._cohort.meds_columns,
            text=self._encoder.reads_text,
        )
        encode = partial(_each, partial(_encode_records, self._encoder))
        n_inputs = int((records.n_events > 0).sum())
        device = partial(device_of, self._encoder)
        return Opened(
            _layout(self._encoder.card), n_inputs, records.packed, encode, records.counts, device
        )


class FeatureOrigin(Origin):
    """A feature file."""

    version = 1

    def __init__(self, cohort: Cohort, options: FeatureOptions) -> None:
        self._cohort = cohort
        self._options = options

    def digests(self, cache: DigestCache, report: Report, threads: int) -> list[str | None]:
        """Return the file's digest."""
        return [path_digest(self._options.path, cache)]

    def open(self) -> Opened:
        """Read the file."""
        features = read_features(self._options)
        layout = Layout(
            "tokens",
            features.token_dim,
            features.pooled_dim,
            features.max_tokens,
            missing=self._options.missing,
        )
        found = [features.embedding(sample_id) for sample_id in self._cohort.sample_ids]
        return Opened(
            layout,
            sum(one is not None for one in found),
            lambda start, end: found[start:end],
            partial(_each, _as_they_are),
        )


def path_digest(path: Path, cache: DigestCache) -> str | None:
    """Return the digest of a file, of all files in a folder, or of an index file and those it
    lists; None where there is no file.
    """
    if path.is_file() and path.suffix != INDEX_SUFFIX:
        return cache.digest(path)
    if not path.exists():
        return None
    folder = path if path.is_dir() else path.parent
    files = {str(file.relative_to(folder)): file for file in source_files(path) if file.is_file()}
    return cache.digest_together(path, files) if files else None


def _digests(
    inputs: Sequence[Input],
    digest: Callable[[Input], str | None],
    cache: DigestCache,
    report: Report,
    threads: int,
) -> list[str | None]:
    """Return the digests of inputs, in order.

    Only a few are in work at a time, so that a run that is stopped stops soon.
    """
    digests: list[str | None] = []
    saved = time.monotonic()
    left = iter(inputs)
    with ThreadPoolExecutor(threads, thread_name_prefix="digest") as pool:
        waiting = deque(pool.submit(digest, one) for one in islice(left, 2 * threads))
        while waiting:
            digests.append(waiting.popleft().result())
            waiting.extend(pool.submit(digest, one) for one in islice(left, 1))
            if (
                time.monotonic() - saved > _SECONDS_BETWEEN_SAVES
            ):  # a killed run reads no scan twice for its digest
                cache.save()
                saved = time.monotonic()
            report(len(digests), len(inputs))
    return digests


def _digest_or_none(path: Path | None, cache: DigestCache) -> str | None:
    """Return the digest of a scan.

    None for none, and for one that cannot be read, which reading it quarantines.
    """
    try:
        return None if path is None else path_digest(path, cache)
    except OSError:
        return None


def _layout(card: EncoderCard) -> Layout:
    return Layout(card.kind, card.token_dim, card.pooled_dim, card.max_tokens, card.dtype)


def _each(
    encode: Callable[[Sequence[Any]], Iterator[Encoded] | EncodedShard],
    shards: Iterable[Sequence[Any]],
    *,
    processes: int,
) -> Iterator[Iterator[Encoded] | EncodedShard]:
    """Encode shard after shard in this process."""
    return map(encode, shards)


def _as_they_are(inputs: Sequence[TokenEmbedding | None]) -> Iterator[Encoded]:
    return map(Encoded, inputs)


def _encode_records(encoder: RecordEncoder, records: Sequence[Events]) -> EncodedShard:
    """Encode those that hold an event; an empty record is a missing modality."""
    packed = pack_events(records)
    present = np.diff(packed.offsets) > 0
    held = packed if present.all() else packed.holding(present)
    encoded = _encode_held(encoder, held)
    if encoder.has_vocabulary:
        n_known = [encoder.known_events(record) for record in held]
        encoded = replace(encoded, n_events=np.diff(held.offsets).tolist(), n_known=n_known)
    return encoded.among(present)


def _encode_held(encoder: RecordEncoder, records: Sequence[Events]) -> EncodedShard:
    """Encode records; where the encoder refuses them, one by one, so that a bad record harms no
    other.
    """
    try:
        embeddings = encoder.encode(records)
    except RecordError:
        return EncodedShard.of(_encode_one(encoder, record) for record in records)
    if isinstance(embeddings, CodeTable) and np.isfinite(embeddings.weight).all():
        return EncodedShard.packed(embeddings)
    return EncodedShard.of(map(sound, embeddings))


def _encode_one(encoder: RecordEncoder, record: Events) -> Encoded:
    try:
        return sound(encoder.encode([record])[0])
    except RecordError as error:
        return Encoded(None, str(error))
