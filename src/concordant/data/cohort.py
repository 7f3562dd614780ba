"""The cohort table: who is predicted from when, what happened, and where the scan lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int

from concordant.core.errors import CohortError, did_you_mean
from concordant.core.survival import Outcomes
from concordant.data.frames import read_parquet

SPLITS = ("train", "tuning", "held_out")


@dataclass(frozen=True, slots=True)
class Cohort:
    """A validated cohort table.

    Attributes:
        label: How tables and artifacts name the cohort.
        path: Where the table was read from; `ct_path` is relative to its folder.
        table: `sample_id` str (unique), `subject_id` int64, `prediction_time` datetime[us],
            `time_days` f64 > 0, `event` i8 (0 censored, 1 the event of interest, 2.. competing),
            `split` str or null, `site` str or null, `ct_path` str or null (only where the file has
            that column), and any further columns.
        meds: The MEDS dataset with the subjects' records, or None.
        meds_columns: What its files call a column, by its name in MEDS; empty = as MEDS does.
    """

    label: str
    path: Path
    table: pl.DataFrame
    meds: Path | None = None
    meds_columns: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.table.height

    @property
    def target(self) -> Outcomes:
        """Time and event of every sample, in table order."""
        return Outcomes(
            self.table["time_days"].to_numpy(), self.table["event"].cast(pl.Int64).to_numpy()
        )

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """Every sample's identifier, in table order."""
        return tuple(self.table["sample_id"].to_list())

    def rows(self, split: str) -> Int[np.ndarray, " row"]:
        """Return the positions in the table of a split's samples.

        Raises:
            CohortError: A split that is not train, tuning or held_out.
        """
        if split not in SPLITS:
            raise CohortError(f"no split is called {split!r}.{did_you_mean(split, SPLITS)}")
        return np.flatnonzero((self.table["split"] == split).fill_null(False).to_numpy())

    def ct_path(self, row: int) -> Path | None:
        """Return where the scan of the sample at a position lies, None where it has none.

        Raises:
            CohortError: The table has no column `ct_path`.
        """
        if "ct_path" not in self.table.columns:
            raise CohortError(
                f"{self.path}: no column ct_path; an encoder of scans needs it (null where a "
                "sample has no scan)"
            )
        given = self.table["ct_path"][int(row)]  # polars refuses numpy integers
        return None if given is None else self.path.parent / given


def read_cohort(
    path: Path,
    *,
    label: str | None = None,
    meds: Path | None = None,
    meds_columns: Mapping[str, str] | None = None,
    splits_required: bool,
    outcome_required: bool = True,
) -> Cohort:
    """Read a cohort table and check every invariant that the rest of the house relies on.

    Args:
        path: Parquet with `sample_id`, `subject_id`, `prediction_time` (a date or a timestamp
            without time zone), `time_days`, `event` (1 = observed) and, where there are any,
            `split`, `site`, `ct_path` and further columns.
        label: Name of the cohort; None = the table's stem.
        meds: The MEDS dataset with the subjects' records.
        meds_columns: What its files call a column, by its name in MEDS: `{"numeric_value":
            "value"}`.
        splits_required: True where train, tuning and held_out come from the table: each must hold a
            sample and an event. False for an external cohort and under cross-validation.
        outcome_required: Whether at least one sample must have event 1, without which nothing can
            be learned or measured.

    Raises:
        CohortError: The file cannot be read, or an invariant does not hold.
    """
    table = _typed(_read(path), path)
    _check_identity(table, path)
    _check_outcome(table, path)
    if outcome_required and not (table["event"] == 1).any():
        raise CohortError(
            f"{path}: no sample has event 1 (the event of interest, observed); nothing can be "
            "learned or measured"
        )
    _check_splits(table, path)
    if splits_required:
        _check_every_split(table, path)
    label = path.stem if label is None else label
    return Cohort(label, path, table, meds, dict(meds_columns or {}))


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise CohortError(f"{path}: no such cohort table; expected a parquet file")
    table = read_parquet(path, CohortError, "; write the table as parquet")
    if table.is_empty():
        raise CohortError(f"{path}: the cohort table has no row")
    return table


@dataclass(frozen=True, slots=True)
class _Column:
    """What a known column may be given as, and the type it is kept in."""

    name: str
    kept_as: pl.DataType
    accepts: Callable[[pl.DataType], bool]
    expected: str
    required: bool = True


def _is_text(kind: pl.DataType) -> bool:
    return kind in (pl.String, pl.Categorical, pl.Enum)


def _is_integer(kind: pl.DataType) -> bool:
    return kind.is_integer()


def is_local_time(kind: pl.DataType) -> bool:
    """Tell whether a column may hold times as MEDS has them: dates, or times without a zone."""
    return kind == pl.Date or (isinstance(kind, pl.Datetime) and kind.time_zone is None)


