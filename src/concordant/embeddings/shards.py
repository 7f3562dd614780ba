"""The files of one shard of an embedding store: how they are written, and read back.

A shard NNNNN is `NNNNN.npy` (all its tokens, sample after sample) and `pooled-NNNNN.npy` (one row
per sample), or, for codes, `codes-NNNNN.parquet` and its own `vocabulary-NNNNN.parquet`; then
`index-NNNNN.parquet`, written last: where that is, the shard is whole. The index also holds the
digest of the shard's files (`files`), by which damage is noticed, and what each embedding was made
of (`key`), on which kind of device (`device`), with the digest of its bytes (`digest`): by these,
later stores take it over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from concordant.core.embedding import (
    CodeEmbedding,
    CodeTable,
    EmbeddingTable,
    TokenEmbedding,
    TokenTable,
    pack_codes,
    pack_tokens,
)
from concordant.core.errors import StoreError
from concordant.core.files import DigestCache, atomic_path

Embeddings = Sequence[TokenEmbedding | CodeEmbedding | None] | CodeTable
"""Of samples, one by one or packed; None where the modality is missing."""

Part = Literal["tokens", "pooled", "codes", "vocabulary", "index"]
_CONTENT: tuple[Part, ...] = ("tokens", "pooled", "codes", "vocabulary")


@dataclass(frozen=True, slots=True)
class Layout:
    """What all shards of a store have in common.

    Attributes:
        kind: "tokens" (vectors) or "codes" (a sparse multi-hot record).
        token_dim: Width of a token; None for codes.
        pooled_dim: Width of the pooled vector; None where there is none.
        max_tokens: Declared greatest number of tokens of a sample; None for codes, where the data
            decides.
        dtype: Type of the vectors on disk; the weights of codes are float32.
        missing: "error" if no value is NaN, "median" if NaN is to be imputed after the store.
    """

    kind: Literal["tokens", "codes"]
    token_dim: int | None = None
    pooled_dim: int | None = None
    max_tokens: int | None = None
    dtype: Literal["float32", "float16"] = "float32"
    missing: str = "error"


@dataclass(frozen=True, slots=True)
class Encoded:
    """What became of one sample.

    Attributes:
        embedding: Its embedding; None where the modality is missing.
        quarantine: Why it could not be encoded, without a path or identifier; None where nothing
            went wrong.
    """

    embedding: TokenEmbedding | CodeEmbedding | None
    quarantine: str | None = None


@dataclass(frozen=True, slots=True)
class EncodedShard:
    """What became of the samples of a shard.

    Attributes:
        embeddings: As in `Encoded`; codes may be packed.
        quarantine: As in `Encoded`; None where nothing went wrong at all.
        n_events: Events of each record; None where the encoder has no vocabulary of its own.
        n_known: How many of them the vocabulary has.
    """

    embeddings: Embeddings
    quarantine: Sequence[str | None] | None = None
    n_events: Sequence[int | None] | None = None
    n_known: Sequence[int | None] | None = None

    @classmethod
    def of(cls, encoded: Iterable[Encoded]) -> EncodedShard:
        """Gather what became of each sample."""
        rows = list(encoded)
        return cls([one.embedding for one in rows], [one.quarantine for one in rows])


def shard_path(folder: Path, part: Part, shard: int) -> Path:
    """Return where a shard keeps a part."""
    name = f"{shard:05d}" if part == "tokens" else f"{part}-{shard:05d}"
    return folder / f"{name}.{'npy' if part in ('tokens', 'pooled') else 'parquet'}"


def write_shard(
    folder: Path,
    shard: int,
    sample_ids: Sequence[str],
    encoded: EncodedShard,
    layout: Layout,
    keys: Sequence[str | None] | None = None,
    device: str = "cpu",
) -> None:
    """Write a shard, each file by atomic rename, the index last.

    Args:
        folder: The store.
        shard: Number of the shard.
        sample_ids: Its samples.
        encoded: What became of them.
        layout: What the store declares.
        keys: What each embedding was made of; None, or a None among them, for what no other store
            may take over.
        device: Where they were made.

    Raises:
        StoreError: An embedding breaks the layout, or a value overflows float16.
    """
    if layout.kind == "codes":
        table: EmbeddingTable = _write_codes(folder, shard, encoded.embeddings)
    else:
        table = _write_tokens(folder, shard, encoded.embeddings, layout)
    n = len(sample_ids)
    nothing = [None] * n
    columns: dict[str, tuple[Sequence[Any], type[pl.DataType]]] = {
        "sample_id": (sample_ids, pl.String),
        "shard": ([shard] * n, pl.Int32),
        "offset": (table.offsets[:-1].tolist(), pl.Int64),
        "n_tokens": (table.lengths.tolist(), pl.Int32),
        "reason": (encoded.quarantine or nothing, pl.String),
        "n_events": (encoded.n_events or nothing, pl.Int32),
        "n_known": (encoded.n_known or nothing, pl.Int32),
        "key": (keys or nothing, pl.String),
        "digest": (_digests(table) if isinstance(table, TokenTable) else nothing, pl.String),
        "device": ([device] * n, pl.String),
        "files": ([content_digest(folder, shard, DigestCache())] * n, pl.String),
    }
    index = {name: pl.Series(values, dtype=dtype) for name, (values, dtype) in columns.items()}
    write_parquet(shard_path(folder, "index", shard), pl.DataFrame(index))


def content_digest(folder: Path, shard: int, cache: DigestCache) -> str:
    """Return one digest of all files of a shard that are there, but for its index."""
    paths = [shard_path(folder, part, shard) for part in _CONTENT]
    files = {path.name: path for path in paths if path.is_file()}
    return cache.digest_together(shard_path(folder, "index", shard), files)


def write_parquet(path: Path, table: pl.DataFrame) -> None:
    """Write a parquet file atomically."""
    with atomic_path(path) as temporary:
        table.write_parquet(temporary)


def _digests(table: TokenTable) -> list[str | None]:
    """Return the digest of the bytes of each sample's vectors; None for a sample that has none."""
    bounds = zip(table.offsets[:-1], table.offsets[1:], strict=True)
    pooled = [None] * len(table) if table.pooled is None else table.pooled
    return [
        vectors_digest(table.values[start:end], own) if end > start else None
        for (start, end), own in zip(bounds, pooled, strict=True)
    ]


