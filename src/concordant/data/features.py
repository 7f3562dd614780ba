"""Feature files: any encoder's output, or hand-made features, as parquet in place of an encoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict

from concordant.core.embedding import TokenEmbedding, TokenTable
from concordant.core.errors import FeatureError
from concordant.data.frames import read_parquet

COHORT_COLUMNS = ("subject_id", "prediction_time", "split", "site", "time_days", "event", "ct_path")
"""Columns of a cohort table that a feature file must not hold.

As features, they would tell the outcome or the split.
"""


class FeatureOptions(BaseModel):
    """What a study says of a feature file.

    Attributes:
        path: The parquet file.
        transform: "signed_log1p" maps x to sign(x) log(1 + |x|), for heavy-tailed features.
        missing: What a single null means: "error", or "median" (imputed by train's median, with an
            indicator, after the store).
        training_data: Names of the public cohorts that the encoder behind the features was trained
            on, for the audit's leakage warning.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    transform: Literal["none", "signed_log1p"] = "none"
    missing: Literal["error", "median"] = "error"
    training_data: tuple[str, ...] = ()


@dataclass(frozen=True)
class FeatureTable:
    """The features of a file.

    Attributes:
        sample_ids: The samples, in file order.
        embeddings: Their features, float32, NaN where a value is to be imputed; a row that is null
            throughout has no token (missing).
        columns: Names of the numeric columns, in file order: the entries of the pooled vector or,
            without `tokens`, of the only token.
    """

    sample_ids: tuple[str, ...]
    embeddings: TokenTable
    columns: tuple[str, ...]

    @property
    def token_dim(self) -> int:
        """Width of a token."""
        return int(self.embeddings.values.shape[1])

    @property
    def pooled_dim(self) -> int | None:
        """Width of the pooled vector, None where there is none."""
        return None if self.embeddings.pooled is None else int(self.embeddings.pooled.shape[1])

    @property
    def max_tokens(self) -> int:
        """Greatest number of tokens of a sample."""
        return int(self.embeddings.lengths.max())

    def embedding(self, sample_id: str) -> TokenEmbedding | None:
        """Return a sample's features, or None where the file has none for it."""
        row = self._rows.get(sample_id)
        if row is None:
            return None
        start, end = self.embeddings.offsets[row : row + 2]
        pooled = self.embeddings.pooled
        if start == end:
            return None
        own = None if pooled is None else pooled[row]
        return TokenEmbedding(self.embeddings.values[start:end], own)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {sample_id: row for row, sample_id in enumerate(self.sample_ids)}


def read_features(options: FeatureOptions) -> FeatureTable:
    """Read a feature file.

    With numeric columns alone a sample is one token; with `tokens` (list<list<number>>) alone it is
    those tokens; with both, the numeric columns are the pooled vector. Booleans count as 0 and 1.
    The transform is the only thing done to a value.

    Raises:
        FeatureError: No parquet file, a `sample_id` that is absent, null or not unique, a column
            that is not numeric or belongs to the cohort table, tokens of different widths, a row
            with numbers but no tokens, an infinity, or a null under `missing: error`.
    """
    path = options.path
    frame = _read(path)
    columns = _numeric_columns(frame, path)
    numbers = _transformed(_numbers(frame, columns), options)
    has_tokens = "tokens" in frame.columns
    tokens = _Tokens(numbers, np.ones(frame.height, np.int64))
    tokens = _tokens(frame["tokens"], options) if has_tokens else tokens
    tokens = tokens.without_empty_samples()
    pooled = numbers if columns and has_tokens else None
    _check_complete(tokens, pooled, options)
    offsets = np.concatenate([[0], np.cumsum(tokens.lengths)]).astype(np.int64)
    embeddings = TokenTable(tokens.values, offsets, pooled, options.missing)
    return FeatureTable(tuple(frame["sample_id"].to_list()), embeddings, columns)


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise FeatureError(
            f"{path}: no such feature file; expected parquet with sample_id, numeric columns "
            "and/or tokens"
        )
    frame = read_parquet(path, FeatureError)
    if frame.schema.get("sample_id") != pl.String or frame.is_empty():
        raise FeatureError(
            f"{path}: expected a text column sample_id and at least one row; found {frame.height} "
            f"row(s) of {dict(frame.schema)}"
        )
    if frame["sample_id"].null_count() or frame["sample_id"].is_duplicated().any():
        raise FeatureError(
            f"{path}: sample_id is null or occurs twice; expected one row per sample"
        )
    return frame


