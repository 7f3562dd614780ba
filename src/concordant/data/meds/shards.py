"""The shards of a MEDS dataset, opened lazily as one flat form, whatever its version.

MEDS 0.3 and 0.4 have a row per event; 0.3 called the subject `patient_id` at first. Up to 0.2 there
is a row per patient, with a list of times, each with a list of measurements. The form is told by
the columns; `metadata/dataset.json` may name a version that is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from concordant.core.errors import RecordError, did_you_mean
from concordant.core.files import read_json
from concordant.data.frames import first_line

_LOG = logging.getLogger(__name__)

VERSIONS = ("0.1", "0.2", "0.3", "0.4")
"""Versions of MEDS that are read."""

COLUMNS = ("subject_id", "time", "code", "numeric_value", "text_value")
"""Columns of an event, by their names in MEDS; the last two may be absent from a file."""

_REQUIRED = ("subject_id", "time", "code")
_BEFORE_0_3_3 = "patient_id"
_STATIC = "static_measurements"
"""Column of nested files: facts of a patient that have no time."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard, open lazily.

    Attributes:
        path: The file.
        frame: `subject_id` i64, `time` datetime[us] (null = static), `code` str, `numeric_value`
            f64 or null (never NaN), `text_value` str or null, in the file's order.
        present: Which of these columns the file has; the others are all null.
    """

    path: Path
    frame: pl.LazyFrame
    present: frozenset[str]


def scan_shards(meds: Path | str, *, columns: Mapping[str, str] | None = None) -> tuple[Shard, ...]:
    """Open every shard of a dataset lazily; no event is read yet.

    Args:
        meds: A MEDS dataset (`data/**/*.parquet`), a folder of parquet shards, or one parquet file.
        columns: What the file calls a column, by its name in MEDS: `{"numeric_value": "value"}`.

    Raises:
        RecordError: No parquet file, an unknown version, a missing or ill-typed column.
    """
    meds = Path(meds)
    for name in columns or ():
        if name not in COLUMNS:
            raise RecordError(
                f"{meds}: columns gives a name for {name!r}, which MEDS does not "
                f"have.{did_you_mean(name, COLUMNS)}"
            )
    _check_version(meds)
    return tuple(_scan(path, columns or {}) for path in shard_paths(meds))


def shard_paths(meds: Path) -> list[Path]:
    """List a dataset's parquet shards, sorted.

    Raises:
        RecordError: There is none.
    """
    if meds.is_file():
        return [meds]
    root = meds / "data" if (meds / "data").is_dir() else meds
    every = root.rglob("*.parquet")
    shards = sorted(path for path in every if not _is_aside(path.relative_to(root)))
    if not shards:
        raise RecordError(
            f"{meds}: no parquet file found; expected a MEDS dataset (data/**/*.parquet), a folder "
            "of parquet shards or one file"
        )
    return shards


def unreadable(path: Path, error: Exception) -> RecordError:
    """Return the error for a file that cannot be read, with the first line of the reason."""
    return RecordError(f"{path}: not readable as a MEDS shard ({first_line(error)})")


def _is_aside(path: Path) -> bool:
    """Tell metadata and hidden or half-written files from shards."""
    return path.parts[0] == "metadata" or any(part.startswith(".") for part in path.parts)


def _check_version(meds: Path) -> None:
    path = meds / "metadata" / "dataset.json"
    if not path.is_file():
        return
    try:
        described = read_json(path)
    except (ValueError, OSError) as error:
        raise RecordError(
            f"{path}: not readable as JSON ({error}); mend it, or remove it: it is not needed"
        ) from None
    version = described.get("meds_version") if isinstance(described, dict) else None
    if version is not None and ".".join(str(version).split(".")[:2]) not in VERSIONS:
        raise RecordError(
            f"{path}: meds_version is {version!r}; {', '.join(VERSIONS)} are read. Convert the "
            "dataset, or, where its shards keep to one of these forms, state that version"
        )


def _scan(path: Path, columns: Mapping[str, str]) -> Shard:
    try:
        frame = _flat(pl.scan_parquet(path, hive_partitioning=False))
        schema = frame.collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, error) from None
    names = {name: columns.get(name, name) for name in COLUMNS}
    if "subject_id" not in columns and "subject_id" not in schema and _BEFORE_0_3_3 in schema:
        names["subject_id"] = _BEFORE_0_3_3
    _check_names(path, names, [*_REQUIRED, *columns], schema)
    present = {name: given for name, given in names.items() if given in schema}
    _check_types(path, present, schema)
    if "numeric_value" not in present and schema.get("value", pl.Null()).is_numeric():
        _LOG.warning(
            "%s: no column numeric_value, so no event has a number; if `value` holds it, give "
            "columns: {numeric_value: value}",
            path,
        )
    columns_read = (_KINDS[name].read(present.get(name)).alias(name) for name in COLUMNS)
    return Shard(path, frame.select(columns_read), frozenset(present))


def _flat(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Return one row per event: a nested file of MEDS 0.1 or 0.2 is unfolded."""
    schema = frame.collect_schema()
    event = _event_of(schema)
    if event is None:
        return frame
    if isinstance(schema.get(_STATIC), pl.List):
        # by name: what it lacks is null, the time too
        without_time = pl.struct(measurements=pl.col(_STATIC)).cast(event)
        events = pl.concat_list(without_time, pl.col("events").fill_null([]))
        frame = frame.with_columns(events=events)
    frame = frame.drop(_STATIC, strict=False)
    for name in ("events", "measurements"):
        frame = frame.explode(name).filter(pl.col(name).is_not_null()).unnest(name)
    return frame


