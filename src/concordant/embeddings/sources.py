"""What embeddings are made from: scans, records or a feature file, each with its digests."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from concordant.core.errors import RecordError, StoreError
from concordant.core.files import DigestCache, fingerprint
from concordant.core.modality import Modality
from concordant.data.cohort import Cohort
from concordant.data.features import FeatureOptions, read_features
from concordant.data.meds import RecordCounts, read_events, shard_paths
from concordant.data.volumes import INDEX_SUFFIX, source_files
from concordant.embeddings.encoding import Encoding, FeatureEncoding, RecordEncoding, layout_of
from concordant.embeddings.scans import ScanEncoding, scans_per_batch
from concordant.embeddings.shards import Layout
from concordant.encoders.base import Encoder, RecordEncoder, VolumeEncoder

Input = TypeVar("Input")

_SECONDS_BETWEEN_SAVES = 60.0

Report = Callable[[int, int], None]
"""Called with how many are done and how many there are."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What fills the shards.

    Attributes:
        encoding: Turns it into embeddings.
        n_inputs: Number of samples that have an input.
        rows: Returns the inputs of the samples from one row of the cohort up to another, None where
            the modality is missing.
        records: What reading records met, or None.
    """

    encoding: Encoding
    n_inputs: int
    rows: Callable[[int, int], Sequence[Any]]
    records: RecordCounts | None = None


class Source(ABC):
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
        """Return every input file's digest, several read at a time; None for an absent scan."""

    @abstractmethod
    def open(self) -> Inputs:
        """Make the inputs ready."""


def source_of(cohort: Cohort, modality: Modality, given: Encoder | FeatureOptions) -> Source:
    """Return what a store of an encoder, or of a feature file, is made from.

    Raises:
        StoreError: An encoder of the other modality.
    """
    if isinstance(given, FeatureOptions):
        return FeatureSource(cohort, given)
    if given.modality is not modality:
        raise StoreError(
            f"{type(given).__name__} encodes {given.modality}, it was given for {modality}; "
            f"choose an encoder of {modality}"
        )
    if isinstance(given, VolumeEncoder):
        return ScanSource(cohort, given)
    if isinstance(given, RecordEncoder):
        return RecordSource(cohort, given)
    raise TypeError(f"{type(given).__name__} is neither a VolumeEncoder nor a RecordEncoder")


class ScanSource(Source):
    """The scans of a cohort and an encoder of scans."""

    def __init__(self, cohort: Cohort, encoder: VolumeEncoder) -> None:
        self.version = encoder.version
        self.batch_size = scans_per_batch(encoder) if encoder.card.kind == "tokens" else None
        self._encoder = encoder
        self._paths = [cohort.ct_path(row) for row in range(len(cohort))]

    def digests(self, cache: DigestCache, report: Report, threads: int) -> list[str | None]:
        """Return the digest of every sample's scan."""
        return _digests(self._paths, partial(_digest_or_none, cache=cache), cache, report, threads)

    def open(self) -> Inputs:
        """Return the paths; the workers read the scans."""
        n_inputs = sum(path is not None for path in self._paths)
        encoding = ScanEncoding(layout_of(self._encoder.card), self._encoder)
        return Inputs(encoding, n_inputs, lambda start, end: self._paths[start:end])


class RecordSource(Source):
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
        """Return the digest of every MEDS shard, and of columns' names that are not MEDS's."""
        renamed = self._cohort.meds_columns
        digests = _digests(shard_paths(self._meds), cache.digest, cache, report, threads)
        return [*digests, *([fingerprint(renamed)] if renamed else [])]

    def open(self) -> Inputs:
        """Read all records, cut at their prediction times."""
        records = read_events(
            self._meds,
            self._cohort.table,
            columns=self._cohort.meds_columns,
            text=self._encoder.reads_text,
        )
        encoding = RecordEncoding(layout_of(self._encoder.card), self._encoder)
        n_inputs = int((records.n_events > 0).sum())
        return Inputs(encoding, n_inputs, records.packed, records.counts)


class FeatureSource(Source):
    """A feature file."""

    version = 1

    def __init__(self, cohort: Cohort, options: FeatureOptions) -> None:
        self._cohort = cohort
        self._options = options

    def digests(self, cache: DigestCache, report: Report, threads: int) -> list[str | None]:
        """Return the file's digest."""
        return [path_digest(self._options.path, cache)]

    def open(self) -> Inputs:
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
        n_inputs = sum(one is not None for one in found)
        return Inputs(FeatureEncoding(layout), n_inputs, lambda start, end: found[start:end])


def path_digest(path: Path, cache: DigestCache) -> str | None:
    """Return one digest of a file, folder, or index file with what it lists; None without files."""
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
    """Return digests in order; few are in work at a time, so that a stopped run stops soon."""
    digests: list[str | None] = []
    saved = time.monotonic()
    left = iter(inputs)
    with ThreadPoolExecutor(threads, thread_name_prefix="digest") as pool:
        waiting = deque(pool.submit(digest, one) for one in islice(left, 2 * threads))
        while waiting:
            digests.append(waiting.popleft().result())
            waiting.extend(pool.submit(digest, one) for one in islice(left, 1))
            # a killed run reads no scan twice for its digest
            if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                cache.save()
                saved = time.monotonic()
            report(len(digests), len(inputs))
    return digests


def _digest_or_none(path: Path | None, cache: DigestCache) -> str | None:
    """Return the digest of a scan; None without one, or where it cannot be read."""
    try:
        return None if path is None else path_digest(path, cache)
    except OSError:
        return None