_COLUMNS = (
    _Column("sample_id", pl.String(), _is_text, "text"),
    _Column("subject_id", pl.Int64(), _is_integer, "an integer (int64)"),
    _Column(
        "prediction_time",
        pl.Datetime("us"),
        is_local_time,
        "a date or a timestamp without time zone, as MEDS times are",
    ),
    _Column("time_days", pl.Float64(), lambda kind: kind.is_numeric(), "days as a number"),
    _Column("event", pl.Int8(), _is_integer, "an integer (0 censored, 1 observed, 2.. competing)"),
    _Column("split", pl.String(), _is_text, "text (train, tuning or held_out)", required=False),
    _Column("site", pl.String(), _is_text, "text", required=False),
    _Column("ct_path", pl.String(), _is_text, "text", required=False),
)


def _typed(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Check that the known columns are there and cast them; absent `split`, `site` are null."""
    required = [column.name for column in _COLUMNS if column.required]
    absent = [name for name in required if name not in table.columns]
    if absent:
        raise CohortError(
            f"{path}: missing column(s) {', '.join(absent)}; a cohort table needs "
            f"{', '.join(required)}"
        )
    blank = {name: None for name in ("split", "site") if name not in table.columns}
    table = table.with_columns(**blank)
    for column in _COLUMNS:
        if column.name in table.columns:
            table = table.with_columns(_cast(table[column.name], column, path))
    return table


def _cast(values: pl.Series, column: _Column, path: Path) -> pl.Series:
    if not column.accepts(values.dtype) and not (values.dtype == pl.Null and not column.required):
        raise CohortError(
            f"{path}: column {column.name} is {values.dtype}; expected {column.expected}"
        )
    try:
        return values.cast(column.kept_as)
    except pl.exceptions.PolarsError:
        raise CohortError(
            f"{path}: column {column.name} holds a value that does not fit {column.kept_as}"
        ) from None


def _first_row(wrong: pl.Series) -> str:
    """Say how many rows are wrong and which is the first, from 1, without naming a patient."""
    rows = wrong.fill_null(True).arg_true()
    return f"{len(rows)} row(s), the first is row {rows[0] + 1}"


def _check_identity(table: pl.DataFrame, path: Path) -> None:
    for name in ("sample_id", "subject_id", "prediction_time"):
        if table[name].null_count():
            raise CohortError(
                f"{path}: {name} is null in {_first_row(table[name].is_null())}; every sample "
                "needs one"
            )
    twice = table["sample_id"].is_duplicated()
    if twice.any():
        raise CohortError(
            f"{path}: sample_id is not unique: {_first_row(twice)}; expected one row per sample"
        )


def _check_outcome(table: pl.DataFrame, path: Path) -> None:
    time, event = table["time_days"], table["event"]
    wrong = (time <= 0) | ~time.is_finite()
    if wrong.fill_null(True).any():
        raise CohortError(
            f"{path}: time_days is null, not finite or <= 0 in {_first_row(wrong)}; expected days "
            "> 0 from the prediction time"
        )
    wrong = event < 0
    if wrong.fill_null(True).any():
        raise CohortError(
            f"{path}: event is null or negative in {_first_row(wrong)}; expected 0 censored, 1 "
            "observed, 2.. competing"
        )


def _check_splits(table: pl.DataFrame, path: Path) -> None:
    unknown = table["split"].is_not_null() & ~table["split"].is_in(SPLITS)
    if unknown.any():
        given = table["split"].filter(unknown)[0]
        raise CohortError(
            f"{path}: split is {given!r} in {_first_row(unknown)}.{did_you_mean(given, SPLITS)}"
        )
    shared = subjects_in_several_splits(table)
    if shared:
        raise CohortError(
            f"{path}: {shared} subject_id(s) lie in more than one split; give all samples of a "
            "subject the same one"
        )


def subjects_in_several_splits(table: pl.DataFrame) -> int:
    """Count the subjects whose samples lie in more than one split; none (null) is one too."""
    splits = table.group_by("subject_id").agg(pl.col("split").n_unique())
    return int((splits["split"] > 1).sum())


def _check_every_split(table: pl.DataFrame, path: Path) -> None:
    if table["split"].null_count():
        raise CohortError(
            f"{path}: split is null in {_first_row(table['split'].is_null())}; "
            "give train, tuning or held_out, or state cross_validation in the study"
        )
    for split in SPLITS:
        part = table.filter(pl.col("split") == split)
        if part.is_empty():
            raise CohortError(
                f"{path}: no sample has split {split}; expected all of {', '.join(SPLITS)}, or "
                "cross_validation in the study"
            )
        if not (part["event"] == 1).any():
            raise CohortError(
                f"{path}: no sample of split {split} has event 1 (observed); every split needs one"
            )
