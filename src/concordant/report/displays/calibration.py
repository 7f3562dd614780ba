"""Predicted against observed probabilities in groups, and metrics around recalibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from concordant.analysis.calibration import CALIBRATION_METRICS
from concordant.report.displays.base import HEIGHT, LIGHT, Display, percent_axis, themed
from concordant.report.displays.decision import main_horizon
from concordant.report.figure_section import FigureSection
from concordant.report.run_tables import Kind, Model, Row, RunTables, model_of
from concordant.report.table import Column, Line, Table, estimate_cell, line, texts
from concordant.report.wording import days, inside_sentence, interval, listing, metric_name, number

if TYPE_CHECKING:
    import altair as alt

_LEAST_RANGE = 0.1
_AS_PREDICTED, _RECALIBRATED = "as predicted", "recalibrated"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationDisplay(Display):
    """One model on one cohort; `frame` has rows of `GROUP_SCHEMA` that hold an observation."""

    @property
    def highest(self) -> float:
        """Where both axes end."""
        limits = self.frame.select(pl.max_horizontal("predicted", "ci_high").max()).item()
        return float(min(max(limits, _LEAST_RANGE), 1.0))

    def draw(self) -> alt.TopLevelMixin:
        """Return the groups, their intervals, and the line on which both are equal."""
        import altair as alt

        scale = alt.Scale(domain=[0, self.highest], nice=5)
        across = alt.X(
            "predicted:Q", title="Predicted probability", scale=scale, axis=percent_axis()
        )
        versions = [_AS_PREDICTED, _RECALIBRATED][: self.frame["recalibrated"].n_unique()]
        colours, fills = (LIGHT["accent"], LIGHT["ink"]), (LIGHT["accent"], LIGHT["ground"])
        looks: dict[str, Any] = {"title": None}
        if len(versions) == 1:
            looks["legend"] = None

        def scale_of(range_: Sequence[str]) -> alt.Scale:
            return alt.Scale(domain=versions, range=list(range_[: len(versions)]))

        base = alt.Chart(self._drawn()).encode(
            x=across, color=alt.Color("version:N", scale=scale_of(colours), **looks)
        )
        whiskers = base.mark_rule(strokeWidth=2).encode(
            y=alt.Y("ci_low:Q", title="Observed probability", scale=scale, axis=percent_axis()),
            y2="ci_high:Q",
        )
        marks = base.mark_point(size=90, strokeWidth=1.75, opacity=1).encode(
            y=alt.Y("observed:Q"), fill=alt.Fill("version:N", scale=scale_of(fills), **looks)
        )
        ends = pl.DataFrame({"predicted": [0.0, self.highest]})
        diagonal = alt.Chart(ends).mark_line(
            strokeDash=[4, 3], color=LIGHT["alone"], strokeWidth=1.25
        )
        line = diagonal.encode(x=across, y=alt.Y("predicted:Q"))
        layers = alt.layer(line, whiskers, marks)
        return themed(layers.properties(width=HEIGHT + 80, height=HEIGHT + 80))

    def _drawn(self) -> pl.DataFrame:
        version = (
            pl.when("recalibrated").then(pl.lit(_RECALIBRATED)).otherwise(pl.lit(_AS_PREDICTED))
        )
        return self.frame.select("predicted", "observed", "ci_low", "ci_high", version=version)


def calibration_section(tables: RunTables) -> FigureSection:
    """Return predicted against observed for the fusion that tuning chose, and its metrics."""
    groups = tables.calibration_groups
    known = groups.filter(pl.col("observed").is_not_null())
    shown = list(dict.fromkeys(model_of(row) for row in groups.to_dicts()))
    drawn = next((one for one in shown if one.kind is Kind.FUSION), shown[0] if shown else None)
    if known.is_empty() or drawn is None:
        return FigureSection(sentence=_reason(groups))
    horizon = main_horizon(known.select("cohort", "horizon_days").unique().rows())
    known = drawn.rows(known.filter(pl.col("horizon_days") == horizon))
    metrics = tables.calibration.filter(pl.col("horizon_days") == horizon)
    subject = inside_sentence(drawn.title)
    return FigureSection(
        displays=tuple(
            _display(tables, rows, subject)
            for cohort in tables.cohorts
            if not (rows := known.filter(pl.col("cohort") == cohort)).is_empty()
        ),
        tables=tuple(
            table
            for cohort in tables.cohorts
            if (table := _table(tables, metrics.filter(pl.col("cohort") == cohort), shown)).rows
        ),
        sentence=_sentence(tables, drawn.rows(metrics), subject, horizon),
        subject=subject,
        recalibrated=bool(groups["recalibrated"].any()),
    )


def _reason(groups: pl.DataFrame) -> str:
    notes = groups["note"].drop_nulls()
    why = (
        f": {notes[0]}"
        if len(notes)
        else ", since the study names no horizon or has no model; give task.horizons_days"
    )
    return f"The run holds no comparison of predicted and observed probability{why}."


def _display(tables: RunTables, rows: pl.DataFrame, subject: str) -> CalibrationDisplay:
    first = rows.row(0, named=True)
    cohort = first["cohort"]
    return CalibrationDisplay(
        frame=rows,
        name=f"calibration-{cohort}",
        title=f"Predicted and observed probability, {cohort}",
        description=f"{'; '.join(_in_words(row) for row in rows.to_dicts())}.",
        cohort=cohort,
        tag=tables.tag(cohort),
        caption=f"event within {days(first['horizon_days'])}, {subject}",
    )


def _in_words(row: Row) -> str:
    predicted, observed, low, high = (
        100 * row[name] for name in ("predicted", "observed", "ci_low", "ci_high")
    )
    what = "recalibrated prediction" if row["recalibrated"] else "prediction"
    return (
        f"{row['n']} patients: {what} {predicted:.0f}%, observed {observed:.0f}% [{low:.0f}, "
        f"{high:.0f}]"
    )


def _table(tables: RunTables, metrics: pl.DataFrame, models: Sequence[Model]) -> Table:
    several = bool(tables.calibration["recalibrated"].any())
    computed = metrics.filter(pl.col("value").is_not_null())["metric"].unique().to_list()
    names = [
        name for name in CALIBRATION_METRICS if tables.record.cause is None or name in computed
    ]
    rows = tuple(
        _line(model, own, names, changed if several else None)
        for model in models
        for changed in (False, True)
        if not (own := model.rows(metrics).filter(pl.col("recalibrated") == changed)).is_empty()
    )
    first = texts("Strategy", "Probabilities") if several else texts("Strategy")
    cohort, horizon = metrics.select("cohort", "horizon_days").rows()[0] if rows else ("", None)
    return Table(
        f"Calibration on {cohort}",
        (*first, *(Column(metric_name(name)) for name in names)),
        rows,
        cohort,
        caption=f"event within {days(horizon)}",
        note=_missing(names),
    )


def _line(
    model: Model, own: pl.DataFrame, metrics: Sequence[str], recalibrated: bool | None
) -> Line:
    by_metric = {row["metric"]: row for row in own.to_dicts()}
    cells = [estimate_cell(by_metric.get(name)) for name in metrics]
    version = [] if recalibrated is None else [_RECALIBRATED if recalibrated else _AS_PREDICTED]
    return line(model.title, *version, *cells)


def _missing(names: Sequence[str]) -> str:
    """Name the metrics that competing events leave no column for."""
    words = [
        inside_sentence(metric_name(name)) for name in CALIBRATION_METRICS if name not in names
    ]
    return f"Without {listing(words)}, which have no form for competing events." if words else ""


def _sentence(tables: RunTables, metrics: pl.DataFrame, subject: str, horizon: float) -> str:
    """Say whether the model promises too much or too little, cohort by cohort."""
    ratios = metrics.filter(
        pl.col("metric") == "calibration_in_the_large",
        pl.col("value").is_not_null(),
        pl.col("ci_low").is_not_null(),
    ).sort("recalibrated")
    parts = []
    for cohort in tables.cohorts:
        known = ratios.filter(pl.col("cohort") == cohort).to_dicts()
        if known:
            changed = f", recalibrated {_times(known[1])}" if len(known) > 1 else ""
            parts.append(f"on {cohort} {_times(known[0])}{changed}")
    if not parts:
        return ""
    return (
        f"Events within {days(horizon)}, observed over predicted by {subject} (1 is right, above 1 "
        f"it promises too much survival): {'; '.join(parts)}."
    )


def _times(row: Row) -> str:
    return f"{number(row['value'], 2)} {interval(row['ci_low'], row['ci_high'], 2)}"
