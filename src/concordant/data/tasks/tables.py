"""Small tables beside the records: a row per subject or period."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from concordant.core.errors import RecordError


def read_table(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    """Read `subject_id` (as i64) and further columns from a parquet file.

    Raises:
        RecordError: The file cannot be read, a column is missing, or `subject_id` is no integer.
    """
    try:
        table = pl.read_parquet(path, hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RecordError(
            f"{path}: not readable as parquet ({str(error).partition(chr(10))[0]})"
        ) from None
    absent = [name for name in ("subject_id", *columns) if name not in table.columns]
    if absent:
        raise RecordError(
            f"{path}: missing column(s) {', '.join(absent)}; found {', '.join(table.columns)}"
        )
    if not table["subject_id"].dtype.is_integer():
        raise RecordError(
            f"{path}: column subject_id is {table['subject_id'].dtype}; expected an integer, as in "
            "the MEDS dataset"
        )
    try:
        return table.select(pl.col("subject_id").cast(pl.Int64), *columns)
    except pl.exceptions.InvalidOperationError:
        raise RecordError(
            f"{path}: column subject_id holds a number that int64, the type of MEDS, cannot hold"
        ) from None
