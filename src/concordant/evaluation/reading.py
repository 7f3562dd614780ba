"""Reads predictions files with the columns that name their clusters and weigh their rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from concordant.core.errors import PredictionsError, did_you_mean
from concordant.core.survival import AS_IS, WEIGHT, Predictions, read_predictions, split_predictions
from concordant.evaluation.averages import average_seeds

CLUSTER = "cluster"
"""Column that names the clusters of a file without `subject_id`."""


def read_judged(
    path: Path,
    *,
    cluster: str | None = None,
    weights: str | None = None,
    cause: int | None = None,
    variant: str = AS_IS,
    seed: int | None = None,
) -> Predictions:
    """Read one model's predictions from a file.

    Args:
        path: As in `read_predictions`.
        cluster: Column whose values of one kind are one independent unit (a patient, a family, a
            hospital); None = `subject_id`, or `cluster` in a file without it, or every row its own.
            It becomes the table's `subject_id`.
        weights: Column of weights, finite and >= 0; it becomes the table's `weight`. None = every
            row counts once.
        cause: Code of the event that the predictions are to be judged by, which has to occur; None
            = nothing is asked for.
        variant: Which of the file's variants, where it holds several.
        seed: Which of the file's seeds; None = their average, where it holds several.

    Raises:
        PredictionsError: As `read_predictions`, a column that is not there, a null among its
            values, weights that are not finite and >= 0 or all 0, a cause that no row has, or a
            variant or seed that is not there.
    """
    predictions = read_predictions(path)
    _refuse_absent_cause(predictions, cause, path)
    columns = pl.read_parquet_schema(path)
    if cluster is None and "subject_id" not in columns and CLUSTER in columns:
        cluster = CLUSTER
    added = []
    if cluster is not None:
        labels = _column(path, cluster, columns)
        added.append(labels.rank("dense").cast(pl.Int64).alias("subject_id"))
    if weights is not None:
        added.append(_weights(path, _column(path, weights, columns)))
    whole = Predictions(predictions.table.with_columns(added), predictions.survival_times_days)
    return whole if whole.table.is_empty() else _one_model(whole, variant, seed, path)


def _one_model(predictions: Predictions, variant: str, seed: int | None, path: Path) -> Predictions:
    parts = split_predictions(predictions)
    chosen = [
        part for (name, own), part in parts.items() if name == variant and seed in (None, own)
    ]
    if not chosen:
        asked = f"variant {variant!r}" + ("" if seed is None else f" and seed {seed}")
        known = ", ".join(sorted(f"{name} (seed {own})" for name, own in parts))
        raise PredictionsError(f"{path}: no row has {asked}; the file holds {known}")
    return average_seeds(chosen)


def _refuse_absent_cause(predictions: Predictions, cause: int | None, path: Path) -> None:
    codes = sorted(code for code in predictions.table["event"].unique() if code > 0)
    if cause is not None and cause not in codes:
        listed = ", ".join(map(str, codes)) or "none: every row is censored"
        raise PredictionsError(
            f"{path}: no row has event {cause}, the cause asked for; codes above 0 in the file: "
            f"{listed}"
        )


def column_names(path: Path) -> frozenset[str]:
    """Return the columns of a parquet file, none where it cannot be read."""
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
