"""The embedding store, the first waist: a self-describing folder per cohort and encoder.

`quarantine.parquet`, `index.parquet` and `manifest.json`, written in this order after the shards,
say that the store is whole. The manifest holds the digests of all tables and each shard's index
that of its files: what is damaged is noticed and made again. A later store takes over what one
beside it holds already: an embedding is found by its key, the digest of all it was made of.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from concordant.core.embedding import (
    CodeTable,
    EmbeddingTable,
    TokenEmbedding,
    TokenTable,
    concatenate,
    pack_codes,
    pack_tokens,
)
from concordant.core.errors import StoreError
from concordant.core.files import DigestCache, file_digest, fingerprint, read_json, write_json
from concordant.data.meds import RecordCounts
from concordant.embeddings.shards import (
    Encoded,
    Layout,
    content_digest,
    map_vectors,
    read_index_part,
    read_shard,
    shard_path,
    vectors_digest,
    write_parquet,
)

_LOG = logging.getLogger(__name__)

_LAYOUT_KEYS = ("kind", "token_dim", "pooled_dim", "max_tokens", "dtype", "missing")
_OF_A_SHARD = ("key", "digest", "device", "files")
_NOWHERE = -1


@dataclass(frozen=True)
class EmbeddingStore:
    """A complete store, open for reading.

    Attributes:
        folder: Where it lies.
        manifest: What it holds, of what and how it was made.
        index: `sample_id`, `shard`, `offset`, `n_tokens` (0 = missing), one row per sample of the
            cohort, in table order; `n_events` and `n_known` (events of the record that the
            encoder's vocabulary has) where the encoder has a vocabulary.
    """

    folder: Path
    manifest: Mapping[str, Any]
    index: pl.DataFrame

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a complete store.

        Raises:
            StoreError: There is none, it is not complete, or its manifest or index is damaged.
        """
        manifest = read_manifest(folder)
        if manifest is None:
            raise StoreError(
                f"{folder}: no complete embedding store; run `concordant embed` (or `run`) on the "
                "study"
            )
        return cls(folder, manifest, _read_table(folder, "index.parquet"))

    @property
    def layout(self) -> Layout:
        """Kind, widths, dtype and missing policy."""
        return Layout(**{key: self.manifest[key] for key in _LAYOUT_KEYS})

    @property
    def max_tokens(self) -> int:
        """Greatest number of tokens of a sample: the declared one, for codes the greatest seen."""
        return int(self.manifest["max_tokens"])

    @property
    def record_counts(self) -> RecordCounts | None:
        """What reading the records met; None where the store was not made from records."""
        given = self.manifest["records"]
        return None if given is None else RecordCounts(**given)

    @property
    def quarantine(self) -> pl.DataFrame:
        """Samples that could not be encoded: `sample_id`, `reason`."""
        return _read_table(self.folder, "quarantine.parquet")

    def read(self, sample_ids: Sequence[str]) -> EmbeddingTable:
        """Read the embeddings of samples, in order; one that is not in the store is missing.

        Vectors are returned as float32.

        Raises:
            StoreError: A shard is missing or damaged.
        """
        asked = pl.DataFrame({"sample_id": pl.Series(sample_ids, dtype=pl.String)})
        places = asked.join(self._places, on="sample_id", how="left", maintain_order="left")
        shard, position = (
            places[name].fill_null(_NOWHERE).to_numpy() for name in ("shard", "position")
        )
        table = concatenate(
            [self._read(int(number), position[shard == number]) for number in np.unique(shard)]
            or [self._missing(0)]
        )
        order = np.argsort(shard, kind="stable")
        return table if (np.diff(order) == 1).all() else table.take(np.argsort(order))

    def present(self, sample_ids: Sequence[str]) -> Bool[np.ndarray, " sample"]:
        """Return which samples have the modality, from the index alone."""
        known = set(self.index.filter(pl.col("n_tokens") > 0)["sample_id"])
        return np.array([sample_id in known for sample_id in sample_ids], dtype=bool)

    @cached_property
    def _places(self) -> pl.DataFrame:
        """The shard of each sample, and its position there."""
        return self.index.select(
            "sample_id", "shard", pl.int_range(pl.len()).over("shard").alias("position")
        )

    def _read(self, shard: int, positions: Int[np.ndarray, " sample"]) -> EmbeddingTable:
        if shard == _NOWHERE:
            return self._missing(len(positions))
        lengths = self.index.filter(pl.col("shard") == shard)["n_tokens"].cast(pl.Int64).to_numpy()
        table = read_shard(self.folder, shard, lengths, self.layout).take(positions)
        if isinstance(table, CodeTable):
            return table
        pooled = None if table.pooled is None else np.asarray(table.pooled, np.float32)
        return TokenTable(
            np.asarray(table.values, np.float32), table.offsets, pooled, table.missing
        )

    def _missing(self, n_samples: int) -> EmbeddingTable:
        layout = self.layout
        if layout.kind == "codes":
            return pack_codes([None] * n_samples)
        return pack_tokens(
            [None] * n_samples,
            dim=layout.token_dim or 0,
            pooled_dim=layout.pooled_dim,
            missing=layout.missing,
        )


def _read_table(folder: Path, name: str) -> pl.DataFrame:
    try:
        return pl.read_parquet(folder / name, hive_partitioning=False)
    except (OSError, pl.exceptions.PolarsError):
        raise StoreError(
            f"{folder}: {name} is missing or damaged; delete the folder and run again to make it "
            "anew"
        ) from None


def read_manifest(folder: Path) -> Mapping[str, Any] | None:
    """Return the manifest of a complete store, or None where there is none.

    Raises:
        StoreError: The manifest is there and cannot be read.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = read_json(path)
        complete = manifest["complete"] is True and set(_LAYOUT_KEYS) < manifest.keys()
        digest = manifest.pop("digest", None)  # of a store made before there were any
        sound = complete and digest in (None, fingerprint(manifest))
    except (ValueError, TypeError, KeyError, AttributeError):
        sound = False
    if not sound:
        raise StoreError(
            f"{folder}: manifest.json is damaged; delete the folder and run again to make it anew"
        )
    return manifest


def write_quarantine(folder: Path, parts: pl.DataFrame) -> None:
    """Write `quarantine.parquet`, the samples that could not be encoded, from joined indices."""
    write_parquet(
        folder / "quarantine.parquet", parts.drop_nulls("reason").select("sample_id", "reason")
    )


def seal(folder: Path, parts: pl.DataFrame, layout: Layout, facts: Mapping[str, Any]) -> None:
    """Declare a store complete: write its index and, last, its manifest.

    Args:
        folder: The store.
        parts: The joined indices of all shards.
        layout: What the store declares.
        facts: What else the manifest tells: the encoder, its inputs, versions.
    """
    uncounted = [
        name for name in ("n_events", "n_known") if parts[name].null_count() == parts.height
    ]
    write_parquet(
        folder / "index.parquet", parts.drop("reason", *_OF_A_SHARD, *uncounted, strict=False)
    )
    tables = sorted([*folder.glob("*index*.parquet"), folder / "quarantine.parquet"])
    manifest = {
        **facts,
        **asdict(layout),
        "max_tokens": int(parts["n_tokens"].to_numpy().max())
        if layout.max_tokens is None
        else layout.max_tokens,
        "n_samples": parts.height,
        "n_missing": int((parts["n_tokens"] == 0).sum()),
        "tables": {path.name: file_digest(path) for path in tables},
        "complete": True,
    }
    write_json(folder / "manifest.json", {**manifest, "digest": fingerprint(manifest)})


def read_parts(folder: Path, n_shards: int) -> pl.DataFrame:
    """Join the indices of all shards, with the `reason` of each quarantined sample.

    Raises:
        StoreError: A shard is not whole.
    """
    whole = [part for _, part in _parts(folder, range(n_shards))]
    if len(whole) < n_shards:
        raise StoreError(
            f"{folder}: {n_shards - len(whole)} of {n_shards} shards are not whole; run again to "
            "finish them"
        )
    return pl.concat(whole, how="diagonal")  # one made before there were digests lacks a column


def reopen(folder: Path, n_shards: int) -> None:
    """Take completeness back and forget shards with quarantined samples: they are made again."""
    (folder / "manifest.json").unlink(missing_ok=True)
    for shard, part in _parts(folder, range(n_shards)):
        if part["reason"].is_not_null().any():
            shard_path(folder, "index", shard).unlink()


def discard_damaged(folder: Path, n_shards: int, digests: DigestCache) -> None:
    """Remove what is not as it was written, so that it is made again, and say so.

    Args:
        folder: The store, complete or not; there may be none.
        n_shards: Number of its shards.
        digests: Remembers what was read before and has not changed since.
    """
    damaged = [
        shard_path(folder, "index", shard)
        for shard, part in _parts(folder, range(n_shards))
        if "files" in part.columns  # not of a version that knew no digests
        and part["files"][0] != content_digest(folder, shard, digests)
    ]
    try:
        tables = (read_manifest(folder) or {}).get("tables", {})
        files = {folder / name: digest for name, digest in tables.items()}
        damaged += [
            path
            for path, digest in files.items()
            if not path.is_file() or digests.digest(path) != digest
        ]
    except StoreError:
        damaged.append(folder / "manifest.json")
    for path in damaged:
        _LOG.warning("%s: %s is missing or damaged, it is made again", folder, path.name)
        path.unlink(missing_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)


def _parts(folder: Path, shards: Iterable[int]) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield the indices of the shards that are whole."""
    for shard in shards:
        part = read_index_part(folder, shard)
        if part is not None:
            yield shard, part


@dataclass(frozen=True, slots=True)
class Place:
    """Where the embedding of a sample lies.

    Attributes:
        folder: The store, complete or not.
        shard: A shard of it that is whole.
        row: The sample's position there.
        offset: Position of its first token there.
        n_tokens: Number of its tokens.
        reason: Why it was quarantined, or None.
        digest: Of the bytes of its vectors; None where there are none.
        device: Where it was made.
    """

    folder: Path
    shard: int
    row: int
    offset: int
    n_tokens: int
    reason: str | None
    digest: str | None
    device: str

    def read(self, layout: Layout, device: str) -> Encoded:
        """Return what lies there, for an encoder on a device.

        Raises:
            StoreError: It was made on another, whose digits differ, or is not what was written.
        """
        place = f"{self.folder.name}: shard {self.shard:05d}"
        if self.device != device:
            raise StoreError(f"{place} was encoded on {self.device}, the encoder is on {device}")
        if not self.n_tokens:
            return Encoded(None, self.reason)
        with suppress(OSError, ValueError, EOFError):
            tokens, pooled = map_vectors(self.folder, self.shard, layout)
            own = tokens[self.offset : self.offset + self.n_tokens]
            vector = None if pooled is None else pooled[self.row : self.row + 1].reshape(-1)
            if vectors_digest(own, vector) == self.digest:
                return Encoded(TokenEmbedding(own, vector))
        raise StoreError(f"{place} is missing or damaged")


def embedding_keys(
    encoder: Mapping[str, Any], digests: Sequence[str | None], batches: Iterable[range]
) -> list[str | None]:
    """Return what tells each sample's embedding from every other.

    The key covers the encoder (its code, options and weights) and the inputs of its batch: in other
    company a network's sums may differ in their last bit, and what is taken over has the bytes that
    encoding it again would give.

    Args:
        encoder: All that decides what the encoder returns for an input.
        digests: Of each sample's input; a sample without has no key.
        batches: The samples that are encoded together.
    """
    keys: list[str | None] = [None] * len(digests)
    for batch in batches:
        made_of = fingerprint({"encoder": encoder, "batch": [digests[sample] for sample in batch]})
        for place, sample in enumerate(batch):
            if digests[sample] is not None:
                keys[sample] = f"{made_of}-{place}"
    return keys


def find_embeddings(
    folder: Path, keys: Collection[str], *, accepts: Callable[[str], bool]
) -> dict[str, Place]:
    """Look for embeddings in the whole shards of the stores beside one, the newest first.

    Args:
        folder: The store that is to be filled.
        keys: What is looked for.
        accepts: Whether a sample that was quarantined there for a reason counts as found.
    """
    found: dict[str, Place] = {}
    beside = folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*")
    stores = [path for path in beside if path != folder and path.is_dir()]
    for store in sorted(stores, key=lambda path: path.stat().st_mtime, reverse=True):
        for key, place in _places(store) if len(found) < len(keys) else ():
            if key in keys and (place.reason is None or accepts(place.reason)):
                found.setdefault(key, place)
    return found


def _places(store: Path) -> Iterator[tuple[str, Place]]:
    shards = sorted(int(path.stem.removeprefix("index-")) for path in store.glob("index-*.parquet"))
    columns = ("key", "offset", "n_tokens", "reason", "digest", "device")
    for shard, part in _parts(store, shards):
        if "device" in part.columns:  # not of a version that knew no keys
            for row, (key, *place) in enumerate(part.select(columns).iter_rows()):
                yield key, Place(store, shard, row, *place)
