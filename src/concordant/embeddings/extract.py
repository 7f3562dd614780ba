"""Fill an embedding store: sharded, resumable, skipped where nothing changed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from concordant.core.artifacts import slug
from concordant.core.errors import StoreError
from concordant.core.files import DigestCache, differing_keys, fingerprint
from concordant.core.modality import Modality
from concordant.data.cohort import Cohort
from concordant.data.features import FeatureOptions
from concordant.embeddings.coverage import VocabularyCoverage, check_coverage, coverage_of
from concordant.embeddings.making import ShardEngine, ShardTask, make_shards
from concordant.embeddings.origins import Opened, origin_of, path_digest
from concordant.embeddings.reuse import Place, embedding_keys, find_embeddings
from concordant.embeddings.shards import read_index_part
from concordant.embeddings.store import (
    EmbeddingStore,
    read_manifest,
    read_parts,
    reopen,
    seal,
    write_quarantine,
)
from concordant.encoders.base import Encoder, RecordEncoder

_LOG = logging.getLogger(__name__)

STORE_VERSION = 3
"""Raised when a store made before would be filled or read differently."""

_OF_THE_ENCODER = ("store_version", "encoder", "version", "options", "weights")
"""Of the facts, those that decide what the encoder makes of a scan."""

_HERE = ShardEngine()

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many samples are done, and how many there are."""


def embed(
    cohort: Cohort,
    modality: Modality,
    source: Encoder | FeatureOptions,
    root: Path,
    *,
    name: str,
    options: Mapping[str, Any],
    shard_size: int = 256,
    max_quarantined: float = 0.05,
    engine: ShardEngine = _HERE,
    retry_quarantined: bool = False,
    progress: Progress | None = None,
    digests: DigestCache | None = None,
) -> EmbeddingStore:
    """Embed one modality of a cohort, or open the store that holds exactly that already.

    A sample without an input (no scan, no event, no row of features) has the modality missing. A
    scan that cannot be read or encoded is quarantined with its reason. A run that was killed goes
    on with the shards that are not whole. Of a scan that a store of the same cohort and encoder
    holds already, made on the same kind of device, the embedding is taken over from there, and so
    is the reason of one that was quarantined for its bytes; what is taken over has the bytes that
    encoding it again would give.

    Args:
        cohort: The samples.
        modality: The modality that the tokens stand for.
        source: An encoder of that modality, or a feature file.
        root: The folder of all stores; this one lies in `<root>/<cohort>/<name>-<fingerprint>`.
        name: The encoder's registered name, or "features".
        options: Its resolved options; a path among them counts by the bytes it leads to.
        shard_size: Samples per shard.
        max_quarantined: Greatest share of the samples with an input that may be quarantined.
        engine: Where shards are made; this process alone unless given.
        retry_quarantined: Try again the shards that hold a quarantined sample.
        progress: Told after every sample, or, where those of a shard are encoded together or in
            another process, after every shard.
        digests: Remembers the digests of large files.

    Raises:
        StoreError: Too many quarantined, a vocabulary that has too few of the events, an encoder
            that breaks its own declaration, a worker that died.
        CohortError: An encoder of scans and no column `ct_path`.
        RecordError: An encoder of records and no `meds`, or no MEDS dataset there.
        FeatureError: The feature file breaks its format.
    """
    report = progress or _silent
    stage = f"{cohort.label}: {name}"
    digests = DigestCache() if digests is None else digests
    origin = origin_of(cohort, modality, source)
    # first, so that weights that are not there are known before hours of reading
    weights = source.weights_digest if isinstance(source, Encoder) else None
    inputs = origin.digests(
        digests, partial(report, f"{stage}, digests of inputs"), max(engine.workers, 1)
    )
    facts = {
        "store_version": STORE_VERSION,
        "encoder": name,
        "version": origin.version,
        "options": _content(_effective(options, source), digests),
        "inputs": fingerprint({"digests": inputs}),
        "samples": fingerprint(
            {
                "samples": cohort.table.select(
                    "sample_id", pl.col("prediction_time").cast(pl.Int64)
                ).rows()
            }
        ),
        "weights": weights,
        "shard_size": shard_size,
    }
    digests.save()
    folder = root / slug(cohort.label) / f"{slug(name)}-{fingerprint(facts)}"
    job = _Job(
        cohort, folder, shard_size, stage, max_quarantined, origin.batch_size, retry_quarantined
    )
    if retry_quarantined:
        reopen(job.folder, job.n_shards)
    if read_manifest(job.folder) is None:
        _say_why(job.folder, facts)
        opened = origin.open()
        keys = job.keys({fact: facts[fact] for fact in _OF_THE_ENCODER}, inputs)
        _fill(
            job,
            opened,
            keys,
            _HERE if isinstance(source, FeatureOptions) else engine,
            partial(report, stage),
        )
        _finish(
            job,
            opened,
            {
                "encoder": name,
                "options": dict(options),
                "facts": facts,
                "card": _card(source),
                "versions": _versions(),
            },
        )
    store = EmbeddingStore.open(job.folder)
    _check_quarantine(job, store.quarantine["reason"], store.manifest["n_inputs"])
    if store.manifest["vocabulary"] is not None and isinstance(source, RecordEncoder):
        check_coverage(
            VocabularyCoverage(**store.manifest["vocabulary"]), source.required_coverage, stage
        )
    report(stage, len(cohort), len(cohort))
    return store


