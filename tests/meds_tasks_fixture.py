"""MEDS datasets of a few hand-written events, for the tests of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

START = datetime(2020, 1, 1)


def day(number: float) -> datetime:
    """Return the instant that lies so many days after the start of 2020."""
    return START + timedelta(days=number)


def write_meds(folder: Path, *shards: Sequence[tuple[Any, ...]], **more: type[pl.DataType]) -> Path:
    """Write shards of rows (subject_id, time, code, and the columns `more`), and return the
    dataset's folder.
    """
    schema = {"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String, **more}
    for number, rows in enumerate(shards):
        path = folder / "data" / f"{number}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(list(rows), schema=schema, orient="row").write_parquet(path)
    return folder


def index_table(*rows: tuple[int, datetime], **columns: Sequence[Any]) -> pl.DataFrame:
    """Return an index table of (subject, prediction time) rows with further columns."""
    table = pl.DataFrame(
        list(rows),
        schema={"subject_id": pl.Int64, "prediction_time": pl.Datetime("us")},
        orient="row",
    )
    return table.with_columns(**{name: pl.Series(list(values)) for name, values in columns.items()})
