"""Where embeddings come from: scans, records or a feature file, each with its digests, its inputs and the way they are encoded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from concordant.core.embedding import CodeEmbedding, TokenEmbedding
from concordant.core.errors import RecordError, StoreError, VolumeError
from concordant.core.events import Events
from concordant.core.files import DigestCache, fingerprint
from concordant.core.modality import Modality
from concordant.data.cohort import Cohort
from concordant.data.features import FeatureOptions, read_features
from concordant.data.meds import RecordCounts, read_events, shard_paths
from concordant.data.volumes import read_volume
from concordant.embeddings.shards import Encoded, Layout
from concordant.encoders.base import Encoder, EncoderCard, RecordEncoder, VolumeEncoder

NOT_FINITE = "the encoder returned values that are not finite"
"""Reason for quarantine."""

Report = Callable[[int, int], None]
"""Called with how many are done and how many there are."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What fills the shards.

    Attributes:
        layout: What the embeddings keep to.
        n_inputs: Number of samples that have an input.
        inputs: Returns the inputs of the samples from one row of the cohort up to another, None where the modality is missing.
        encode: Turns inputs into embeddings, in order; it and the inputs can be sent to another process.
        records: What reading records met, or None.
    """

    layout: Layout
    n_inputs: int
    inputs: Callable[[int, int], list[Any]]
    encode: Callable[[Sequence[Any]], Iterator[Encoded]]
    records: RecordCounts | None = None


class Origin(ABC):
    """What a store is made from.

    Attributes:
        version: Raised when the same input gives other embeddings than before.
    """

    version: int

    @abstractmethod
    def digests(self, cache: DigestCache, report: Report) -> list[str | None]:
        """Return the digest of every input file; None for a scan that is not there."""

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
        raise StoreError(f"{type(source).__name__} encodes {source.modality}, it was given for {modality}; choose an encoder of {modality}")
    if isinstance(source, VolumeEncoder):
        return ScanOrigin(cohort, source)
    if isinstance(source, RecordEncoder):
        return RecordOrigin(cohort, source)
    raise TypeError(f"{type(source).__name__} is neither a VolumeEncoder nor a RecordEncoder")


class ScanOrigin(Origin):
    """The scans of a cohort and an encoder of scans."""

    def __init__(self, cohort: Cohort, encoder: VolumeEncoder) -> None:
        self.version = encoder.version
        self._encoder = encoder
        self._paths = [cohort.ct_path(row) for row in range(len(cohort))]

    def digests(self, cache: DigestCache, report: Report) -> list[str | None]:
        """Return the digest of every sample's scan."""
        digests: list[str | None] = []
        for path in self._paths:
            digests.append(None if path is None else path_digest(path, cache))
            report(len(digests), len(self._paths))
        return digests

    def open(self) -> Opened:
        """Return the paths; the workers read the scans."""
        n_inputs = sum(path is not None for path in self._paths)
        return Opened(
            _layout(self._encoder.card), n_inputs, lambda start, end: self._paths[start:end], partial(_encode_scans, self._encoder)
        )


class RecordOrigin(Origin):
    """The MEDS records of a cohort and an encoder of records."""

    def __init__(self, cohort: Cohort, encoder: RecordEncoder) -> None:
        if cohort.meds is None:
            raise RecordError(
                f"cohort {cohort.label}: {type(encoder).__name__} reads records, but the cohort has no `meds`; give its MEDS dataset"
            )
        self.version = encoder.version
        self._encoder = encoder
        self._cohort = cohort
        self._meds = cohort.meds

    def digests(self, cache: DigestCache, report: Report) -> list[str | None]:
        """Return the digest of every MEDS shard."""
        return [cache.digest(path) for path in shard_paths(self._meds)]

    def open(self) -> Opened:
        """Read all records, cut at their prediction times."""
        records = read_events(self._meds, self._cohort.table)
        n_inputs = int((np.diff(records.offsets) > 0).sum())

        def inputs(start: int, end: int) -> list[Events | None]:
            return [record if record.code else None for record in map(records.events, records.sample_ids[start:end])]

        return Opened(_layout(self._encoder.card), n_inputs, inputs, partial(_encode_records, self._encoder), records.counts)


class FeatureOrigin(Origin):
    """A feature file."""

    version = 1

    def __init__(self, cohort: Cohort, options: FeatureOptions) -> None:
        self._cohort = cohort
        self._options = options

    def digests(self, cache: DigestCache, report: Report) -> list[str | None]:
        """Return the file's digest."""
        return [path_digest(self._options.path, cache)]

    def open(self) -> Opened:
        """Read the file."""
        features = read_features(self._options)
        layout = Layout("tokens", features.token_dim, features.pooled_dim, features.max_tokens, missing=self._options.missing)
        found = [features.embedding(sample_id) for sample_id in self._cohort.sample_ids]
        return Opened(layout, sum(one is not None for one in found), lambda start, end: found[start:end], _as_they_are)


def path_digest(path: Path, cache: DigestCache) -> str | None:
    """Return the digest of a file, or of all files in a folder; None where there is neither."""
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        return fingerprint({str(file.relative_to(path)): cache.digest(file) for file in files})
    return cache.digest(path) if path.is_file() else None


def _layout(card: EncoderCard) -> Layout:
    return Layout(card.kind, card.token_dim, card.pooled_dim, card.max_tokens, card.dtype)


def _as_they_are(inputs: Sequence[TokenEmbedding | None]) -> Iterator[Encoded]:
    return map(Encoded, inputs)


def _encode_scans(encoder: VolumeEncoder, paths: Sequence[Path | None]) -> Iterator[Encoded]:
    """Read and encode scans one at a time, so that one volume is in memory and a bad one harms no other."""
    for path in paths:
        if path is None:
            yield Encoded(None)
            continue
        try:
            yield _sound(encoder.encode([read_volume(path)])[0])
        except VolumeError as error:
            yield Encoded(None, error.reason)


def _encode_records(encoder: RecordEncoder, records: Sequence[Events | None]) -> Iterator[Encoded]:
    encoded: list[CodeEmbedding | TokenEmbedding] = [*encoder.encode([record for record in records if record is not None])]
    embeddings = iter(encoded)
    return (Encoded(None) if record is None else _sound(next(embeddings)) for record in records)


def _sound(embedding: TokenEmbedding | CodeEmbedding) -> Encoded:
    """Quarantine what is not finite; nothing at all (no code, no token) is a missing modality."""
    if isinstance(embedding, CodeEmbedding):
        numbers = [embedding.weights]
    else:
        numbers = [embedding.tokens] if embedding.pooled is None else [embedding.tokens, embedding.pooled]
    if not all(np.isfinite(values).all() for values in numbers):
        return Encoded(None, NOT_FINITE)
    return Encoded(embedding if len(numbers[0]) else None)
