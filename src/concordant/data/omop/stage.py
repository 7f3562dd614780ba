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
        number, date = "person_id is not an integer", "birth_datetime cannot be read"
        _check(part["no_number"], f"{file.name}: {number}", "MEDS has int64 there")
        _check(
            part["no_date"], f"{file.name}: {date}", "expected YYYY-MM-DD with or without a time"
        )
        parts.append(part.select("subject_id", "birth"))
    people = pl.concat(parts).drop_nulls("subject_id").sort("subject_id")
    twice = people["subject_id"].is_duplicated()
    place = f"{source.root}: person_id is not unique in person"
    _check(twice, place, "expected one row per person")
    if people.is_empty():
        raise RecordError(f"{source.root}: person has no row with a person_id")
    return people.with_columns(shard=(pl.int_range(pl.len()) // subjects_per_shard).cast(pl.Int32))


def birth_time(columns: Columns) -> pl.Expr:
    """Return birth_datetime, else the earliest day that the parts allow: no event lies before."""
    year, month, day = (
        columns.integer(f"{part}_of_birth").cast(pl.Int32, strict=False)
        for part in ("year", "month", "day")
    )
    # text, for pl.datetime refuses a whole column for one 31 June
    text = pl.format("{}-{}-{}", year, month.fill_null(1), day.fill_null(1))
    known = pl.when(year.is_between(1, 9999)).then(text)
    parts = known.str.to_datetime("%Y-%m-%d", strict=False, time_unit="us")
    return pl.coalesce(columns.time("birth_datetime"), parts)


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

_READ = (
    *("concept", "source_concept", "numeric_value", "no_number", "text"),
    *("value_concept", "unit_concept", "unit_text", "visit_id"),
)
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
    _refuse_unreadable(f"{source.root}: {file.name}", kind.when, counts)
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

    def value(name: str) -> str:
        return name if kind.has_value else ""  # no column is called so: it reads as null

    number = columns.number(value("value_as_number"))
    read = {
        "subject_id": columns.integer("person_id"),
        "person_stated": columns.stated("person_id"),
        "concept": columns.concept(kind.concept or ""),
        "source_concept": columns.concept(kind.source or ""),
        "numeric_value": number,
        "no_number": columns.stated(value("value_as_number")) & number.is_null(),
        "text": columns.text(value("value_as_string")),
        "value_concept": columns.concept(value("value_as_concept_id")),
        "unit_concept": columns.concept(value("unit_concept_id")),
        "unit_text": columns.text(value("unit_source_value")),
        "visit_id": columns.integer("visit_occurrence_id"),
    }
    for name, when in (("", kind.when), ("begin_", kind.not_before)):
        if when is not None:
            timed, day = columns.stated(when.moment), columns.time(when.day)
            read |= {
                f"{name}stated": timed | columns.stated(when.day),
                f"{name}timed": timed,
                f"{name}time": pl.when(timed).then(columns.time(when.moment)).otherwise(day),
            }
    return read


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
    return staged.with_columns(reason=reason).select(
        "subject_id",
        _time(kind, options).alias("time"),
        *_READ,
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
    if not any(folder.rglob("*.parquet")):
        return {"rows": 0}
    rows = pl.scan_parquet(folder / "**/*.parquet", hive_partitioning=False, glob=True)
    found = dict(rows.group_by("reason").len().collect().iter_rows())
    counts = {name: found[number] for number, name in enumerate(REASONS, 1) if number in found}
    return {"rows": sum(found.values())} | counts


def _refuse_unreadable(place: str, when: When | None, counts: Mapping[str, int]) -> None:
    wrong = counts.get("person_not_a_number")
    if wrong:
        raise RecordError(
            f"{place}: person_id is not an integer in {wrong} row(s); MEDS has int64 there"
        )
    wrong = counts.get("date_not_readable")
    if wrong and when is not None:
        raise RecordError(
            f"{place}: {wrong} date(s) in {when.moment} or {when.day} cannot be read; expected "
            "YYYY-MM-DD or YYYY-MM-DD HH:MM:SS, as OMOP CDM has them"
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
