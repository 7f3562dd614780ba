"""Fill an embedding store: sharded, resumable, skipped where nothing changed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
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
from concordant.embeddings.encoding import Count, Encoding, ShardTask
from concordant.embeddings.scans import is_of_the_bytes
from concordant.embeddings.shards import read_index_part, write_shard
from concordant.embeddings.sources import Inputs, path_digest, source_of
from concordant.embeddings.store import (
    EmbeddingStore,
    Place,
    discard_damaged,
    embedding_keys,
    find_embeddings,
    read_manifest,
    read_parts,
    reopen,
    seal,
    write_quarantine,
)
from concordant.encoders.base import Encoder, RecordEncoder
from concordant.engines import Engine, LocalEngine
from concordant.engines.base import CRASH, Failure

_LOG = logging.getLogger(__name__)

STORE_VERSION = 3
"""Raised when a store made before would be filled or read differently."""

_HERE = LocalEngine()

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
    engine: Engine = _HERE,
    retry_quarantined: bool = False,
    progress: Progress | None = None,
    digests: DigestCache | None = None,
) -> EmbeddingStore:
    """Embed one modality of a cohort, or open the store that holds exactly that already.

    A sample without an input (no scan, no event, no row of features) has the modality missing. A
    scan that cannot be read or encoded is quarantined with its reason. A run that was killed goes
    on with the shards that are not whole, and so does one that finds a file of its store damaged.
    Of a scan that a store of the same cohort and encoder holds already, made on the same kind of
    device, the embedding is taken over from there, and so is the reason of one that was quarantined
    for its bytes; what is taken over has the bytes that encoding it again would give.

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
        progress: Told after every batch of scans, or, where those of a shard are encoded together
            or elsewhere, after every shard.
        digests: Remembers the digests of large files.

    Raises:
        StoreError: Too many quarantined, a vocabulary that has too few of the events, an encoder
            that breaks its own declaration, a worker that died.
        CohortError: An encoder of scans and no column `ct_path`.
        RecordError: An encoder of records and no `meds`, or no MEDS dataset there.
        FeatureError: The feature file breaks its format.
        DiskFullError: There is no room left on the disk.
    """
    report = progress or _silent
    stage = f"{cohort.label}: {name}"
    digests = DigestCache() if digests is None else digests
    origin = source_of(cohort, modality, source)
    encoder = {
        "store_version": STORE_VERSION,
        "encoder": name,
        "version": origin.version,
        "options": _content(_effective(options, source), digests),
        # before the scans, so that weights that are not there are known before hours of reading
        "weights": source.weights_digest if isinstance(source, Encoder) else None,
    }
    inputs = origin.digests(
        digests, partial(report, f"{stage}, digests of inputs"), max(engine.processes, 1)
    )
    facts = {
        **encoder,
        "inputs": fingerprint({"digests": inputs}),
        "samples": _samples(cohort),
        "shard_size": shard_size,
    }
    folder = root / slug(cohort.label) / f"{slug(name)}-{fingerprint(facts)}"
    job = _Job(cohort, folder, shard_size, stage, max_quarantined, retry_quarantined)
    discard_damaged(folder, job.n_shards, digests)
    digests.save()
    if retry_quarantined:
        reopen(folder, job.n_shards)
    if job.missing or read_manifest(folder) is None:
        _say_why(folder, facts)
        opened = origin.open()
        keys = job.keys(encoder, inputs, origin.batch_size)
        local = engine if isinstance(source, Encoder) else _HERE
        _fill(job, opened, keys, local, partial(report, stage))
        described = {"encoder": name, "options": dict(options), "facts": facts}
        _finish(job, opened, {**described, "card": _card(source), "versions": _versions()})
    store = EmbeddingStore.open(folder)
    _check_quarantine(job, store.quarantine["reason"], store.manifest["n_inputs"])
    if store.manifest["vocabulary"] is not None and isinstance(source, RecordEncoder):
        coverage = VocabularyCoverage(**store.manifest["vocabulary"])
        check_coverage(coverage, source.required_coverage, stage)
    report(stage, len(cohort), len(cohort))
    return store


@dataclass(frozen=True, slots=True)
class _Job:
    """One store to fill: samples, place, shard size, how many may fail, whether to retry those."""

    cohort: Cohort
    folder: Path
    shard_size: int
    stage: str
    max_quarantined: float
    retry_quarantined: bool

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-len(self.cohort) // self.shard_size)

    @property
    def missing(self) -> list[int]:
        """The shards that are not whole."""
        return [
            shard for shard in range(self.n_shards) if read_index_part(self.folder, shard) is None
        ]

    def rows(self, shard: int) -> range:
        """Return the rows of a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, len(self.cohort)))

    def keys(
        self, encoder: Mapping[str, Any], digests: Sequence[str | None], size: int | None
    ) -> Sequence[str | None]:
        """Return what each embedding is made of; None where more than its batch decides."""
        if size is None:
            return [None] * len(self.cohort)
        rows = map(self.rows, range(self.n_shards))
        batches = (own[start : start + size] for own in rows for start in range(0, len(own), size))
        return embedding_keys(encoder, digests, batches)


def _silent(*_: object) -> None:
    """Report to nobody."""


def _samples(cohort: Cohort) -> str:
    columns = cohort.table.select("sample_id", pl.col("prediction_time").cast(pl.Int64))
    return fingerprint({"samples": columns.rows()})


