"""What encoders return and the embedding store holds: numpy only, nothing fitted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from jaxtyping import Bool, Float, Int

from concordant.core.errors import StoreError


@dataclass(frozen=True, slots=True)
class TokenEmbedding:
    """One sample seen by an encoder that returns vectors.

    Attributes:
        tokens: At least one token, float32 (or float16 where the encoder declares it).
        pooled: The encoder's own pooled vector, or None.
    """

    tokens: Float[np.ndarray, "token dim"]
    pooled: Float[np.ndarray, " pooled_dim"] | None = None


@dataclass(frozen=True, slots=True)
class CodeEmbedding:
    """One sample seen by an encoder that returns codes: a sparse multi-hot record.

    Attributes:
        codes: Active codes, unique, sorted.
        weights: One weight per code: 1 or a count for presence codes, the raw value for numeric
            ones.
        numeric: True where the weight is a measured value (an age, a laboratory value), to be
            standardised on train.
    """

    codes: tuple[str, ...]
    weights: Float[np.ndarray, " code"]
    numeric: Bool[np.ndarray, " code"]


@dataclass(frozen=True, slots=True)
class TokenTable:
    """Token embeddings of many samples, packed; a sample with no rows has the modality missing.

    Attributes:
        values: All tokens, sample after sample.
        offsets: Sample i owns rows offsets[i] to offsets[i + 1].
        pooled: One pooled vector per sample (NaN rows where the sample is missing), or None if the
            encoder has none.
        missing: "error" if no value is NaN, "median" if NaN is to be imputed by train's median with
            an indicator.
    """

    values: Float[np.ndarray, "row dim"]
    offsets: Int[np.ndarray, " sample_plus_one"]
    pooled: Float[np.ndarray, "sample pooled_dim"] | None = None
    missing: str = "error"

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int[np.ndarray, " sample"]:
        """Tokens per sample; 0 = missing."""
        return np.diff(self.offsets)

    def take(self, samples: Int[np.ndarray, " chosen"]) -> TokenTable:
        """Return the table of the chosen samples, in that order."""
        rows, offsets = _gather(self.offsets, samples)
        return TokenTable(
            self.values[rows],
            offsets,
            None if self.pooled is None else self.pooled[samples],
            self.missing,
        )


@dataclass(frozen=True, slots=True)
class CodeTable:
    """Code embeddings of many samples, packed; a sample with no rows has the modality missing.

    Attributes:
        codes: The vocabulary of this table, sorted.
        numeric: Per vocabulary entry, True for measured values.
        index: Position in `codes` of each row.
        weight: Weight of each row.
        offsets: Sample i owns rows offsets[i] to offsets[i + 1].
    """

    codes: tuple[str, ...]
    numeric: Bool[np.ndarray, " code"]
    index: Int[np.ndarray, " row"]
    weight: Float[np.ndarray, " row"]
    offsets: Int[np.ndarray, " sample_plus_one"]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[CodeEmbedding]:
        """Iterate over the samples' embeddings."""
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, sample: int) -> CodeEmbedding:
        """Return a sample's embedding."""
        place = range(len(self))[sample]
        rows = slice(self.offsets[place], self.offsets[place + 1])
        index = self.index[rows]
        return CodeEmbedding(
            tuple(self.codes[code] for code in index.tolist()),
            self.weight[rows],
            self.numeric[index],
        )

    @property
    def lengths(self) -> Int[np.ndarray, " sample"]:
        """Active codes per sample; 0 = missing."""
        return np.diff(self.offsets)

    def among(self, present: Bool[np.ndarray, " sample"]) -> CodeTable:
        """Return a table of more samples: these where `present` is true, else missing."""
        lengths = np.zeros(len(present), np.int64)
        lengths[present] = self.lengths
        return replace(self, offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    def take(self, samples: Int[np.ndarray, " chosen"]) -> CodeTable:
        """Return the table of the chosen samples, in that order, with the same vocabulary."""
        if np.array_equal(samples, np.arange(len(self))):
            return self
        rows, offsets = _gather(self.offsets, samples)
        return CodeTable(self.codes, self.numeric, self.index[rows], self.weight[rows], offsets)


EmbeddingTable = TokenTable | CodeTable


def _gather(
    offsets: Int[np.ndarray, " sample_plus_one"], samples: Int[np.ndarray, " chosen"]
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " chosen_plus_one"]]:
    lengths = np.diff(offsets)[samples]
    new_offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    starts = np.repeat(offsets[:-1][samples] - new_offsets[:-1], lengths)
    return np.arange(new_offsets[-1]) + starts, new_offsets