def is_nested(schema: pl.Schema) -> bool:
    """Tell whether a file has a row per patient, as up to MEDS 0.2, and not a row per event."""
    return _event_of(schema) is not None


def _event_of(schema: pl.Schema) -> pl.Struct | None:
    """Return the type of an event in the lists of a nested file, None for a flat one."""
    events = schema.get("events")
    inner = events.inner if isinstance(events, pl.List) else None
    return inner if isinstance(inner, pl.Struct) else None


def _check_names(
    path: Path, names: Mapping[str, str], wanted: Iterable[str], schema: pl.Schema
) -> None:
    absent = [name for name in dict.fromkeys(wanted) if names[name] not in schema]
    if absent:
        given = {name: names[name] for name in absent}
        listed = ", ".join(
            one if one == name else f"{one} (given for {name})" for name, one in given.items()
        )
        raise RecordError(
            f"{path}: missing column(s) {listed}; found {', '.join(schema)}. A MEDS shard has "
            "subject_id, time, code and optionally numeric_value and text_value; where they are "
            "called otherwise, say so: columns: {MEDS name: name in the file}"
        )


@dataclass(frozen=True, slots=True)
class _Kind:
    """What type a column may be given as, and what it is read as."""

    accepts: Callable[[pl.DataType], bool]
    expected: str
    kept_as: pl.DataType

    def read(self, name: str | None) -> pl.Expr:
        """Return the column in our type; all null where the file has none."""
        column = (pl.lit(None) if name is None else pl.col(name)).cast(self.kept_as)
        return column.fill_nan(None) if self.kept_as.is_float() else column


def _is_text(kind: pl.DataType) -> bool:
    return kind in (pl.String, pl.Categorical, pl.Enum)


def _is_local_time(kind: pl.DataType) -> bool:
    return kind in (pl.Date, pl.Null) or (isinstance(kind, pl.Datetime) and kind.time_zone is None)


def _is_number(kind: pl.DataType) -> bool:
    return kind.is_numeric() or kind == pl.Null


_KINDS = {
    "subject_id": _Kind(lambda kind: kind.is_integer(), "an integer", pl.Int64()),
    "time": _Kind(_is_local_time, "a timestamp without time zone", pl.Datetime("us")),
    "code": _Kind(_is_text, "text", pl.String()),
    "numeric_value": _Kind(_is_number, "a number", pl.Float64()),
    "text_value": _Kind(lambda kind: _is_text(kind) or kind == pl.Null, "text", pl.String()),
}


def _check_types(path: Path, present: Mapping[str, str], schema: pl.Schema) -> None:
    for name, given in present.items():
        if not _KINDS[name].accepts(schema[given]):
            raise RecordError(
                f"{path}: column {given} is {schema[given]}; MEDS has {_KINDS[name].expected} "
                f"there. Write it as such, or give another column for it: columns: {{{name}: ...}}"
            )
