"""Time-to-event targets and the predictions table, the second waist: numpy and polars only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int, Real

from concordant.core.errors import PredictionsError
from concordant.core.files import atomic_path

SURVIVAL_TIMES_KEY = "survival_times_days"
_ROUNDING = 1e-6  # a curve that rises by less from its first to its last time is flat


@dataclass(frozen=True)
class Outcomes:
    """When, and whether, the event was seen, who is one subject, and how much each row counts.

    Attributes:
        time: Days from the prediction time (or any other unit), float64, > 0.
        event: 0 censored, 1 the event of interest, 2 and above competing.
        weights: A weight of 2 equals two copies of the row; 1 each where none are given, int32 so
            that counts stay integers.
        cluster: Number of the cluster per row, or None where every row is its own.
        cause: None = event 1 is the event of interest and every other code is censored; else the
            code of the event of interest, 0 alone being censored and every other code competing.
    """

    time: Float[np.ndarray, " subject"]
    event: Int[np.ndarray, " subject"]
    weights: Real[np.ndarray, " subject"] = None  # type: ignore[assignment] # filled in below
    cluster: Int[np.ndarray, " subject"] | None = None
    cause: int | None = None

    def __post_init__(self) -> None:
        """Let every row count once where nothing else is said."""
        if self.weights is None:
            object.__setattr__(self, "weights", np.ones(len(self.time), np.int32))

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.time)

    @cached_property
    def observed(self) -> Bool[np.ndarray, " subject"]:
        """True where the event of interest was observed."""
        return np.asarray(self.event == event_code(self.cause))

    @cached_property
    def censored(self) -> Bool[np.ndarray, " subject"]:
        """True where the follow-up ended without any event that counts."""
        return np.asarray(~self.observed if self.cause is None else self.event == 0)

    @property
    def competing(self) -> Bool[np.ndarray, " subject"]:
        """True where a competing event was observed: the event of interest never comes."""
        return np.asarray(~(self.observed | self.censored))

    @property
    def n_events(self) -> int:
        """Number of rows with the event of interest."""
        return int(self.observed.sum())

    def take(self, rows: Int[np.ndarray, " chosen"]) -> Outcomes:
        """Return some rows, in that order."""
        cluster = None if self.cluster is None else self.cluster[rows]
        return Outcomes(self.time[rows], self.event[rows], self.weights[rows], cluster, self.cause)


def event_code(cause: int | None) -> int:
    """Return the code of the event of interest: 1 unless a cause is named."""
    return 1 if cause is None else cause


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
    "trial": pl.Int16,
    "seed": pl.Int64,
    "variant": pl.String,
}
"""Columns of a predictions table; `site` and from `available` on may be null or absent."""

WEIGHT = "weight"
"""Column of a predictions table that may weigh its rows: 2 equals two copies of the subject."""

AS_IS, RECALIBRATED = "as_is", "recalibrated"
"""Variants: what a model predicts, and the same after recalibration on tuning."""

_ROW = ("sample_id", "repeat", "trial", "seed", "variant")

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
    def target(self) -> Outcomes:
        """Time and event of every row."""
        return Outcomes(
            self.table["time_days"].to_numpy(), self.table["event"].cast(pl.Int64).to_numpy()
        )

    @property
    def risk(self) -> Float[np.ndarray, " subject"]:
        """Risk of every row, higher = earlier."""
        return self.table["risk"].to_numpy()

    @property
    def survival(self) -> Float[np.ndarray, "subject time"] | None:
        """Survival probabilities, or None."""
        if self.survival_times_days is None or not self.has_curves:
            return None
        return (
            self.table["survival"]
            .explode()
            .to_numpy()
            .reshape(self.table.height, len(self.survival_times_days))
        )

    @property
    def has_curves(self) -> bool:
        """Whether every row has a survival curve."""
        return self.survival_times_days is not None and not self.table["survival"].null_count()

    def filter(self, predicate: pl.Expr) -> Predictions:
        """Return the rows that fulfil a polars predicate."""
        return Predictions(self.table.filter(predicate), self.survival_times_days)

    def of_variant(self, variant: str) -> Predictions:
        """Return the rows of a variant; rows without one are as the model predicts."""
        return self.filter(pl.col("variant").fill_null(AS_IS) == variant)

    def with_curves(self, survival: Float[np.ndarray, "subject time"]) -> Predictions:
        """Return the same rows with other survival curves, at the same times."""
        column = pl.Series("survival", survival.tolist(), dtype=pl.List(pl.Float64))
        return Predictions(self.table.with_columns(column), self.survival_times_days)

    def write(self, path: Path) -> None:
        """Write the table as parquet, atomically; the times go into the file's metadata."""
        metadata = {}
        if self.survival_times_days is not None:
            metadata[SURVIVAL_TIMES_KEY] = json.dumps(
                [float(time) for time in self.survival_times_days]
            )
        with atomic_path(path) as temporary:
            self.table.write_parquet(temporary, metadata=metadata)


