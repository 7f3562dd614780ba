"""Tables beside the records: index tables, observation periods, splits."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from concordant.core.errors import CohortError, ConcordantError, RecordError, did_you_mean
from concordant.data.cohort import SPLITS, is_local_time
from concordant.data.frames import read_parquet, require_columns
from concordant.data.tasks.definition import ENTRY, NO_ENTRY_TIMES

_INDEX = ("subject_id", "prediction_time")
_MADE_HERE = ("time_days", "event")


def read_index(source: Path | pl.DataFrame) -> pl.DataFrame:
    """Read an index table: a row per sample.

    Args:
        source: Parquet, or a table, with `subject_id`, `prediction_time` and any further columns,
            which are kept.

    Returns:
        `sample_id` (as given, else made of subject and time), `subject_id`, `prediction_time`
        (datetime[us]) and the further columns.

    Raises:
        CohortError: The file cannot be read, a column is missing or ill-typed or belongs to the
            task, or two rows are the same sample.
    """
    table, name = _opened(source)
    _check_columns(table, name)
    table = _with_int64(table, name, CohortError)
    _check_time(table, "prediction_time", name, CohortError)
    table = table.with_columns(pl.col("prediction_time").cast(pl.Datetime("us")))
    for column in _INDEX:
        if table[column].null_count():
            first = table[column].is_null().arg_true()[0] + 1
            raise CohortError(
                f"{name}: {column} is null in {table[column].null_count()} row(s), the first is "
                f"row {first}"
            )
    if "sample_id" not in table.columns:
        table = with_sample_ids(table)
    table = table.with_columns(pl.col("sample_id").cast(pl.String))
    twice = (table["sample_id"].is_duplicated() | table["sample_id"].is_null()).arg_true()
    if len(twice):
        raise CohortError(
            f"{name}: {len(twice)} row(s) do not have a sample_id of their own, the first is row "
            f"{twice[0] + 1}; two rows of one subject at one time, such as two scans, need a "
            "column sample_id that tells them apart"
        )
    return table


def _opened(source: Path | pl.DataFrame) -> tuple[pl.DataFrame, str]:
    if isinstance(source, pl.DataFrame):
        return source, "the index table"
    if not source.is_file():
        raise CohortError(
            f"{source}: no such index table; give a parquet file with subject_id and "
            "prediction_time by --index"
        )
    return read_parquet(source, CohortError, "; write the index table as parquet"), str(source)


def _check_columns(table: pl.DataFrame, name: str) -> None:
    require_columns(table.columns, _INDEX, name, CohortError)
    for column in ENTRY:
        if column in table.columns:
            raise CohortError(f"{name}: column {column}: {NO_ENTRY_TIMES}")
    for column in _MADE_HERE:
        if column in table.columns:
            raise CohortError(
                f"{name}: column {column} is what the task works out; leave it out of the index "
                "table, or rename it"
            )
    if table.is_empty():
        raise CohortError(f"{name}: the index table has no row")


def with_sample_ids(table: pl.DataFrame) -> pl.DataFrame:
    """Add `sample_id`: subject and time alone, so that it is the same in every cohort of them."""
    time = pl.col("prediction_time").dt.to_string("%Y%m%dT%H%M%S%.6f").str.strip_suffix(".000000")
    return table.with_columns(
        sample_id=pl.concat_str(pl.col("subject_id").cast(pl.String), time, separator="_")
    )


def read_periods(path: Path) -> pl.DataFrame:
    """Read observation periods: `subject_id`, `start` and `end` in microseconds.

    Raises:
        RecordError: The file cannot be read, or a column is missing or no time.
    """
    table = _by_subject(path, ("start", "end"))
    for name in ("start", "end"):
        _check_time(table, name, path, RecordError)
    times = [pl.col(name).cast(pl.Datetime("us")).dt.epoch("us") for name in ("start", "end")]
    return table.select("subject_id", *times).drop_nulls()


def read_splits(meds: Path) -> pl.DataFrame | None:
    """Read `metadata/subject_splits.parquet` as `split_table` does, None where it is absent."""
    path = meds / "metadata" / "subject_splits.parquet"
    return split_table(path) if path.is_file() else None


def split_table(path: Path) -> pl.DataFrame:
    """Read `subject_id` and `split` from a parquet file.

    A subject may stand in several rows, and rows without a split count for nothing.

    Raises:
        RecordError: The file cannot be read, lacks a column, or gives an unknown split, or one
            subject two.
    """
    table = _by_subject(path, ("split",)).with_columns(pl.col("split").cast(pl.String))
    table = table.drop_nulls().unique()
    unknown = table.filter(~pl.col("split").is_in(SPLITS))["split"].unique().sort()
    if len(unknown):
        raise RecordError(
            f"{path}: split is {unknown[0]!r}; MEDS has "
            f"{', '.join(SPLITS)}.{did_you_mean(unknown[0], SPLITS)}"
        )
    twice = int(table["subject_id"].is_duplicated().sum())
    if twice:
        raise RecordError(f"{path}: {twice} rows give a subject more than one split")
    return table


def _by_subject(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    """Read `subject_id` (as i64) and further columns from a parquet file."""
    table = read_parquet(path, RecordError)
    require_columns(table.columns, ("subject_id", *columns), path, RecordError)
    return _with_int64(table, path, RecordError).select("subject_id", *columns)


def _with_int64(table: pl.DataFrame, name: object, error: type[ConcordantError]) -> pl.DataFrame:
    """Make `subject_id` what it is in MEDS."""
    kind = table["subject_id"].dtype
    if not kind.is_integer():
        raise error(
            f"{name}: column subject_id is {kind}; expected an integer (int64), as in the MEDS "
            "dataset"
        )
    try:
        return table.with_columns(pl.col("subject_id").cast(pl.Int64))
    except pl.exceptions.InvalidOperationError:
        raise error(
            f"{name}: column subject_id holds a number that int64, the type of MEDS, cannot hold"
        ) from None


def _check_time(
    table: pl.DataFrame, column: str, name: object, error: type[ConcordantError]
) -> None:
    if not is_local_time(table[column].dtype):
        raise error(
            f"{name}: column {column} is {table[column].dtype}; expected a date or a timestamp "
            "without time zone, as MEDS times are"
        )
