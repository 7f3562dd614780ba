"""Fill an embedding store: sharded, resumable, skipped where nothing changed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl

from concordant.core.artifacts import slug
from concordant.core.errors import StoreError
from concordant.core.files import DigestCache, differing_keys, fingerprint
from concordant.core.modality import Modality
from concordant.data.cohort import Cohort
from concordant.data.features import FeatureOptions
from concordant.embeddings.origins import Opened, origin_of, path_digest
from concordant.embeddings.shards import Encoded, Layout, read_index_part, write_shard
from concordant.embeddings.store import EmbeddingStore, read_manifest, read_parts, reopen, seal, write_quarantine
from concordant.encoders.base import Encoder

_LOG = logging.getLogger(__name__)

STORE_VERSION = 1
"""Raised when a store made before would be filled or read differently."""

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
    workers: int = 1,
    retry_quarantined: bool = False,
    progress: Progress | None = None,
    digests: DigestCache | None = None,
) -> EmbeddingStore:
    """Embed one modality of a cohort, or open the store that holds exactly that already.

    A sample without an input (no scan, no event, no row of features) has the modality missing. A scan that cannot be read or encoded
    is quarantined with its reason. A run that was killed goes on with the shards that are not whole.

    Args:
        cohort: The samples.
        modality: The modality that the tokens stand for.
        source: An encoder of that modality, or a feature file.
        root: The folder of all stores; this one lies in `<root>/<cohort>/<name>-<fingerprint>`.
        name: The encoder's registered name, or "features".
        options: Its resolved options; a path among them counts by the bytes it leads to.
        shard_size: Samples per shard.
        max_quarantined: Greatest share of the samples with an input that may be quarantined.
        workers: Processes that share the shards; 1 = this process alone.
        retry_quarantined: Try again the shards that hold a quarantined sample.
        progress: Told after every sample, or, with several workers, every shard.
        digests: Remembers the digests of large files.

    Raises:
        StoreError: Too many quarantined, an encoder that breaks its own declaration, a worker that died.
        CohortError: An encoder of scans and no column `ct_path`.
        RecordError: An encoder of records and no `meds`, or no MEDS dataset there.
        FeatureError: The feature file breaks its format.
    """
    report = progress or _silent
    stage = f"{cohort.label}: {name}"
    digests = DigestCache() if digests is None else digests
    origin = origin_of(cohort, modality, source)
    facts = {
        "store_version": STORE_VERSION,
        "encoder": name,
        "version": origin.version,
        "options": _content(dict(options), digests),
        "inputs": fingerprint({"digests": origin.digests(digests, partial(report, f"{stage}, digests of inputs"))}),
        "samples": fingerprint({"samples": cohort.table.select("sample_id", pl.col("prediction_time").cast(pl.Int64)).rows()}),
        "shard_size": shard_size,
    }
    digests.save()
    job = _Job(cohort, root / slug(cohort.label) / f"{slug(name)}-{fingerprint(facts)}", shard_size, stage, max_quarantined)
    if retry_quarantined:
        reopen(job.folder, job.n_shards)
    if read_manifest(job.folder) is None:
        _say_why(job.folder, facts)
        opened = origin.open()
        _fill(job, opened, 1 if isinstance(source, FeatureOptions) else workers, partial(report, stage))
        _finish(job, opened, {"encoder": name, "options": dict(options), "facts": facts, "card": _card(source), "versions": _versions()})
    store = EmbeddingStore.open(job.folder)
    _check_quarantine(job, store.quarantine["reason"], store.manifest["n_inputs"])
    report(stage, len(cohort), len(cohort))
    return store


@dataclass(frozen=True, slots=True)
class _Job:
    """One store to fill: which samples, where, in shards of which size, and how many of them may fail."""

    cohort: Cohort
    folder: Path
    shard_size: int
    stage: str
    max_quarantined: float

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-len(self.cohort) // self.shard_size)

    def bounds(self, shard: int) -> tuple[int, int]:
        """Return the first row of a shard and the one after its last."""
        return shard * self.shard_size, min((shard + 1) * self.shard_size, len(self.cohort))


def _silent(stage: str, done: int, total: int) -> None:
    """Report to nobody."""


def _content(value: Any, digests: DigestCache) -> Any:
    """Replace every path in options by the digest of what it leads to: moving a file changes nothing, changing it does."""
    if isinstance(value, Mapping):
        return {key: _content(one, digests) for key, one in value.items()}
    return path_digest(value, digests) if isinstance(value, Path) else value


def _say_why(folder: Path, facts: Mapping[str, Any]) -> None:
    """Log what differs from the stores of the same encoder that are there already; another feature file is another source."""
    for sibling in folder.parent.glob("*/manifest.json"):
        with suppress(StoreError):
            before = (read_manifest(sibling.parent) or {}).get("facts", {})
            same = ("encoder", "options") if facts["encoder"] == "features" else ("encoder",)
            if all(before.get(key) == facts[key] for key in same):
                _LOG.info("%s is made anew: %s differ from %s", folder.name, ", ".join(differing_keys(before, facts)), sibling.parent.name)


def _fill(job: _Job, opened: Opened, workers: int, report: Callable[[int, int], None]) -> None:
    """Make the shards that are not whole."""
    shards = [shard for shard in range(job.n_shards) if read_index_part(job.folder, shard) is None]
    total = len(job.cohort)
    done = total - sum(end - start for start, end in map(job.bounds, shards))
    tasks = (_task(job, opened, shard) for shard in shards)
    processes = min(workers, len(shards))
    try:
        for finished in _run_in_pool(tasks, processes) if processes > 1 else _run_here(tasks):
            done += finished
            report(done, total)
    except StoreError as error:
        raise StoreError(f"{job.stage}: {error}") from None


@dataclass(frozen=True, slots=True)
class _Task:
    """One shard to make, complete in itself, so that it can be sent to another process."""

    folder: Path
    shard: int
    sample_ids: tuple[str, ...]
    inputs: Sequence[Any]
    encode: Callable[[Sequence[Any]], Iterator[Encoded]]
    layout: Layout


def _task(job: _Job, opened: Opened, shard: int) -> _Task:
    start, end = job.bounds(shard)
    return _Task(job.folder, shard, job.cohort.sample_ids[start:end], opened.inputs(start, end), opened.encode, opened.layout)


def _make(task: _Task) -> Iterator[int]:
    """Make a shard and yield 1 for each of its samples; it is written after the last."""
    encoded = []
    for one in task.encode(task.inputs):
        encoded.append(one)
        yield 1
    write_shard(task.folder, task.shard, task.sample_ids, encoded, task.layout)


def _make_whole(task: _Task) -> int:
    return sum(_make(task))


def _run_here(tasks: Iterable[_Task]) -> Iterator[int]:
    for task in tasks:
        yield from _make(task)


def _run_in_pool(tasks: Iterator[_Task], workers: int) -> Iterator[int]:
    """Make shards in other processes; only a few tasks are in flight, so that the inputs of all never are in memory at once."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            pending = {pool.submit(_make_whole, task) for task in islice(tasks, 2 * workers)}
            while pending:
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from [future.result() for future in finished]
                pending |= {pool.submit(_make_whole, task) for task in islice(tasks, len(finished))}
        except BrokenProcessPool:
            raise StoreError(
                "a worker process died, most often for lack of memory; run again with fewer workers (whole shards are kept)"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _finish(job: _Job, opened: Opened, described: Mapping[str, Any]) -> None:
    """Write what makes a store complete, unless too many samples are quarantined."""
    parts = read_parts(job.folder, job.n_shards)
    write_quarantine(job.folder, parts)
    _check_quarantine(job, parts["reason"], opened.n_inputs)
    records = None if opened.records is None else asdict(opened.records)
    for abandoned in job.folder.glob(".*.tmp"):  # by a run that was killed while writing
        abandoned.unlink(missing_ok=True)
    seal(job.folder, parts, opened.layout, {**described, "n_inputs": opened.n_inputs, "records": records})


def _check_quarantine(job: _Job, reasons: pl.Series, n_inputs: int) -> None:
    counts = Counter(reasons.drop_nulls().to_list())
    if counts.total() > job.max_quarantined * n_inputs:
        listed = "; ".join(f"{count} x {reason}" for reason, count in counts.most_common())
        raise StoreError(
            f"{job.stage}: {counts.total()} of {n_inputs} samples cannot be encoded, more than max_quarantined = {job.max_quarantined:g} "
            f"allows: {listed}. {job.folder / 'quarantine.parquet'} lists the samples: mend their files, or raise max_quarantined"
        )


def _card(source: Encoder | FeatureOptions) -> dict[str, Any] | None:
    return asdict(source.card) if isinstance(source, Encoder) else None


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("concordant", "numpy", "polars", "nibabel", "scipy", "torch")}
