"""Predictions of others: read, and joined to the outcomes of the cohorts they cover."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from concordant.config import Foreign
from concordant.core.errors import PredictionsError
from concordant.core.survival import COLUMNS, Predictions, completed, read_predictions
from concordant.study.data import StudyData


def read_foreign(foreign: Sequence[Foreign], data: StudyData) -> dict[str, dict[str, Predictions]]:
    """Join the predictions of others to the outcomes of the cohorts they cover.

    Raises:
        PredictionsError: A file that cannot be read, lacks a column, or covers a cohort only in
            part, by risks or by curves.
    """
    return {one.name: _foreign(one.table, data) for one in foreign}


def _foreign(path: Path, data: StudyData) -> dict[str, Predictions]:
    given = read_predictions(path, outcomes=False)
    found = {
        label: _cover(given, rows, path, label) for label, rows in _predicted_rows(data).items()
    }
    covered = {
        label: predictions for label, predictions in found.items() if predictions is not None
    }
    if not covered:
        raise PredictionsError(
            f"{path}: no sample of this study's cohorts is in it; check the sample_id column"
        )
    return covered


def _predicted_rows(data: StudyData) -> dict[str, pl.DataFrame]:
    """Return per cohort label the rows that strategies predict, with their repeat and fold."""
    table = data.development.table
    if data.assignment is None:
        rows = table.filter(pl.col("split") == "held_out")
    else:
        rows = data.assignment.join(table, on="sample_id", how="inner")
    return {data.internal_label: rows, **{cohort.label: cohort.table for cohort in data.external}}


def _cover(given: Predictions, rows: pl.DataFrame, path: Path, label: str) -> Predictions | None:
    own = [name for name in rows.columns if name in COLUMNS and name not in ("risk", "survival")]
    joined = rows.select(own).join(
        given.table.select("sample_id", "risk", "survival"),
        on="sample_id",
        how="inner",
        maintain_order="left",
    )
    if joined.is_empty():
        return None
    if joined.height < rows.height:
        raise PredictionsError(
            f"{path}: covers {joined.height} of the {rows.height} rows of {label}; give a risk for "
            "all of them or for none"
        )
    with_curve = rows.height - joined["survival"].null_count()
    if 0 < with_curve < rows.height:
        raise PredictionsError(
            f"{path}: gives survival for {with_curve} of the {rows.height} rows of {label}; give a "
            "curve for all of them or for none"
        )
    return Predictions(completed(joined), given.survival_times_days if with_curve else None)
