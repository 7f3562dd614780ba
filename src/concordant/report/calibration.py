"""Are the predicted probabilities right? Predicted against observed in groups, and the metrics
before and after recalibration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from concordant.analysis.calibration import CALIBRATION_METRICS, GROUP_SCHEMA
from concordant.report.axes import Axis, axis_between_ticks
from concordant.report.decision import main_horizon
from concordant.report.rows import Kind, Model, RunTables
from concordant.report.sections import Cell
from concordant.report.tables import model_of, read_table
from concordant.report.wording import days, inside_sentence, interval, listing, metric_name, number

_COLUMNS = (
    "cohort",
    "ct_encoder",
    "ehr_encoder",
    "fusion",
    "recalibrated",
    "metric",
    "horizon_days",
    "value",
    "ci_low",
    "ci_high",
)
_PER = 100


@dataclass(frozen=True, slots=True)
class GroupMark:
    """One group of patients with similar predictions.

    Attributes:
        x: Percent of the horizontal axis: the mean prediction.
        y: Percent from the top: what was observed.
        low: Percent from the top of the lower limit.
        high: Percent from the top of the upper limit.
        recalibrated: True for the recalibrated prediction, drawn hollow.
        description: The group in words.
    """

    x: float
    y: float
    low: float
    high: float
    recalibrated: bool
    description: str


@dataclass(frozen=True, slots=True)
class CalibrationPanel:
    """One cohort.

    Attributes:
        cohort: Label of the cohort.
        internal: True for (part of) the development cohort.
        horizon: The horizon in words.
        axis: Probability in percent, both ways.
        marks: The groups.
    """

    cohort: str
    internal: bool
    horizon: str
    axis: Axis
    marks: tuple[GroupMark, ...]


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """One model, before or after recalibration.

    Attributes:
        title: The model in words.
        version: `as predicted` or `recalibrated`; empty where nothing was recalibrated.
        cells: One per metric.
    """

    title: str
    version: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """The metrics on one cohort.

    Attributes:
        cohort: Label of the cohort.
        horizon: The horizon in words.
        metrics: Titles of the columns.
        rows: The models.
        left_out: The metrics that competing events leave no column for, in a sentence; empty where
            there is none.
    """

    cohort: str
    horizon: str
    metrics: tuple[str, ...]
    rows: tuple[CalibrationRow, ...]
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class CalibrationFigure:
    """All that is said of calibration.

    Attributes:
        panels: One per cohort.
        tables: One per cohort.
        model: The model drawn, as in a sentence; empty where there is none.
        recalibrated: True where predictions were recalibrated.
        sentence: What it shows, or why there is nothing.
    """

    panels: tuple[CalibrationPanel, ...]
    tables: tuple[CalibrationTable, ...]
    model: str
    recalibrated: bool
    sentence: str


def calibration_figure(tables: RunTables) -> CalibrationFigure:
    """Return predicted against observed for the fusion that is best on tuning, and the metrics of
    it and its unimodal models.

    Raises:
        ConcordantError: A table of the run is missing or damaged.
    """
    groups = read_table(tables.run.calibration_groups, list(GROUP_SCHEMA))
    metrics = read_table(tables.run.calibration, _COLUMNS)
    known = groups.filter(pl.col("observed").is_not_null())
    shown = list(dict.fromkeys(model_of(row) for row in groups.to_dicts()))
    drawn = next(
        (model for model in shown if model.kind is Kind.FUSION), shown[0] if shown else None
    )
    if known.is_empty() or drawn is None:
        notes = groups["note"].drop_nulls()
        why = (
            f": {notes[0]}"
            if len(notes)
            else ", since the study names no horizon or has no model; give task.horizons_days"
        )
        return CalibrationFigure(
            (),
            (),
            "",
            False,
            f"The run holds no comparison of predicted and observed probability{why}.",
        )
    horizon = main_horizon(known.select("cohort", "horizon_days").unique().rows())
    known, metrics = (table.filter(pl.col("horizon_days") == horizon) for table in (known, metrics))
    panels = [
        _panel(tables, cohort, horizon, _of(known, cohort, drawn)) for cohort in tables.cohorts
    ]
    return CalibrationFigure(
        panels=tuple(panel for panel in panels if panel.marks),
        tables=tuple(
            table
            for cohort in tables.cohorts
            if (table := _table(tables, cohort, horizon, metrics, shown)).rows
        ),
        model=inside_sentence(drawn.title),
        recalibrated=bool(groups["recalibrated"].any()),
        sentence=_sentence(tables, metrics, drawn, horizon),
    )


def _of(table: pl.DataFrame, cohort: str, model: Model) -> pl.DataFrame:
    return table.filter(
        pl.col("cohort") == cohort,
        pl.col("fusion") == model.fusion,
        pl.col("ct_encoder").eq_missing(model.ct_encoder),
        pl.col("ehr_encoder").eq_missing(model.ehr_encoder),
    )


def _panel(tables: RunTables, cohort: str, horizon: float, rows: pl.DataFrame) -> CalibrationPanel:
    limits = [
        _PER * float(value)
        for name in ("predicted", "ci_high")
        for value in (rows[name].max(),)
        if isinstance(value, float)
    ]
    axis = axis_between_ticks([0.0, min(max([*limits, 10.0]), 100.0)])
    return CalibrationPanel(
        cohort,
        tables.internal(cohort),
        days(horizon),
        axis,
        tuple(_mark(row, axis) for row in rows.to_dicts()),
    )


def _mark(row: Mapping[str, Any], axis: Axis) -> GroupMark:
    predicted, observed, low, high = (
        _PER * row[name] for name in ("predicted", "observed", "ci_low", "ci_high")
    )
    what = "recalibrated prediction" if row["recalibrated"] else "prediction"
    text = (
        f"{row['n']} patients: {what} {predicted:.0f}%, observed {observed:.0f}% [{low:.0f}, "
        f"{high:.0f}]"
    )
    from_top = [round(100 - axis.place(one), 3) for one in (observed, low, high)]
    return GroupMark(
        axis.place(predicted), from_top[0], from_top[1], from_top[2], row["recalibrated"], text
    )


def _table(
    tables: RunTables, cohort: str, horizon: float, metrics: pl.DataFrame, models: Sequence[Model]
) -> CalibrationTable:
    several = bool(metrics["recalibrated"].any())
    computed = (
        metrics.filter(pl.col("cohort") == cohort, pl.col("value").is_not_null())["metric"]
        .unique()
        .to_list()
    )
    names = [name for name in CALIBRATION_METRICS if tables.study.cause is None or name in computed]
    missing = listing(
        [inside_sentence(metric_name(name)) for name in CALIBRATION_METRICS if name not in names]
    )
    rows = [
        _row(model, changed, several, own, names)
        for model in models
        for changed in (False, True)
        if not (
            own := _of(metrics, cohort, model).filter(pl.col("recalibrated") == changed)
        ).is_empty()
    ]
    left_out = f"Without {missing}, which have no form for competing events." if missing else ""
    return CalibrationTable(
        cohort, days(horizon), tuple(map(metric_name, names)), tuple(rows), left_out
    )


def _row(
    model: Model, changed: bool, several: bool, own: pl.DataFrame, metrics: Sequence[str]
) -> CalibrationRow:
    by_metric = {row["metric"]: row for row in own.to_dicts()}
    cells = (_cell(by_metric.get(name)) for name in metrics)
    version = ("recalibrated" if changed else "as predicted") if several else ""
    return CalibrationRow(model.title, version, tuple(cells))


def _cell(row: Mapping[str, Any] | None) -> Cell:
    return (
        Cell(number(None))
        if row is None
        else Cell(number(row["value"]), interval(row["ci_low"], row["ci_high"]))
    )


def _sentence(tables: RunTables, metrics: pl.DataFrame, model: Model, horizon: float) -> str:
    """Say whether the fusion promises too much or too little, cohort by cohort."""
    parts = []
    for cohort in tables.cohorts:
        rows = (
            _of(metrics, cohort, model)
            .filter(pl.col("metric") == "calibration_in_the_large")
            .sort("recalibrated")
            .to_dicts()
        )
        known = [row for row in rows if row["value"] is not None and row["ci_low"] is not None]
        if known:
            parts.append(
                f"on {cohort} {_times(known[0])}"
                + (f", recalibrated {_times(known[1])}" if len(known) > 1 else "")
            )
    if not parts:
        return ""
    return (
        f"Events within {days(horizon)}, observed over predicted by {inside_sentence(model.title)} "
        f"(1 is right, above 1 it promises too much survival): {'; '.join(parts)}."
    )


def _times(row: Mapping[str, Any]) -> str:
    return f"{number(row['value'], 2)} {interval(row['ci_low'], row['ci_high'], 2)}"
