"""What embeddings are made from: scans, records or a feature file, each with its digests."""

from __future__ import annotations

import time
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
from concordant.embeddings.encoding import Encoding, encode_records, layout_of, take_features
from concordant.embeddings.scans import encode_scans, scans_per_batch
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


@dataclass(frozen=True, slots=True)
class Source:
    """What a store is made from.

    Attributes:
        version: Raised when the same input gives other embeddings than before.
        digests: Returns the digest of every input file, that many read at a time; None for a scan
            that is not there.
        open: Makes the inputs ready.
        batch_size: Samples that are encoded together, where the digests of these inputs decide
            their embeddings; None where more does.
    """

    version: int
    digests: Callable[[DigestCache, Report, int], list[str | None]]
    open: Callable[[], Inputs]
    batch_size: int | None = None


def source_of(cohort: Cohort, modality: Modality, given: Encoder | FeatureOptions) -> Source:
    """Return what a store of an encoder, or of a feature file, is made from.

    Raises:
        StoreError: An encoder of the other modality.
    """
    if isinstance(given, FeatureOptions):
        return _features(cohort, given)
    if given.modality is not modality:
        raise StoreError(
            f"{type(given).__name__} encodes {given.modality}, it was given for {modality}; "
            f"choose an encoder of {modality}"
        )
    if isinstance(given, VolumeEncoder):
        return _scans(cohort, given)
    if isinstance(given, RecordEncoder):
        return _records(cohort, given)
    raise TypeError(f"{type(given).__name__} is neither a VolumeEncoder nor a RecordEncoder")


def _scans(cohort: Cohort, encoder: VolumeEncoder) -> Source:
    """Return the paths of a cohort's scans; workers read them."""
    paths = [cohort.ct_path(row) for row in range(len(cohort))]
    n_inputs = sum(path is not None for path in paths)
    encode = partial(encode_scans, encoder)
    encoding = Encoding(layout_of(encoder.card), encode, encoder, reads_ahead=True)
    return Source(
        encoder.version,
        lambda cache, *how: _digests(paths, partial(_digest_or_none, cache=cache), cache, *how),
        lambda: Inputs(encoding, n_inputs, lambda start, end: paths[start:end]),
        scans_per_batch(encoder) if encoder.card.kind == "tokens" else None,
    )


def _records(cohort: Cohort, encoder: RecordEncoder) -> Source:
    """Return the MEDS records of a cohort, cut at their prediction times."""
    meds, renamed = cohort.meds, cohort.meds_columns
    if meds is None:
        raise RecordError(
            f"cohort {cohort.label}: {type(encoder).__name__} reads records, but the cohort has no "
            "`meds`; give its MEDS dataset"
        )

    def digests(cache: DigestCache, report: Report, threads: int) -> list[str | None]:
        found = _digests(shard_paths(meds), cache.digest, cache, report, threads)
        return [*found, *([fingerprint(renamed)] if renamed else [])]

    def read() -> Inputs:
        records = read_events(meds, cohort.table, columns=renamed, text=encoder.reads_text)
        encode = partial(encode_records, encoder)
        encoding = Encoding(layout_of(encoder.card), encode, encoder)
        n_inputs = int((records.n_events > 0).sum())
        return Inputs(encoding, n_inputs, records.packed, records.counts)

    return Source(encoder.version, digests, read)


def _features(cohort: Cohort, options: FeatureOptions) -> Source:
    """Return what a feature file holds of a cohort."""

    def read() -> Inputs:
        features = read_features(options)
        widths = (features.token_dim, features.pooled_dim, features.max_tokens)
        layout = Layout("tokens", *widths, missing=options.missing)
        found = [features.embedding(sample_id) for sample_id in cohort.sample_ids]
        n_inputs = sum(one is not None for one in found)
        encoding = Encoding(layout, take_features)
        return Inputs(encoding, n_inputs, lambda start, end: found[start:end])

    return Source(1, lambda cache, *_: [path_digest(options.path, cache)], read)


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
            # a killed run reads no scan twice for its digest
            if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
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