def vectors_digest(
    tokens: Float[np.ndarray, "token dim"], pooled: Float[np.ndarray, " dim"] | None
) -> str:
    """Return the SHA-256 of a sample's vectors as hex."""
    digest = hashlib.sha256(np.ascontiguousarray(tokens).data)
    if pooled is not None:
        digest.update(np.ascontiguousarray(pooled).data)
    return digest.hexdigest()


def _write_array(
    path: Path, values: Float[np.ndarray, "row dim"], layout: Layout
) -> Float[np.ndarray, "row dim"]:
    """Write vectors in the store's type and return them in it."""
    with np.errstate(over="ignore"):
        stored: Float[np.ndarray, "row dim"] = values.astype(layout.dtype)
    overflown = int((np.isinf(stored) & np.isfinite(values)).sum())
    if overflown:
        raise StoreError(
            f"{overflown} value(s) overflow {layout.dtype} (beyond 65504); the encoder has to "
            "declare dtype float32"
        )
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, stored, allow_pickle=False)
    return stored


def _write_tokens(folder: Path, shard: int, embeddings: Embeddings, layout: Layout) -> TokenTable:
    fitting = [_fitting(embedding, layout) for embedding in embeddings]
    table = pack_tokens(
        fitting, dim=layout.token_dim or 0, pooled_dim=layout.pooled_dim, missing=layout.missing
    )
    values = _write_array(shard_path(folder, "tokens", shard), table.values, layout)
    pooled = (
        None
        if table.pooled is None
        else _write_array(shard_path(folder, "pooled", shard), table.pooled, layout)
    )
    return replace(table, values=values, pooled=pooled)


def _fitting(
    embedding: TokenEmbedding | CodeEmbedding | None, layout: Layout
) -> TokenEmbedding | None:
    """Check that an embedding keeps to what its encoder declared."""
    if embedding is None:
        return None
    if isinstance(embedding, CodeEmbedding):
        raise StoreError(
            "the encoder declares tokens but returned codes; its card has to say which"
        )
    shape, pooled = (
        embedding.tokens.shape,
        None if embedding.pooled is None else len(embedding.pooled),
    )
    if (
        shape[1] != layout.token_dim
        or pooled != layout.pooled_dim
        or (layout.max_tokens is not None and shape[0] > layout.max_tokens)
    ):
        raise StoreError(
            f"the encoder returned {shape[0]} tokens of width {shape[1]} and a pooled width of "
            f"{pooled}; it declares at most {layout.max_tokens} tokens of width {layout.token_dim} "
            f"and a pooled width of {layout.pooled_dim}"
        )
    return embedding