@dataclass(frozen=True, slots=True)
class _Job:
    """One store to fill: which samples, where, in shards and batches of which size, how many may
    fail, whether those are tried again.
    """

    cohort: Cohort
    folder: Path
    shard_size: int
    stage: str
    max_quarantined: float
    batch_size: int | None
    retry_quarantined: bool

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-len(self.cohort) // self.shard_size)

    def bounds(self, shard: int) -> tuple[int, int]:
        """Return the first row of a shard and the one after its last."""
        return shard * self.shard_size, min((shard + 1) * self.shard_size, len(self.cohort))

    def keys(
        self, encoder: Mapping[str, Any], digests: Sequence[str | None]
    ) -> Sequence[str | None]:
        """Return what each sample's embedding is made of.

        None where more than its batch decides it.
        """
        if self.batch_size is None:
            return [None] * len(self.cohort)
        return embedding_keys(encoder, digests, self._batches(self.batch_size))

    def _batches(self, size: int) -> Iterator[range]:
        for start, end in map(self.bounds, range(self.n_shards)):
            yield from (range(first, min(first + size, end)) for first in range(start, end, size))


def _silent(stage: str, done: int, total: int) -> None:
    """Report to nobody."""


def _content(value: Any, digests: DigestCache) -> Any:
    """Replace every path in options by the digest of what it leads to.

    Moving a file changes nothing, changing it does.
    """
    if isinstance(value, Mapping):
        return {key: _content(one, digests) for key, one in value.items()}
    return path_digest(value, digests) if isinstance(value, Path) else value


def _say_why(folder: Path, facts: Mapping[str, Any]) -> None:
    """Log what differs from the newest store of the same encoder that is there already.

    Another feature file is another source.
    """
    for sibling in sorted(
        folder.parent.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime, reverse=True
    ):
        with suppress(StoreError):
            before = (read_manifest(sibling.parent) or {}).get("facts", {})
            same = ("encoder", "options") if facts["encoder"] == "features" else ("encoder",)
            if all(before.get(key) == facts[key] for key in same):
                differing = ", ".join(differing_keys(before, facts))
                _LOG.info(
                    "%s is a store of its own: %s differ from %s",
                    folder.name,
                    differing,
                    sibling.parent.name,
                )
                return