def split_predictions(predictions: Predictions) -> dict[tuple[str, int | None], Predictions]:
    """Return the predictions of each variant and seed, in the order in which they stand.

    Rows without a variant are as the model predicts; a seed may be null (models of others).
    """
    keyed = predictions.table.with_columns(pl.col("variant").fill_null(AS_IS))
    parts = keyed.partition_by("variant", "seed", maintain_order=True)
    return {
        (part["variant"][0], part["seed"][0]): Predictions(part, predictions.survival_times_days)
        for part in parts
    }


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Return several predictions of one cohort (seeds, variants, folds) as one table.

    Raises:
        PredictionsError: No part, or survival curves at different times.
    """
    if not parts:
        raise PredictionsError("no predictions to join; expected one table or more")
    times = shared_times(parts)
    if times is None and any(one.survival_times_days is not None for one in parts):
        raise PredictionsError(
            "the predictions to join hold survival curves at different times; expected the same "
            "survival_times_days in all of them"
        )
    return Predictions(pl.concat([one.table for one in parts]), times)


def shared_times(parts: Sequence[Predictions]) -> Float[np.ndarray, " time"] | None:
    """Return the times of the survival curves, None where the tables do not have the same."""
    first = parts[0].survival_times_days
    same = first is not None and all(
        one.survival_times_days is not None and np.array_equal(first, one.survival_times_days)
        for one in parts
    )
    return first if same else None


def read_predictions(path: Path, *, outcomes: bool = True) -> Predictions:
    """Read a predictions table, ours or another group's.

    Args:
        path: Parquet with at least `sample_id`, `time_days` (> 0), `event` and `risk` (finite,
            higher = earlier). `subject_id` defaults to one subject per sample.
        outcomes: False where they are known from elsewhere: only `sample_id`, `risk` and `survival`
            are read, the other columns are null (`subject_id` is one per sample).

    Raises:
        PredictionsError: No parquet file, a missing column, a value that is not of its column's
            kind, a duplicate sample (within a
            repeat, trial, seed and variant), a time that is not finite and > 0, a risk
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
    table = completed(
        table.with_columns(_cast(table[name], path) for name in COLUMNS if name in table.columns)
    )
    predictions = Predictions(table, _survival_times(path))
    if outcomes:
        _check_outcomes(table, path)
    _check_rows(table, path)
    _check_survival(predictions, path)
    return predictions


def completed(table: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of `COLUMNS`, cast, null where the table lacks one, and no other."""
    return table.select(
        (pl.col(name) if name in table.columns else pl.lit(None).alias(name)).cast(kind)
        for name, kind in COLUMNS.items()
    )


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
    """Cast a column to its type; text is no number, a fraction no whole number."""
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
        table.select(_ROW).is_duplicated(),
        f"{path}: a sample_id occurs twice",
        "one row per sample (and repeat, trial, seed and variant)",
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
    """Raise where a row is wrong or null, with the number of rows and the first, from 1."""
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
