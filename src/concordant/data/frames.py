"""Tables in files: read, and their columns looked for, with one sentence on what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from concordant.core.errors import ConcordantError


def first_line(error: Exception) -> str:
    """Return the first line of a reason; polars adds a query plan."""
    return str(error).partition("\n")[0]


def read_parquet(path: Path, error: type[ConcordantError], advice: str = "") -> pl.DataFrame:
    """Read a parquet file, whose folder is no column.

    Raises:
        ConcordantError: Of the given kind: it cannot be read; the advice follows.
    """
    try:
        return pl.read_parquet(path, hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError) as reason:
        raise error(f"{path}: not readable as parquet ({first_line(reason)}){advice}") from None


def require_columns(
    found: Iterable[str],
    needed: Iterable[str],
    place: object,
    error: type[ConcordantError],
    advice: str = "",
) -> None:
    """Check that columns are there.

    Raises:
        ConcordantError: Of the given kind: one is not; the advice follows.
    """
    found = list(found)
    absent = ", ".join(name for name in needed if name not in found)
    if absent:
        raise error(f"{place}: missing column(s) {absent}; found {', '.join(found)}{advice}")