def _write_codes(folder: Path, shard: int, embeddings: Embeddings) -> CodeTable:
    table = _packed(embeddings)
    vocabulary = pl.DataFrame(
        {
            "code": pl.Series(table.codes, dtype=pl.String),
            "numeric": pl.Series(table.numeric, dtype=pl.Boolean),
        }
    )
    write_parquet(shard_path(folder, "vocabulary", shard), vocabulary)
    rows = pl.DataFrame(
        {
            "code": pl.Series(table.index, dtype=pl.Int32),
            "weight": pl.Series(table.weight, dtype=pl.Float32),
        }
    )
    write_parquet(shard_path(folder, "codes", shard), rows)
    return table


def _packed(embeddings: Embeddings) -> CodeTable:
    if isinstance(embeddings, CodeTable):
        return embeddings
    codes = [embedding for embedding in embeddings if not isinstance(embedding, TokenEmbedding)]
    if len(codes) < len(embeddings):
        raise StoreError(
            "the encoder declares codes but returned tokens; its card has to say which"
        )
    return pack_codes(codes)


def read_index_part(folder: Path, shard: int) -> pl.DataFrame | None:
    """Return the index of a shard that is whole, or None."""
    path = shard_path(folder, "index", shard)
    try:
        return pl.read_parquet(path, hive_partitioning=False) if path.is_file() else None
    except (OSError, pl.exceptions.PolarsError):
        return None


def read_shard(
    folder: Path, shard: int, lengths: Int[np.ndarray, " sample"], layout: Layout
) -> EmbeddingTable:
    """Open a shard; its vectors stay on disk, memory-mapped, until rows of them are taken.

    Args:
        folder: The store.
        shard: Number of the shard.
        lengths: Tokens per sample, from the index.
        layout: What the store declares.

    Raises:
        StoreError: A file of the shard is missing, damaged or does not match the index.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    try:
        return (
            _read_codes(folder, shard, offsets)
            if layout.kind == "codes"
            else _read_tokens(folder, shard, offsets, layout)
        )
    except (OSError, ValueError, EOFError, pl.exceptions.PolarsError) as error:
        first_line = str(error).partition("\n")[0]
        raise StoreError(
            f"{folder}: shard {shard:05d} is missing or damaged ({first_line}); delete the folder "
            "and run again to make it anew"
        ) from None


def _read_tokens(
    folder: Path, shard: int, offsets: Int[np.ndarray, " sample_plus_one"], layout: Layout
) -> TokenTable:
    values, pooled = map_vectors(folder, shard, layout)
    n_rows = len(values) if pooled is None else len(pooled)
    if len(values) != offsets[-1] or (pooled is not None and n_rows != len(offsets) - 1):
        raise ValueError(
            f"{len(values)} tokens of {n_rows} samples, the index expects {offsets[-1]} of "
            f"{len(offsets) - 1}"
        )
    return TokenTable(values, offsets, pooled, layout.missing)


def map_vectors(
    folder: Path, shard: int, layout: Layout
) -> tuple[Float[np.ndarray, "token dim"], Float[np.ndarray, "sample dim"] | None]:
    """Map a shard's tokens and pooled vectors into memory.

    Raises:
        OSError, ValueError, EOFError: A file is missing, damaged or not what the store declares.
    """
    tokens = _map(shard_path(folder, "tokens", shard), layout.token_dim, layout)
    if layout.pooled_dim is None:
        return tokens, None
    return tokens, _map(shard_path(folder, "pooled", shard), layout.pooled_dim, layout)


def _map(path: Path, dim: int | None, layout: Layout) -> Float[np.ndarray, "row dim"]:
    values: Float[np.ndarray, "row dim"] = np.load(path, mmap_mode="r", allow_pickle=False)
    if values.shape[1:] != (dim,) or values.dtype != layout.dtype:
        raise ValueError(
            f"{path.name} is {values.dtype} of shape {values.shape}, the store declares "
            f"{layout.dtype} of width {dim}"
        )
    return values


def _read_codes(
    folder: Path, shard: int, offsets: Int[np.ndarray, " sample_plus_one"]
) -> CodeTable:
    vocabulary = pl.read_parquet(shard_path(folder, "vocabulary", shard), hive_partitioning=False)
    rows = pl.read_parquet(shard_path(folder, "codes", shard), hive_partitioning=False)
    index = rows["code"].to_numpy()
    if rows.height != offsets[-1] or (
        rows.height and not 0 <= index.min() <= index.max() < vocabulary.height
    ):
        raise ValueError(
            f"{rows.height} codes over a vocabulary of {vocabulary.height}, the index expects "
            f"{offsets[-1]}"
        )
    return CodeTable(
        tuple(vocabulary["code"].to_list()),
        vocabulary["numeric"].to_numpy(),
        index,
        rows["weight"].to_numpy(),
        offsets,
    )