def _fill(
    job: _Job,
    opened: Opened,
    keys: Sequence[str | None],
    engine: ShardEngine,
    report: Callable[[int, int], None],
) -> None:
    """Make the shards that are not whole."""
    shards = [shard for shard in range(job.n_shards) if read_index_part(job.folder, shard) is None]
    total = len(job.cohort)
    done = total - sum(end - start for start, end in map(job.bounds, shards))
    if len(shards) <= 1 and not opened.reads_ahead:
        engine = _HERE
    places = _found(job, shards, keys)
    try:
        for finished in make_shards(
            (_task(job, opened, shard, keys, places) for shard in shards), opened, engine
        ):
            done += finished
            report(done, total)
    except StoreError as error:
        raise StoreError(f"{job.stage}: {error}") from None


def _found(job: _Job, shards: Sequence[int], keys: Sequence[str | None]) -> Mapping[str, Place]:
    """Look for what these shards will hold in the stores made before."""
    wanted = [
        key for start, end in map(job.bounds, shards) for key in keys[start:end] if key is not None
    ]
    places = find_embeddings(job.folder, set(wanted), quarantined=not job.retry_quarantined)
    if places:
        n_found = sum(key in places for key in wanted)
        _LOG.info(
            "%s: %d of %d samples lie in stores made before, to be taken over",
            job.stage,
            n_found,
            len(job.cohort),
        )
    return places


def _task(
    job: _Job, opened: Opened, shard: int, keys: Sequence[str | None], places: Mapping[str, Place]
) -> ShardTask:
    start, end = job.bounds(shard)
    own = keys[start:end]
    return ShardTask(
        job.folder,
        shard,
        tuple(job.cohort.table["sample_id"][start:end].to_list()),
        opened.inputs(start, end),
        opened.encode,
        opened.layout,
        own,
        [None if key is None else places.get(key) for key in own],
        job.batch_size or 1,
        opened.device,
    )


def _finish(job: _Job, opened: Opened, described: Mapping[str, Any]) -> None:
    """Write what makes a store complete, unless too many samples are quarantined."""
    parts = read_parts(job.folder, job.n_shards)
    write_quarantine(job.folder, parts)
    _check_quarantine(job, parts["reason"], opened.n_inputs)
    coverage = coverage_of(parts)
    records = None if opened.records is None else asdict(opened.records)
    for abandoned in job.folder.glob(".*.tmp"):  # by a run that was killed while writing
        abandoned.unlink(missing_ok=True)
    vocabulary = None if coverage is None else asdict(coverage)
    seal(
        job.folder,
        parts,
        opened.layout,
        {**described, "n_inputs": opened.n_inputs, "records": records, "vocabulary": vocabulary},
    )


def _check_quarantine(job: _Job, reasons: pl.Series, n_inputs: int) -> None:
    counts = Counter(reasons.drop_nulls().to_list())
    if counts.total() > job.max_quarantined * n_inputs:
        listed = "; ".join(f"{count} x {reason}" for reason, count in counts.most_common())
        raise StoreError(
            f"{job.stage}: {counts.total()} of {n_inputs} samples cannot be encoded, more than "
            f"max_quarantined = {job.max_quarantined:g} allows: {listed}. "
            f"{job.folder / 'quarantine.parquet'} lists the samples: mend their files, or raise "
            "max_quarantined"
        )


def _effective(options: Mapping[str, Any], source: Encoder | FeatureOptions) -> dict[str, Any]:
    """Leave out the options that change nothing in what the encoder returns."""
    ignored = source.options_of_no_effect if isinstance(source, Encoder) else ()
    return {key: value for key, value in options.items() if key not in ignored}


def _card(source: Encoder | FeatureOptions) -> dict[str, Any] | None:
    return asdict(source.card) if isinstance(source, Encoder) else None


def _versions() -> dict[str, str]:
    return {
        package: version(package)
        for package in ("concordant", "numpy", "polars", "nibabel", "scipy", "torch")
    }
