"""The columns of one file of a table as typed expressions, whatever type they were written in."""

from __future__ import annotations

import polars as pl

from concordant.core.errors import RecordError
from concordant.data.frames import require_columns
from concordant.data.omop.source import TableFile

_ZONE = r"(:\d\d(?:\.\d+)?) ?(?:UTC|Z|[+-]\d\d(?::?\d\d)?)$"


class Columns:
    """Typed access to the columns of a file; an optional column that is absent reads as null."""

    def __init__(self, schema: pl.Schema, file: TableFile) -> None:
        """Keep the schema, whose names are in lower case."""
        self._schema = schema
        self._file = file

    def require(self, *names: str) -> None:
        """Check that columns are there.

        Raises:
            RecordError: One is not.
        """
        advice = f". OMOP CDM 5.3 and 5.4 have them in {self._file.table}"
        require_columns(self._schema, names, self._file.name, RecordError, advice)

    def require_one(self, *names: str) -> None:
        """Check that at least one of several columns is there.

        Raises:
            RecordError: None is.
        """
        if not any(name in self._schema for name in names):
            self.require(names[-1])

    def text(self, name: str) -> pl.Expr:
        """Return a column as text without blanks around it; an empty text is null."""
        if name not in self._schema:
            return pl.lit(None, pl.String)
        text = pl.col(name).cast(pl.String).str.strip_chars()
        return pl.when(text != "").then(text)

    def stated(self, name: str) -> pl.Expr:
        """Tell where a column holds anything."""
        return self.text(name).is_not_null()

    def integer(self, name: str) -> pl.Expr:
        """Return identifiers as int64, null where there is none; "8507.0" (pandas) is 8507."""
        if name not in self._schema:
            return pl.lit(None, pl.Int64)
        if self._schema[name] != pl.String:
            return pl.col(name).cast(pl.Int64, strict=False)
        whole = self.text(name).str.strip_suffix(".0")
        return whole.cast(pl.Int64, strict=False)

    def concept(self, name: str) -> pl.Expr:
        """Return a column of concept identifiers, 0 where there is none."""
        return self.integer(name).fill_null(0)

    def number(self, name: str) -> pl.Expr:
        """Return a column as a finite float32, else null."""
        if name not in self._schema:
            return pl.lit(None, pl.Float32)
        value = pl.col(name) if self._schema[name] != pl.String else self.text(name)
        value = value.cast(pl.Float64, strict=False).cast(pl.Float32)
        return pl.when(value.is_finite()).then(value)

    def time(self, name: str) -> pl.Expr:
        """Return a column of dates or timestamps as datetime[us] on the wall clock, null where it
        is empty or cannot be read.

        Text may be `2020-01-31`, `20200131` or `2020-01-31 10:00[:00[.000]]`, with `T` for the
        blank, and a time zone, which is left out.
        """
        kind = self._schema.get(name, pl.Null())
        if kind == pl.Null:
            return pl.lit(None, pl.Datetime("us"))
        if isinstance(kind, pl.Datetime) and kind.time_zone is not None:
            return pl.col(name).dt.replace_time_zone(None).cast(pl.Datetime("us"))
        if kind.is_temporal():
            return pl.col(name).cast(pl.Datetime("us"))
        return parsed_time(self.text(name))


def parsed_time(text: pl.Expr) -> pl.Expr:
    """Read text as `Columns.time` says, each value once, by the format its length gives."""
    blank = text.str.replace("T", " ", literal=True)
    text = pl.when(text.str.slice(10, 1) == "T").then(blank).otherwise(text)
    length = text.str.len_bytes()
    zoned = pl.when(length > 19).then(text).str.replace(_ZONE, "$1")
    formats = (
        (pl.when(length == 19).then(text), "%Y-%m-%d %H:%M:%S"),
        (pl.when(length == 10).then(text), "%Y-%m-%d"),
        (pl.when(length == 16).then(text), "%Y-%m-%d %H:%M"),
        (pl.when(length == 8).then(text), "%Y%m%d"),
        (zoned, "%Y-%m-%d %H:%M:%S%.f"),
    )
    return pl.coalesce(
        chosen.str.to_datetime(form, strict=False, time_unit="us") for chosen, form in formats
    )
