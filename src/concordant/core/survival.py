"""Time-to-event targets and the predictions table: the second waist of the house.

Numpy and polars only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from concordant.core.errors import PredictionsError
from concordant.core.files import atomic_path

SURVIVAL_TIMES_KEY = "survival_times_days"
_ROUNDING = 1e-6  # a curve that rises by less from its first to its last time is flat


@dataclass(frozen=True, slots=True)
class SurvivalTarget:
    """When, and whether, the event was seen.

    Attributes:
        time: Days from the prediction time, float64, > 0.
        event: 0 censored, 1 the event of interest, 2 and above competing; cause-specific tools
            treat "not 1" as censored.
    """

    time: Float[np.ndarray, " subject"]
    event: Int[np.ndarray, " subject"]

    def __len__(self) -> int:
        """Return the number of subjects."""
        return len(self.time)

    @property
    def observed(self) -> Bool[np.ndarray, " subject"]:
        """True where the event of interest was observed."""
        return np.asarray(self.event == 1)

    def take(self, rows: Int[np.ndarray, " chosen"]) -> SurvivalTarget:
        """Return the target of the chosen rows, in that order."""
        return SurvivalTarget(self.time[rows], self.event[rows])


COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "sample_id": pl.String,
    "subject_id": pl.Int64,
    "site": pl.String,
    "time_days": pl.Float64,
    "event": pl.Int8,
    "risk": pl.Float64,
    "survival": pl.List(pl.Float64),
    "available": pl.String,
    "repeat": pl.Int16,
    "fold": pl.Int16,
}
"""Columns of a predictions table.

The last four and `site` may be null or absent in a foreign file.
"""

_WHOLE = (pl.Int64, pl.Int16, pl.Int8)

REQUIRED = ("sample_id", "time_days", "event", "risk")

_PREDICTED = ("sample_id", "risk", "survival")


@dataclass(frozen=True, slots=True)
class Predictions:
    """A predictions table and the times its survival curves are read at.

    Attributes:
        table: The columns of `COLUMNS`. Higher `risk` = earlier event.
        survival_times_days: Ascending times of the `survival` lists, or None where there are no
            curves.
    """

    table: pl.DataFrame
    survival_times_days: Float[np.ndarray, " time"] | None = None

    @property
    def target(self) -> SurvivalTarget:
        """Time and event of every row."""
        return SurvivalTarget(
            self.table["time_days"].to_numpy(), self.table["event"].cast(pl.Int64).to_numpy()
        )

    @property
    def risk(self) -> Float[np.ndarray, " subject"]:
        """Risk of every row, higher = earlier."""
        return self.table["risk"].to_numpy()

    @property
    def survival(self) -> Float[np.ndarray, "subject time"] | None:
        """Survival probabilities, or None."""
        if self.survival_times_days is None or self.table["survival"].null_count() > 0:
            return None
        return (
            self.table["survival"]
            .explode()
            .to_numpy()
            .reshape(self.table.height, len(self.survival_times_days))
        )

    def filter(self, predicate: pl.Expr) -> Predictions:
        """Return the rows that fulfil a polars predicate."""
        return Predictions(self.table.filter(predicate), self.survival_times_days)

    def write(self, path: Path) -> None:
        """Write the table as parquet, atomically; the times go into the file's metadata."""
        metadata = {}
        if self.survival_times_days is not None:
            metadata[SURVIVAL_TIMES_KEY] = json.dumps(
                [float(time) for time in self.survival_times_days]
            )
        with atomic_path(path) as temporary:
            self.table.write_parquet(temporary, metadata=metadata)


def read_predictions(path: Path, *, outcomes: bool = True) -> Predictions:
    """Read a predictions table, ours or another group's.

    Args:
        path: Parquet with at least `sample_id`, `time_days` (> 0), `event` and `risk` (finite,
            higher = earlier). `subject_id` defaults to one subject per sample.
        outcomes: False where they are known from elsewhere: only `sample_id`, `risk` and `survival`
            are read, the other columns are null (`subject_id` is one per sample).

    Raises:
        PredictionsError: No parquet file, a missing column, a value that is not of its column's
            kind, a duplicate sample (within a repeat), a time that is not finite and > 0, a risk
            that is not finite, survival without times in the file's metadata, that is not in [0,
            1], that rises from the first time to the last, or whose lists differ in length from
            those times.
    """
    table = _read(path, REQUIRED if outcomes else ("sample_id", "risk"))
    if not outcomes:
        table = table.select(name for name in _PREDICTED if name in table.columns)
    if "subject_id" not in table.columns:
        table = table.with_columns(
            pl.col("sample_id").rank("dense").cast(pl.Int64).alias("subject_id")
        )
    absent = [
        pl.lit(None, dtype=kind).alias(name)
        for name, kind in COLUMNS.items()
        if name not in table.columns
    ]
    table = table.with_columns(absent).select(
        [_cast(table[name], path) if name in table.columns else pl.col(name) for name in COLUMNS]
    )
    predictions = Predictions(table, _survival_times(path))
    if outcomes:
        _check_outcomes(table, path)
    _check_rows(table, path)
    _check_survival(predictions, path)
    return predictions


