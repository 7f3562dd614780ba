"""The people of an export: who there is, when each was born, and the shard each goes to."""

from __future__ import annotations

import polars as pl

from concordant.core.errors import RecordError
from concordant.data.omop.columns import Columns
from concordant.data.omop.source import OmopSource


def read_people(source: OmopSource, *, subjects_per_shard: int) -> pl.DataFrame:
    """Read who there is.

    Returns:
        `subject_id` i64 (unique, sorted), `birth` datetime[us] or null, `shard` i32.

    Raises:
        RecordError: A column is missing, a person is stated twice, or an identifier or a date
            cannot be read.
    """
    parts = []
    for file in source.files("person"):
        with source.opened(file) as frame:
            columns = Columns(frame.collect_schema(), file)
            columns.require("person_id")
            columns.require_one("birth_datetime", "year_of_birth")
            part = frame.select(
                subject_id=columns.integer("person_id"),
                birth=birth_time(columns),
                no_number=columns.stated("person_id") & columns.integer("person_id").is_null(),
                no_date=columns.stated("birth_datetime") & columns.time("birth_datetime").is_null(),
            ).collect()
        _check(
            part["no_number"], f"{file.name}: person_id is not an integer", "MEDS has int64 there"
        )
        _check(
            part["no_date"],
            f"{file.name}: birth_datetime cannot be read",
            "expected YYYY-MM-DD with or without a time",
        )
        parts.append(part.select("subject_id", "birth"))
    people = pl.concat(parts).drop_nulls("subject_id").sort("subject_id")
    _check(
        people["subject_id"].is_duplicated(),
        f"{source.root}: person_id is not unique in person",
        "expected one row per person",
    )
    if people.is_empty():
        raise RecordError(f"{source.root}: person has no row with a person_id")
    return people.with_columns(shard=(pl.int_range(pl.len()) // subjects_per_shard).cast(pl.Int32))


def birth_time(columns: Columns) -> pl.Expr:
    """Return the birth: birth_datetime, else the day, the first of the month or the first of
    January that the parts name.

    The earliest possible day is taken, so that no event seems to lie before the birth.
    """
    year, month, day = (
        columns.integer(f"{part}_of_birth").cast(pl.Int32, strict=False)
        for part in ("year", "month", "day")
    )
    known = pl.when(year.is_between(1, 9999))
    text = pl.format(
        "{}-{}-{}", year, month.fill_null(1), day.fill_null(1)
    )  # text, for pl.datetime refuses a whole column for one 31 June
    return pl.coalesce(
        columns.time("birth_datetime"),
        known.then(text).str.to_datetime("%Y-%m-%d", strict=False, time_unit="us"),
    )


def _check(wrong: pl.Series, what: str, expected: str) -> None:
    wrong = wrong.fill_null(True)
    if wrong.any():
        raise RecordError(
            f"{what} in {wrong.sum()} row(s), the first is row {wrong.arg_true()[0] + 1}; "
            f"{expected}"
        )