def pack_tokens(
    embeddings: Sequence[TokenEmbedding | None],
    *,
    dim: int,
    pooled_dim: int | None,
    missing: str = "error",
) -> TokenTable:
    """Pack token embeddings; None is a sample whose modality is missing."""
    lengths = [0 if one is None else len(one.tokens) for one in embeddings]
    present = [one.tokens for one in embeddings if one is not None]
    values = (
        np.concatenate(present).astype(np.float32) if present else np.zeros((0, dim), np.float32)
    )
    pooled = None
    if pooled_dim is not None:
        pooled = np.full((len(embeddings), pooled_dim), np.nan, np.float32)
        for row, one in enumerate(embeddings):
            if one is not None and one.pooled is not None:
                pooled[row] = one.pooled
    return TokenTable(
        values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), pooled, missing
    )


def pack_codes(embeddings: Sequence[CodeEmbedding | None]) -> CodeTable:
    """Pack code embeddings under one sorted vocabulary; None is a sample whose modality is missing.

    Raises:
        StoreError: A code is a measured value in one sample and a plain one in another.
    """
    present = [one for one in embeddings if one is not None]
    lengths = [0 if one is None else len(one.codes) for one in embeddings]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    codes = sorted(set().union(*(one.codes for one in present)))
    if not codes:
        return CodeTable(
            (), np.zeros(0, bool), np.zeros(0, np.int32), np.zeros(0, np.float32), offsets
        )
    position = {code: place for place, code in enumerate(codes)}
    index = np.fromiter(
        map(position.__getitem__, chain.from_iterable(one.codes for one in present)),
        np.int32,
        offsets[-1],
    )
    row_numeric = np.concatenate([one.numeric for one in present]).astype(bool)
    numeric = np.zeros(len(codes), bool)
    numeric[index] = row_numeric
    _refuse_both_kinds({codes[place] for place in index[row_numeric != numeric[index]]})
    weight = np.concatenate([one.weights for one in present]).astype(np.float32)
    return CodeTable(tuple(codes), numeric, index, weight, offsets)


def _refuse_both_kinds(codes: Collection[str]) -> None:
    """Refuse codes that are measured here and plain there: they cannot share a column."""
    if codes:
        raise StoreError(
            f"{len(codes)} code(s), such as {min(codes)!r}, are a measured value in one sample and "
            "a plain code in another; rename one of the two in the records"
        )


def concatenate(tables: Sequence[EmbeddingTable]) -> EmbeddingTable:
    """Put tables of one kind after each other; codes are joined by code string, never by index.

    Raises:
        StoreError: Token tables that disagree in what a NaN means, or code tables in which codes
            are measured values.
        TypeError: A token table and a code table.
    """
    tokens = [table for table in tables if isinstance(table, TokenTable)]
    codes = [table for table in tables if isinstance(table, CodeTable)]
    if tokens and codes:
        raise TypeError("a token table and a code table cannot be joined")
    return _concatenate_codes(codes) if codes else _concatenate_tokens(tokens)


def _offsets(tables: Sequence[EmbeddingTable]) -> Int[np.ndarray, " sample_plus_one"]:
    lengths = np.concatenate([table.lengths for table in tables])
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _concatenate_tokens(tables: Sequence[TokenTable]) -> TokenTable:
    policies = {table.missing for table in tables}
    if len(policies) > 1:
        raise StoreError(
            f"these tables disagree in what a missing value means ({', '.join(sorted(policies))}); "
            "make them with one option"
        )
    pooled = [table.pooled for table in tables if table.pooled is not None]
    return TokenTable(
        np.concatenate([table.values for table in tables]),
        _offsets(tables),
        np.concatenate(pooled) if len(pooled) == len(tables) else None,
        tables[0].missing,
    )


def _concatenate_codes(tables: Sequence[CodeTable]) -> CodeTable:
    codes = tuple(sorted(set().union(*(table.codes for table in tables))))
    position = {code: place for place, code in enumerate(codes)}
    places = [
        np.fromiter(map(position.__getitem__, table.codes), np.int32, len(table.codes))
        for table in tables
    ]
    numeric, plain = np.zeros(len(codes), bool), np.zeros(len(codes), bool)
    for place, table in zip(places, tables, strict=True):
        numeric[place[table.numeric]] = plain[place[~table.numeric]] = True
    _refuse_both_kinds({codes[place] for place in np.flatnonzero(numeric & plain)})
    ends = np.cumsum([len(table.index) for table in tables])
    index = np.empty(ends[-1], np.int32)
    for place, table, rows in zip(places, tables, np.split(index, ends[:-1]), strict=True):
        place.take(
            table.index, out=rows, mode="clip"
        )  # none lies outside, and to look for such takes a copy
    return CodeTable(
        codes, numeric, index, np.concatenate([table.weight for table in tables]), _offsets(tables)
    )