def _read(path: Path, required: Sequence[str]) -> pl.DataFrame:
    if not path.is_file():
        raise PredictionsError(f"{path}: no such predictions file")
    try:
        table = pl.read_parquet(path, hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise PredictionsError(
            f"{path}: not readable as parquet ({first_line}); write the predictions as parquet"
        ) from None
    absent = [name for name in required if name not in table.columns]
    if absent:
        raise PredictionsError(
            f"{path}: missing column(s) {', '.join(absent)}; a predictions table needs "
            f"{', '.join(required)}"
        )
    return table


def _cast(values: pl.Series, path: Path) -> pl.Series:
    """Cast a column to its type.

    Text is never read as a number, nor a fraction as a whole number.
    """
    kind = COLUMNS[values.name]
    wanted = (
        "whole numbers"
        if kind in _WHOLE
        else "numbers"
        if kind == pl.Float64
        else f"values of type {kind}"
    )
    is_number = values.dtype.is_numeric() or values.dtype in (pl.Boolean, pl.Null)
    wrong = f"{path}: {values.name} holds {values.dtype} values that are no {wanted}"
    if (kind == pl.Float64 or kind in _WHOLE) and not is_number:
        raise PredictionsError(f"{wrong}; write the column with the right type")
    if (
        kind in _WHOLE and values.dtype.is_float() and (values % 1 != 0).any()
    ):  # true for NaN and infinity as well
        raise PredictionsError(f"{wrong}; write whole numbers")
    try:
        return values.cast(kind)
    except pl.exceptions.PolarsError:
        raise PredictionsError(
            f"{wrong}, or do not fit {kind}; write the column with the right type"
        ) from None


def _survival_times(path: Path) -> Float[np.ndarray, " time"] | None:
    text = pl.read_parquet_metadata(path).get(SURVIVAL_TIMES_KEY)
    if text is None:
        return None
    try:
        times = np.array(json.loads(text), dtype=np.float64)
    except (ValueError, TypeError):
        times = np.zeros(0)
    if (
        times.ndim != 1
        or not len(times)
        or not np.isfinite(times).all()
        or times[0] < 0
        or (np.diff(times) <= 0).any()
    ):
        raise PredictionsError(
            f"{path}: {SURVIVAL_TIMES_KEY} in the file's metadata is {text[:40]!r}; "
            "expected a JSON list of days in ascending order, such as [30, 180, 365]"
        )
    return times


def _check_rows(table: pl.DataFrame, path: Path) -> None:
    risk = table["risk"]
    _refuse(table["sample_id"].is_null(), f"{path}: sample_id is null", "a name for every sample")
    _refuse(
        table["subject_id"].is_null(),
        f"{path}: subject_id is null",
        "one for every sample, or leave the column out",
    )
    _refuse(
        table.select("sample_id", "repeat").is_duplicated(),
        f"{path}: a sample_id occurs twice",
        "one row per sample (and repeat)",
    )
    _refuse(
        ~risk.is_finite(),
        f"{path}: risk holds a null, NaN or infinity",
        "one finite number per row, higher = earlier event",
    )


def _check_outcomes(table: pl.DataFrame, path: Path) -> None:
    time, event = table["time_days"], table["event"]
    _refuse(
        (time <= 0) | ~time.is_finite(),
        f"{path}: time_days holds a null, NaN, infinity or value <= 0",
        "days > 0 from the prediction time",
    )
    _refuse(
        event < 0,
        f"{path}: event holds a null or a negative code",
        "0 censored, 1 event, 2.. competing",
    )


def _refuse(wrong: pl.Series, what: str, expected: str) -> None:
    """Raise where a row is wrong (null counts as wrong), with the number of such rows and the
    first, counted from 1.
    """
    rows = wrong.fill_null(True).arg_true()
    if len(rows):
        raise PredictionsError(
            f"{what} in {len(rows)} row(s), the first is row {rows[0] + 1}; expected {expected}"
        )


def _check_survival(predictions: Predictions, path: Path) -> None:
    times, curves = predictions.survival_times_days, predictions.table["survival"]
    if times is None:
        given = curves.len() - curves.null_count()
        if given:
            raise PredictionsError(
                f"{path}: survival is given in {given} row(s), but the file's metadata has no "
                f"{SURVIVAL_TIMES_KEY}; expected there a JSON list of days in ascending order, "
                "such as [30, 180, 365]"
            )
        return
    _refuse(
        curves.list.len().fill_null(len(times)) != len(times),
        f"{path}: survival lists differ in length from the {len(times)} {SURVIVAL_TIMES_KEY} in "
        "the metadata",
        "one probability per time",
    )
    inside = curves.list.eval(
        (pl.element() >= 0) & (pl.element() <= 1) & pl.element().is_not_null()
    ).list.all()
    _refuse(
        ~inside & curves.is_not_null(),
        f"{path}: survival holds a null, NaN or value outside [0, 1]",
        "probabilities",
    )
    rises = curves.list.last() > curves.list.first() + _ROUNDING
    _refuse(
        rises & curves.is_not_null(),
        f"{path}: survival rises from its first time to its last",
        "the probability of no event until then: 1 minus the probability of an event",
    )
