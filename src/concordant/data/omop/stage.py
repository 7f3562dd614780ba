"""First pass: who there is, and a file's rows as events in shards, or a reason for none."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time
from pathlib import Path

import polars as pl

from concordant.core.errors import RecordError
from concordant.data.omop.columns import Columns
from concordant.data.omop.kinds import BIRTH, DateOnly, EventKind, OmopOptions, When
from concordant.data.omop.source import OmopSource, TableFile


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


EARLIEST = date(1900, 1, 1)
"""An event on this day or before is out of range: databases state an unknown date so."""
DROPPED = -1
"""The shard of the rows that give no event."""

_FEW = 10
_END_OF_DAY = pl.duration(hours=23, minutes=59)
REASONS = (
    "person_not_a_number",
    "date_not_readable",
    "no_person",
    "unknown_person",
    "no_date",
    "out_of_range",
    "before_birth",
    "end_before_start",
)


def stage(
    source: OmopSource,
    file: TableFile,
    kind: EventKind,
    *,
    people: pl.DataFrame,
    options: OmopOptions,
    until: date,
    folder: Path,
) -> Mapping[str, int]:
    """Write the events of one kind that a file gives, as `folder/shard=K/*.parquet`.

    Args:
        source: The export.
        file: The file.
        kind: The kind.
        people: `subject_id`, `birth` and `shard` of everyone.
        options: The choices of the conversion.
        until: The last day an event may lie on.
        folder: Where to write; it must not exist.

    Returns:
        "rows", and for each reason the number of rows that give no event.

    Raises:
        RecordError: A column is missing, or a date or an identifier cannot be read.
    """
    with source.opened(file) as frame:
        columns = Columns(frame.collect_schema(), file)
        _require(columns, kind)
        staged = frame.select(**_read(columns, kind)).join(
            people.lazy(), on="subject_id", how="left", maintain_order="none"
        )
        staged = _placed(staged, kind, options, until)
        target = pl.PartitionBy(folder, key="shard", include_key=False)
        staged.sink_parquet(target, mkdir=True, compression="lz4", engine="streaming")
    counts = _counts(folder)
    _refuse_unreadable(source.root, file, kind, counts)
    return counts


def _require(columns: Columns, kind: EventKind) -> None:
    columns.require("person_id")
    for when in (kind.when, kind.not_before):
        if when is not None:
            columns.require_one(when.moment, when.day)
    if kind.concept is not None and kind.table != "death":  # a cause of death is optional
        columns.require(kind.concept)


def _read(columns: Columns, kind: EventKind) -> dict[str, pl.Expr]:
    """Return what is read off a row: identifiers, concepts, values, what is stated of its time."""
    number = columns.number("value_as_number") if kind.has_value else pl.lit(None, pl.Float32)
    read = {
        "subject_id": columns.integer("person_id"),
        "person_stated": columns.stated("person_id"),
        "concept": columns.concept(kind.concept or ""),
        "source_concept": columns.concept(kind.source or ""),
        "numeric_value": number,
        "no_number": (columns.stated("value_as_number") & number.is_null())
        if kind.has_value
        else pl.lit(False),
        "text": columns.text("value_as_string") if kind.has_value else pl.lit(None, pl.String),
        "value_concept": columns.concept("value_as_concept_id")
        if kind.has_value
        else pl.lit(0, pl.Int64),
        "unit_concept": columns.concept("unit_concept_id")
        if kind.has_value
        else pl.lit(0, pl.Int64),
        "unit_text": columns.text("unit_source_value")
        if kind.has_value
        else pl.lit(None, pl.String),
        "visit_id": columns.integer("visit_occurrence_id"),
    }
    for name, when in (("", kind.when), ("begin_", kind.not_before)):
        if when is not None:
            read |= _moment(columns, when, name)
    return read


def _moment(columns: Columns, when: When, prefix: str) -> dict[str, pl.Expr]:
    stated = columns.stated(when.moment)
    return {
        f"{prefix}stated": stated | columns.stated(when.day),
        f"{prefix}timed": stated,
        f"{prefix}time": pl.when(stated)
        .then(columns.time(when.moment))
        .otherwise(columns.time(when.day)),
    }


def _placed(
    staged: pl.LazyFrame, kind: EventKind, options: OmopOptions, until: date
) -> pl.LazyFrame:
    """Add kind, time, reason and shard to what was read off the rows."""
    reasons = _reasons(kind, until)
    reason = pl.coalesce(
        *(
            pl.when(reasons[name]).then(pl.lit(number, pl.UInt8))
            for number, name in enumerate(REASONS, 1)
            if name in reasons
        ),
        pl.lit(0, pl.UInt8),
    )
    staged = staged.with_columns(reason=reason)
    return staged.select(
        "subject_id",
        _time(kind, options).alias("time"),
        "concept",
        "source_concept",
        "numeric_value",
        "no_number",
        "text",
        "value_concept",
        "unit_concept",
        "unit_text",
        "visit_id",
        "reason",
        shard=pl.when(pl.col("reason") == 0).then(pl.col("shard")).otherwise(DROPPED),
    )


def _reasons(kind: EventKind, until: date) -> dict[str, pl.Expr]:
    person = {
        "person_not_a_number": pl.col("person_stated") & pl.col("subject_id").is_null(),
        "no_person": pl.col("subject_id").is_null(),
        "unknown_person": pl.col("shard").is_null(),
    }
    if kind.when is None and kind is not BIRTH:
        return person
    when = pl.col("birth") if kind is BIRTH else pl.col("time")
    day = when.dt.date()
    dated = {"no_date": when.is_null(), "out_of_range": (day <= EARLIEST) | (day > until)}
    if kind is BIRTH:
        return person | dated
    dated |= {
        "date_not_readable": pl.col("stated") & when.is_null(),
        "before_birth": day < pl.col("birth").dt.date(),
    }
    if kind.not_before is not None:
        dated["end_before_start"] = day < pl.col("begin_time").dt.date()
    return person | dated


def _time(kind: EventKind, options: OmopOptions) -> pl.Expr:
    if kind is BIRTH:
        return pl.col("birth")
    if kind.when is None:
        return pl.lit(None, pl.Datetime("us"))
    time = _ruled("", kind.when, options.date_only)
    if kind.not_before is None:
        return time
    return pl.max_horizontal(time, _ruled("begin_", kind.not_before, options.date_only))


def _ruled(prefix: str, when: When, rule: DateOnly) -> pl.Expr:
    """Apply the rule for events of which only the day is known (read as midnight)."""
    stated = pl.col(f"{prefix}time")
    if when.exact or rule == "start_of_day":
        return stated
    only_day = stated.dt.time() == time(0)
    if rule == "keep_midnight":
        only_day &= ~pl.col(f"{prefix}timed")
    return pl.when(only_day).then(stated + _END_OF_DAY).otherwise(stated)


def _counts(folder: Path) -> dict[str, int]:
    rows = (
        pl.scan_parquet(folder / "**/*.parquet", hive_partitioning=False, glob=True)
        if any(folder.rglob("*.parquet"))
        else None
    )
    if rows is None:
        return {"rows": 0}
    found = dict(rows.group_by("reason").len().collect().iter_rows())
    return {"rows": sum(found.values())} | {
        name: found[number] for number, name in enumerate(REASONS, 1) if number in found
    }


def _refuse_unreadable(
    root: Path, file: TableFile, kind: EventKind, counts: Mapping[str, int]
) -> None:
    if "person_not_a_number" in counts:
        raise RecordError(
            f"{root}: {file.name}: person_id is not an integer in {counts['person_not_a_number']} "
            "row(s); MEDS has int64 there"
        )
    if "date_not_readable" in counts and kind.when is not None:
        raise RecordError(
            f"{root}: {file.name}: {counts['date_not_readable']} date(s) in {kind.when.moment} or "
            f"{kind.when.day} cannot be read; expected YYYY-MM-DD or YYYY-MM-DD HH:MM:SS, as OMOP "
            "CDM has them"
        )


def refuse_shifted(root: Path, kind: EventKind, counts: Mapping[str, int], until: date) -> None:
    """Refuse a table of which most lies out of range.

    Its dates were shifted, and dropping it would not be what is wanted.

    Raises:
        RecordError: More than half of 10 rows or more lie out of range.
    """
    if counts["rows"] >= _FEW and counts.get("out_of_range", 0) > counts["rows"] / 2:
        raise RecordError(
            f"{root}: {kind.name}: {counts['out_of_range']} of {counts['rows']} rows lie on "
            f"{EARLIEST} or before, or after {until}; if the dates were shifted, give the last day "
            "there is as until"
        )


def today() -> date:
    """Return the present day."""
    return datetime.now().astimezone().date()
