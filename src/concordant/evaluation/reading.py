"""Reads predictions files with the columns that name their clusters and weigh their rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from concordant.core.errors import PredictionsError, did_you_mean
from concordant.core.survival import Predictions, read_predictions
from concordant.evaluation.competing import refuse_absent_cause
from concordant.metrics.base import WEIGHT

CLUSTER = "cluster"
"""Column that names the clusters of a file without `subject_id`."""


def read_judged(
    path: Path, *, cluster: str | None = None, weights: str | None = None, cause: int | None = None
) -> Predictions:
    """Read a predictions file.

    Args:
        path: As in `read_predictions`.
        cluster: Column whose values of one kind are one independent unit (a patient, a family, a
            hospital); None = `subject_id`, or `cluster` in a file without it, or every row its own.
            It becomes the table's `subject_id`.
        weights: Column of weights, finite and >= 0; it becomes the table's `weight`. None = every
            row counts once.
        cause: Code of the event that the predictions are to be judged by, which has to occur; None
            = nothing is asked for.

    Raises:
        ConfigError: A cause below 1.
        PredictionsError: As `read_predictions`, a column that is not there, a null among its
            values, weights that are not finite and >= 0 or all 0, or a cause that no row has.
    """
    predictions = read_predictions(path)
    refuse_absent_cause(predictions, cause, path)
    columns = pl.read_parquet_schema(path)
    if cluster is None and "subject_id" not in columns and CLUSTER in columns:
        cluster = CLUSTER
    added = []
    if cluster is not None:
        labels = _column(path, cluster, columns)
        added.append(labels.rank("dense").cast(pl.Int64).alias("subject_id"))
    if weights is not None:
        added.append(_weights(path, _column(path, weights, columns)))
    return Predictions(predictions.table.with_columns(added), predictions.survival_times_days)


def column_names(path: Path) -> frozenset[str]:
    """Return the columns of a parquet file.

    None where it cannot be read, which `read_judged` says in words.
    """
    try:
        return frozenset(pl.read_parquet_schema(path))
    except (pl.exceptions.PolarsError, OSError):
        return frozenset()


def _column(path: Path, name: str, columns: Mapping[str, pl.DataType]) -> pl.Series:
    if name not in columns:
        raise PredictionsError(f"{path}: no column {name!r}.{did_you_mean(name, list(columns))}")
    values = pl.read_parquet(path, columns=[name], hive_partitioning=False)[name]
    if values.null_count():
        raise PredictionsError(
            f"{path}: {name} is null in {values.null_count()} row(s); expected a value for every "
            "row"
        )
    return values


def _weights(path: Path, values: pl.Series) -> pl.Series:
    if not values.dtype.is_numeric():
        raise PredictionsError(
            f"{path}: {values.name} holds {values.dtype} values; expected weights, numbers >= 0"
        )
    numbers = values.cast(pl.Float64)
    if not (numbers.is_finite() & (numbers >= 0)).all() or not (numbers > 0).any():
        raise PredictionsError(
            f"{path}: {values.name} holds a weight that is negative or not finite, or nothing but "
            "0; expected >= 0"
        )
    return numbers.alias(WEIGHT)
