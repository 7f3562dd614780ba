"""The embedding store, the first waist of the house.

One folder per cohort and encoder, self-describing, plain formats.

`index.parquet`, `quarantine.parquet` and `manifest.json`, written in this order after the shards,
say that the store is whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    TokenTable,
    concatenate,
    pack_codes,
    pack_tokens,
)
from concordant.core.errors import StoreError
from concordant.core.files import read_json, write_json
from concordant.data.meds import RecordCounts
from concordant.embeddings.shards import (
    Layout,
    read_index_part,
    read_shard,
    shard_path,
    write_parquet,
)

_LAYOUT_KEYS = ("kind", "token_dim", "pooled_dim", "max_tokens", "dtype", "missing")
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
        """Read the embeddings of samples, in the order asked for.

        A sample that is not in the store has the modality missing.

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
    except (ValueError, TypeError, KeyError):
        complete = False
    if not complete:
        raise StoreError(
            f"{folder}: manifest.json is damaged; delete the folder and run again to make it anew"
        )
    return manifest


def write_quarantine(folder: Path, parts: pl.DataFrame) -> None:
    """Write `quarantine.parquet`, which names the samples that could not be encoded, from the
    joined indices of all shards.
    """
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
        folder / "index.parquet", parts.drop("reason", "key", "digest", "device", *uncounted)
    )
    manifest = {
        **facts,
        **asdict(layout),
        "max_tokens": int(parts["n_tokens"].to_numpy().max())
        if layout.max_tokens is None
        else layout.max_tokens,
        "n_samples": parts.height,
        "n_missing": int((parts["n_tokens"] == 0).sum()),
        "complete": True,
    }
    write_json(folder / "manifest.json", manifest)


def read_parts(folder: Path, n_shards: int) -> pl.DataFrame:
    """Join the indices of all shards, with the `reason` of each quarantined sample.

    Raises:
        StoreError: A shard is not whole.
    """
    parts = [read_index_part(folder, shard) for shard in range(n_shards)]
    whole = [part for part in parts if part is not None]
    if len(whole) < n_shards:
        raise StoreError(
            f"{folder}: {n_shards - len(whole)} of {n_shards} shards are not whole; run again to "
            "finish them"
        )
    return pl.concat(whole)


def reopen(folder: Path, n_shards: int) -> None:
    """Take a store's completeness back and forget the shards that hold a quarantined sample, so
    that they are made again.
    """
    (folder / "manifest.json").unlink(missing_ok=True)
    for shard in range(n_shards):
        part = read_index_part(folder, shard)
        if part is not None and part["reason"].is_not_null().any():
            shard_path(folder, "index", shard).unlink()
