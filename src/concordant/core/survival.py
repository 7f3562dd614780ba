"""Time-to-event targets and the predictions table: the second waist of the house. Numpy and polars only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from concordant.core.errors import PredictionsError
from concordant.core.files import atomic_path

SURVIVAL_TIMES_KEY = "survival_times_days"


@dataclass(frozen=True, slots=True)
class SurvivalTarget:
    """When, and whether, the event was seen.

    Attributes:
        time: Days from the prediction time, float64, > 0.
        event: 0 censored, 1 the event of interest, 2 and above competing; cause-specific tools treat "not 1" as censored.
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
"""Columns of a predictions table; the last four and `site` may be null or absent in a foreign file."""

REQUIRED = ("sample_id", "time_days", "event", "risk")


@dataclass(frozen=True, slots=True)
class Predictions:
    """A predictions table and the times its survival curves are read at.

    Attributes:
        table: The columns of `COLUMNS`. Higher `risk` = earlier event.
        survival_times_days: Ascending times of the `survival` lists, or None where there are no curves.
    """

    table: pl.DataFrame
    survival_times_days: Float[np.ndarray, " time"] | None = None

    @property
    def target(self) -> SurvivalTarget:
        """Time and event of every row."""
        return SurvivalTarget(self.table["time_days"].to_numpy(), self.table["event"].cast(pl.Int64).to_numpy())

    @property
    def risk(self) -> Float[np.ndarray, " subject"]:
        """Risk of every row, higher = earlier."""
        return self.table["risk"].to_numpy()

    @property
    def survival(self) -> Float[np.ndarray, "subject time"] | None:
        """Survival probabilities, or None."""
        if self.survival_times_days is None or self.table["survival"].null_count() > 0:
            return None
        return np.array(self.table["survival"].to_list(), dtype=np.float64).reshape(self.table.height, len(self.survival_times_days))

    def filter(self, predicate: pl.Expr) -> Predictions:
        """Return the rows that fulfil a polars predicate."""
        return Predictions(self.table.filter(predicate), self.survival_times_days)

    def write(self, path: Path) -> None:
        """Write the table as parquet, atomically; the times go into the file's metadata."""
        metadata = {}
        if self.survival_times_days is not None:
            metadata[SURVIVAL_TIMES_KEY] = json.dumps([float(time) for time in self.survival_times_days])
        with atomic_path(path) as temporary:
            self.table.write_parquet(temporary, metadata=metadata)


def read_predictions(path: Path) -> Predictions:
    """Read a predictions table, ours or another group's.

    Args:
        path: Parquet with at least `sample_id`, `time_days` (> 0), `event` and `risk` (finite, higher = earlier).
            `subject_id` defaults to one subject per sample.

    Raises:
        PredictionsError: A missing file or column, a duplicate sample (within a repeat), a time <= 0, a risk that is not finite,
            or survival lists whose length differs from the times in the file's metadata.
    """
    if not path.is_file():
        raise PredictionsError(f"{path}: no such predictions file")
    table = pl.read_parquet(path)
    absent = [name for name in REQUIRED if name not in table.columns]
    if absent:
        raise PredictionsError(f"{path}: missing column(s) {', '.join(absent)}; a predictions table needs {', '.join(REQUIRED)}")
    table = _complete(table)
    times_text = pl.read_parquet_metadata(path).get(SURVIVAL_TIMES_KEY)
    predictions = Predictions(table, None if times_text is None else np.array(json.loads(times_text), dtype=np.float64))
    _check(predictions, path)
    return predictions


def _complete(table: pl.DataFrame) -> pl.DataFrame:
    """Add the columns a foreign file may leave out and cast all to their types."""
    if "subject_id" not in table.columns:
        table = table.with_columns(pl.col("sample_id").rank("dense").cast(pl.Int64).alias("subject_id"))
    absent = [pl.lit(None, dtype=kind).alias(name) for name, kind in COLUMNS.items() if name not in table.columns]
    return table.with_columns(absent).select([pl.col(name).cast(kind) for name, kind in COLUMNS.items()])


def _check(predictions: Predictions, path: Path) -> None:
    table = predictions.table
    if table.select("sample_id", "repeat").is_duplicated().any():
        raise PredictionsError(f"{path}: a sample_id occurs twice; expected one row per sample (and repeat)")
    if table["time_days"].is_null().any() or not bool((table["time_days"] > 0).all()):
        raise PredictionsError(f"{path}: time_days holds a null or a value <= 0; expected days > 0 from the prediction time")
    if table["event"].is_null().any() or not bool((table["event"] >= 0).all()):
        raise PredictionsError(f"{path}: event holds a null or a negative code; expected 0 censored, 1 event, 2.. competing")
    if table["risk"].is_null().any() or not bool(table["risk"].is_finite().all()):
        raise PredictionsError(f"{path}: risk holds a null, NaN or infinity; expected one finite number per row, higher = earlier event")
    times = predictions.survival_times_days
    if times is not None:
        lengths = table["survival"].drop_nulls().list.len()
        if bool((lengths != len(times)).any()):
            raise PredictionsError(f"{path}: survival lists differ in length from the {len(times)} {SURVIVAL_TIMES_KEY} in the metadata")