def _content(value: Any, digests: DigestCache) -> Any:
    """Replace every path in options by its content's digest: moving a file changes nothing."""
    if isinstance(value, Mapping):
        return {key: _content(one, digests) for key, one in value.items()}
    return path_digest(value, digests) if isinstance(value, Path) else value


def _say_why(folder: Path, facts: Mapping[str, Any]) -> None:
    """Log what differs from the newest store of the same encoder, or feature file."""
    same = ("encoder", "options") if facts["encoder"] == "features" else ("encoder",)
    manifests = folder.parent.glob("*/manifest.json")
    for path in sorted(manifests, key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(StoreError):
            before = (read_manifest(path.parent) or {}).get("facts", {})
            if all(before.get(key) == facts[key] for key in same):
                differing = ", ".join(differing_keys(before, facts))
                told = (folder.name, differing, path.parent.name)
                _LOG.info("%s is a store of its own: %s differ from %s", *told)
                return


def _fill(
    job: _Job,
    opened: Inputs,
    keys: Sequence[str | None],
    engine: Engine,
    report: Callable[[int, int], None],
) -> None:
    """Make the shards that are not whole, here or, shard by shard, elsewhere."""
    shards, total = job.missing, len(job.cohort)
    done = total - sum(len(job.rows(shard)) for shard in shards)

    def count(samples: int) -> None:
        nonlocal done
        done += samples
        report(done, total)

    places = _found(job, shards, keys)
    tasks = (_task(job, opened, shard, keys, places) for shard in shards)
    encoding = opened.encoding
    in_pool = engine.processes > 1 and not encoding.reads_ahead
    several = len(shards) > 1 and (engine.is_remote or in_pool)
    try:
        if several or (shards and engine.is_remote and encoding.reads_ahead):
            make_elsewhere(tasks, encoding, engine, count)
        else:
            make_here(tasks, encoding, engine.processes, count)
    except StoreError as error:
        raise StoreError(f"{job.stage}: {error}") from None


def make_here(tasks: Iterable[ShardTask], encoding: Encoding, processes: int, count: Count) -> None:
    """Make shards in this process, with others that may help; each is written whole."""
    with closing(encoding.encode(tasks, processes, count)) as shards:
        for task, encoded in shards:
            given = (task.folder, task.shard, task.sample_ids, encoded, encoding.layout)
            write_shard(*given, task.keys, encoding.device)


def make_elsewhere(
    tasks: Iterable[ShardTask], encoding: Encoding, engine: Engine, count: Count
) -> None:
    """Make every shard where the engine says."""
    make = partial(_make_one, encoding, engine.processes if encoding.reads_ahead else 0)
    with closing(engine.run(make, tasks, gpu=encoding.reads_ahead)) as outcomes:
        for outcome in outcomes:
            if outcome.failure is not None:
                raise StoreError(_said(outcome.failure))
            count(outcome.value or 0)


def _make_one(encoding: Encoding, processes: int, task: ShardTask) -> int:
    make_here([task], encoding, processes, _silent)
    return len(task)


def _said(failure: Failure) -> str:
    if failure.kind == CRASH:
        return (
            f"a process that made a shard died, most often for lack of memory ({failure.message}); "
            "run again with fewer workers (whole shards are kept)"
        )
    return failure.message if failure.expected else failure.details


def _found(job: _Job, shards: Sequence[int], keys: Sequence[str | None]) -> Mapping[str, Place]:
    """Look for what these shards will hold in the stores made before."""
    wanted = [key for shard in shards for row in job.rows(shard) if (key := keys[row]) is not None]
    accepts = _nothing if job.retry_quarantined else is_of_the_bytes
    places = find_embeddings(job.folder, set(wanted), accepts=accepts)
    if places:
        _LOG.info(
            "%s: %d of %d samples lie in stores made before, to be taken over",
            job.stage,
            sum(key in places for key in wanted),
            len(job.cohort),
        )
    return places


def _nothing(reason: str) -> bool:
    return False


def _task(
    job: _Job, opened: Inputs, shard: int, keys: Sequence[str | None], places: Mapping[str, Place]
) -> ShardTask:
    rows = job.rows(shard)
    own = keys[rows.start : rows.stop]
    return ShardTask(
        job.folder,
        shard,
        tuple(job.cohort.table["sample_id"][rows.start : rows.stop].to_list()),
        opened.rows(rows.start, rows.stop),
        own,
        [None if key is None else places.get(key) for key in own],
    )


def _finish(job: _Job, opened: Inputs, described: Mapping[str, Any]) -> None:
    """Write what makes a store complete, unless too many samples are quarantined."""
    parts = read_parts(job.folder, job.n_shards)
    write_quarantine(job.folder, parts)
    _check_quarantine(job, parts["reason"], opened.n_inputs)
    coverage = coverage_of(parts)
    for abandoned in job.folder.glob(".*.tmp"):  # by a run that was killed while writing
        abandoned.unlink(missing_ok=True)
    met = {
        "n_inputs": opened.n_inputs,
        "records": None if opened.records is None else asdict(opened.records),
        "vocabulary": None if coverage is None else asdict(coverage),
    }
    seal(job.folder, parts, opened.encoding.layout, {**described, **met})


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