def _numeric_columns(frame: pl.DataFrame, path: Path) -> tuple[str, ...]:
    columns = tuple(name for name in frame.columns if name not in ("sample_id", "tokens"))
    foreign = [name for name in columns if name in COHORT_COLUMNS]
    if foreign:
        raise FeatureError(
            f"{path}: column(s) {', '.join(foreign)} belong to the cohort table and are no "
            "features; leave them out"
        )
    other = [
        name
        for name in columns
        if not (frame[name].dtype.is_numeric() or frame[name].dtype in (pl.Boolean, pl.Null))
    ]
    if other:
        raise FeatureError(
            f"{path}: column(s) {', '.join(other)} are not numeric; one-hot encode them first, or "
            "leave them out"
        )
    if not columns and "tokens" not in frame.columns:
        raise FeatureError(
            f"{path}: no feature; expected numeric columns and/or tokens (list<list<number>>) "
            "beside sample_id"
        )
    return columns


def _numbers(frame: pl.DataFrame, columns: tuple[str, ...]) -> Float[np.ndarray, "row column"]:
    if not columns:
        return np.zeros((frame.height, 0))
    return frame.select(pl.col(columns).cast(pl.Float64).fill_null(np.nan)).to_numpy()


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The tokens of all rows, packed, and how many each row has."""

    values: Float[np.ndarray, "token dim"]
    lengths: Int[np.ndarray, " row"]

    def without_empty_samples(self) -> _Tokens:
        """Drop the tokens of the rows that are null throughout."""
        n, stated = len(self.lengths), ~np.isnan(self.values).all(1)
        row = np.repeat(np.arange(n), self.lengths)
        filled = np.bincount(row, weights=stated, minlength=n) > 0
        return _Tokens(self.values[filled[row]], np.where(filled, self.lengths, 0))


def _tokens(column: pl.Series, options: FeatureOptions) -> _Tokens:
    path = options.path
    try:
        lists = column.cast(pl.List(pl.List(pl.Float64)))
    except pl.exceptions.PolarsError:
        raise FeatureError(
            f"{path}: tokens is {column.dtype}; expected list<list<number>>, one inner list per "
            "token"
        ) from None
    lengths = lists.list.len().fill_null(0)
    vectors = lists.filter(lengths > 0).explode()
    widths = vectors.list.len()
    if widths.null_count() or widths.n_unique() != 1 or widths[0] == 0:
        raise FeatureError(
            f"{path}: tokens holds no token, a null token, or tokens of different widths; expected "
            "one width for the whole file"
        )
    values = vectors.explode().fill_null(np.nan).to_numpy().reshape(len(vectors), widths[0])
    return _Tokens(_transformed(values, options), lengths.cast(pl.Int64).to_numpy())


def _transformed(
    values: Float[np.ndarray, "row dim"], options: FeatureOptions
) -> Float[np.ndarray, "row dim"]:
    """Apply the transform in float64 and return float32."""
    if options.transform == "signed_log1p":
        values = np.sign(values) * np.log1p(np.abs(values))
    with np.errstate(over="ignore"):
        stored = values.astype(np.float32)
    infinite = int(np.isinf(stored).sum())
    if infinite:
        raise FeatureError(
            f"{options.path}: {infinite} value(s) are infinite or beyond float32; mend them, or "
            "give null where a value is unknown"
        )
    return stored


def _check_complete(
    tokens: _Tokens, pooled: Float[np.ndarray, "row dim"] | None, options: FeatureOptions
) -> None:
    if not tokens.lengths.any():
        raise FeatureError(f"{options.path}: every row is null throughout; no sample has a feature")
    absent = np.isnan(tokens.values).sum()
    if pooled is not None:
        bare = ~np.isnan(pooled).all(1) & (tokens.lengths == 0)
        if bare.any():
            raise FeatureError(
                f"{options.path}: {bare.sum()} row(s) have numbers but no tokens; give both, or "
                "neither where the sample is missing"
            )
        absent += np.isnan(pooled[tokens.lengths > 0]).sum()
    if absent and options.missing == "error":
        raise FeatureError(
            f"{options.path}: {absent} single value(s) are null in rows that hold others; "
            "state `missing: median` to impute them by train's median with an indicator, or fill "
            "them"
        )
