"""Samples: the rows of an index table, or the events at which a task starts."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from concordant.core.errors import CohortError
from concordant.data.tasks.definition import ENTRY, NO_ENTRY_TIMES, Index
from concordant.data.tasks.records import ShardRecords
from concordant.data.tasks.times import microseconds

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
    try:
        table = table.with_columns(
            pl.col("subject_id").cast(pl.Int64), pl.col("prediction_time").cast(pl.Datetime("us"))
        )
    except pl.exceptions.InvalidOperationError:
        raise CohortError(
            f"{name}: column subject_id holds a number that int64, the type of MEDS, cannot hold"
        ) from None
    for column in ("subject_id", "prediction_time"):
        if table[column].null_count():
            first = table[column].is_null().arg_true()[0] + 1
            raise CohortError(
                f"{name}: {column} is null in {table[column].null_count()} row(s), the first is "
                f"row {first}"
            )
    table = (
        table.with_columns(pl.col("sample_id").cast(pl.String))
        if "sample_id" in table.columns
        else with_sample_ids(table)
    )
    _check_unique(table, name)
    return table


def _opened(source: Path | pl.DataFrame) -> tuple[pl.DataFrame, str]:
    if isinstance(source, pl.DataFrame):
        return source, "the index table"
    if not source.is_file():
        raise CohortError(
            f"{source}: no such index table; give a parquet file with subject_id and "
            "prediction_time by --index"
        )
    try:
        return pl.read_parquet(source, hive_partitioning=False), str(source)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise CohortError(
            f"{source}: not readable as parquet ({str(error).partition(chr(10))[0]}); write the "
            "index table as parquet"
        ) from None


def _check_columns(table: pl.DataFrame, name: str) -> None:
    absent = [column for column in ("subject_id", "prediction_time") if column not in table.columns]
    if absent:
        raise CohortError(
            f"{name}: missing column(s) {', '.join(absent)}; found {', '.join(table.columns)}"
        )
    entry = [column for column in ENTRY if column in table.columns]
    if entry:
        raise CohortError(f"{name}: column {entry[0]}: {NO_ENTRY_TIMES}")
    made = [column for column in _MADE_HERE if column in table.columns]
    if made:
        raise CohortError(
            f"{name}: column {made[0]} is what the task works out; leave it out of the index "
            "table, or rename it"
        )
    if table.is_empty():
        raise CohortError(f"{name}: the index table has no row")
    subject, time = table["subject_id"].dtype, table["prediction_time"].dtype
    if not subject.is_integer():
        raise CohortError(
            f"{name}: column subject_id is {subject}; expected an integer (int64), as in the MEDS "
            "dataset"
        )
    if time != pl.Date and not (isinstance(time, pl.Datetime) and time.time_zone is None):
        raise CohortError(
            f"{name}: column prediction_time is {time}; expected a date or a timestamp without "
            "time zone, as MEDS times are"
        )


def _check_unique(table: pl.DataFrame, name: str) -> None:
    twice = (table["sample_id"].is_duplicated() | table["sample_id"].is_null()).arg_true()
    if len(twice):
        raise CohortError(
            f"{name}: {len(twice)} row(s) do not have a sample_id of their own, the first is row "
            f"{twice[0] + 1}; two rows of one subject at one time, such as two scans, need a "
            "column sample_id that tells them apart"
        )


def with_sample_ids(table: pl.DataFrame) -> pl.DataFrame:
    """Add `sample_id`, which depends on subject and time alone, so that it is the same in every
    cohort made of them.
    """
    time = pl.col("prediction_time").dt.to_string("%Y%m%dT%H%M%S%.6f").str.strip_suffix(".000000")
    return table.with_columns(
        sample_id=pl.concat_str(pl.col("subject_id").cast(pl.String), time, separator="_")
    )


def index_events(index: Index, records: ShardRecords) -> pl.DataFrame:
    """Return a shard's samples whose index is an event.

    `sample_id`, `subject_id`, `prediction_time`; one per subject and instant.
    """
    events = (
        records.of_sets(index.codes or (), index.within)
        .drop_nulls("time")
        .select("subject_id", "time")
        .unique()
    )
    events = events.with_columns(pl.col("time") + microseconds(index.offset_days)).sort(
        "subject_id", "time"
    )
    if index.occurrence != "all":
        events = events.unique("subject_id", keep=index.occurrence, maintain_order=True)
    return with_sample_ids(
        events.select(
            "subject_id",
            prediction_time=pl.from_epoch("time", time_unit="us").cast(pl.Datetime("us")),
        )
    )
