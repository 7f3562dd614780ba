"""Decision curves: the net benefit of acting on the singled-out fusion, on one modality, on
everybody, on nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import polars as pl

from concordant.analysis.decision import DECISION_SCHEMA, TREAT_ALL, TREAT_NONE
from concordant.report.axes import Axis, axis_between_ticks
from concordant.report.rows import Kind, RunTables
from concordant.report.squares import Place, band_path, line_path
from concordant.report.tables import model_of, read_table
from concordant.report.wording import days, inside_sentence, interval, number, signed, strategy_name

_PER = 100
_WORTH_DRAWING = 0.01
_LEAST_RANGE = 0.2
_BELOW_ZERO = -0.05
_STYLES = {Kind.CT: "ct", Kind.EHR: "ehr", Kind.FUSION: "fusion"}


@dataclass(frozen=True, slots=True)
class Curve:
    """One line.

    Attributes:
        name: `fusion`, `ct`, `ehr`, `foreign` or `all`: its style.
        title: What it stands for.
        path: SVG path in the square.
        band: SVG path of its 95% band, empty where none is drawn.
    """

    name: str
    title: str
    path: str
    band: str


@dataclass(frozen=True, slots=True)
class DecisionPanel:
    """One cohort at one horizon.

    Attributes:
        cohort: Label of the cohort.
        internal: True for (part of) the development cohort.
        horizon: The horizon in words.
        horizontal: Threshold in percent.
        vertical: Net benefit per 100 patients.
        zero: Percent from the top at which net benefit is 0: acting on nobody.
        curves: The lines, the fusion last so that it lies on top.
        sentence: What the panel shows, in words.
    """

    cohort: str
    internal: bool
    horizon: str
    horizontal: Axis
    vertical: Axis
    zero: float
    curves: tuple[Curve, ...]
    sentence: str


@dataclass(frozen=True, slots=True)
class DecisionFigure:
    """The figure.

    Attributes:
        panels: One per cohort, at the longest horizon that all cohorts support.
        further: The panels at the other horizons.
        reason: Why there is no panel, or empty.
    """

    panels: tuple[DecisionPanel, ...]
    further: tuple[DecisionPanel, ...]
    reason: str


def decision_figure(tables: RunTables) -> DecisionFigure:
    """Return the curves of every cohort and horizon.

    Raises:
        ConcordantError: The run's table of decision curves is missing or damaged.
    """
    table = read_table(tables.run.decision_curves, list(DECISION_SCHEMA))
    known = table.filter(pl.col("net_benefit").is_not_null() & (pl.col("fusion") != TREAT_NONE))
    drawn = (
        known.filter(pl.col("fusion") != TREAT_ALL).select("cohort", "horizon_days").unique().rows()
    )
    if not drawn:
        return DecisionFigure((), (), _reason(table))
    chosen = main_horizon(drawn)
    panels = {
        (cohort, horizon): _panel(
            tables,
            cohort,
            horizon,
            known.filter(pl.col("cohort") == cohort, pl.col("horizon_days") == horizon),
        )
        for horizon in sorted({horizon for _, horizon in drawn})
        for cohort in tables.cohorts
        if (cohort, horizon) in drawn
    }
    return DecisionFigure(
        tuple(panel for (_, horizon), panel in panels.items() if horizon == chosen),
        tuple(panel for (_, horizon), panel in panels.items() if horizon != chosen),
        "",
    )


def main_horizon(drawn: Sequence[tuple[str, float]]) -> float:
    """Return the longest horizon of those that most cohorts support."""
    horizons = [horizon for _, horizon in drawn]
    return max(set(horizons), key=lambda horizon: (horizons.count(horizon), horizon))


def _reason(table: pl.DataFrame) -> str:
    if table.is_empty():
        return "The study names no horizon, or has no model to act on; give task.horizons_days."
    notes = table["note"].drop_nulls()
    return (
        f"No curve could be computed: {notes[0]}." if len(notes) else "No curve could be computed."
    )


def _panel(tables: RunTables, cohort: str, horizon: float, rows: pl.DataFrame) -> DecisionPanel:
    models = rows.filter(pl.col("fusion") != TREAT_ALL)
    worth = models.filter(pl.col("net_benefit") > _WORTH_DRAWING)["threshold"].max()
    # a float column
    horizontal = axis_between_ticks([0.0, _PER * max(float(worth or 0.0), _LEAST_RANGE)])  # type: ignore[arg-type]
    inside = models.filter(pl.col("threshold") <= horizontal.high / _PER)
    highest = [
        float(value)
        for name in ("net_benefit", "ci_high")
        for value in (inside[name].max(),)
        if isinstance(value, float)
    ]
    vertical = axis_between_ticks([_PER * _BELOW_ZERO, _PER * max([*highest, 0.05])])
    curves = [_curve(tables, key, own, horizontal, vertical) for key, own in _by_model(rows)]
    return DecisionPanel(
        cohort,
        tables.internal(cohort),
        days(horizon),
        horizontal,
        vertical,
        _from_top(vertical, 0.0),
        tuple(
            sorted(
                curves,
                key=lambda curve: ("all", "foreign", "ehr", "ct", "fusion").index(curve.name),
            )
        ),
        _sentence(cohort, horizon, rows),
    )


def _by_model(rows: pl.DataFrame) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for key, own in groupby(
        rows.to_dicts(), key=lambda row: (row["fusion"], row["ct_encoder"], row["ehr_encoder"])
    ):
        yield str(key[0]), list(own)


def _curve(
    tables: RunTables, fusion: str, rows: Sequence[dict[str, Any]], horizontal: Axis, vertical: Axis
) -> Curve:
    everybody, model = fusion == TREAT_ALL, model_of(rows[0])
    name = "all" if everybody else _STYLES.get(model.kind, "foreign")
    lines = [
        [_place(row, column, horizontal, vertical) for row in rows]
        for column in ("net_benefit", "ci_low", "ci_high")
    ]
    band = band_path(lines[1], lines[2]) if name == "fusion" else ""
    return Curve(
        name, "Acting on everybody" if everybody else model.title, line_path(lines[0]), band
    )


def _place(row: dict[str, Any], column: str, horizontal: Axis, vertical: Axis) -> Place | None:
    threshold, value = row["threshold"], row[column]
    if (
        not isinstance(threshold, float)
        or not isinstance(value, float)
        or _PER * threshold > horizontal.high
    ):
        return None
    below = column == "net_benefit" and _PER * value < vertical.low  # leaves the picture below
    return (
        None if below else (horizontal.place(_PER * threshold), _from_top(vertical, _PER * value))
    )


def _from_top(axis: Axis, value: float) -> float:
    return round(100.0 - axis.place(value), 3)


def _sentence(cohort: str, horizon: float, rows: pl.DataFrame) -> str:
    """Read the fusion's curve where it matters most.

    At the overall risk, where acting on everybody is worth nothing.
    """
    everybody = rows.filter((pl.col("fusion") == TREAT_ALL) & (pl.col("net_benefit") >= 0))
    if everybody.is_empty():
        return ""
    at = everybody["threshold"].max()
    fused = rows.filter(pl.col("reference").is_not_null() & (pl.col("threshold") == at))
    parts = [_at_threshold(cohort, horizon, row) for row in fused.to_dicts()]
    best = _widest(rows)
    if best is not None:
        parts.append(
            f"By the estimates alone its curve is the highest from {_PER * best[0]:.0f}% to "
            f"{_PER * best[1]:.0f}%."
        )
    return " ".join(parts)


def _at_threshold(cohort: str, horizon: float, row: dict[str, Any]) -> str:
    gain = ""
    if row["difference"] is not None:
        limits = interval(_PER * row["difference_ci_low"], _PER * row["difference_ci_high"], 1)
        gain = (
            f", {signed(_PER * row['difference'], 1)} {limits} beside "
            f"{inside_sentence(strategy_name(row['reference']))}"
        )
    return (
        f"On {cohort}, acting on everyone whose risk of the event within {days(horizon)} is "
        f"{_PER * row['threshold']:.0f}% or more by "
        f"{inside_sentence(strategy_name(row['fusion']))} (about the overall risk) is worth "
        f"{number(_PER * row['net_benefit'], 1)} patients rightly acted on per 100{gain}."
    )


def _widest(rows: pl.DataFrame) -> tuple[float, float] | None:
    """Return the widest range of thresholds at which the fusion's curve is above all others and
    0, by the point estimates.
    """
    best = (
        rows.with_columns(own=pl.col("reference").is_not_null())
        .group_by("threshold")
        .agg(
            pl.col("net_benefit").filter(pl.col("own")).first().alias("own"),
            pl.col("net_benefit").filter(~pl.col("own")).max().alias("rest"),
        )
        .sort("threshold")
        .with_columns(above=pl.col("own") > pl.max_horizontal("rest", pl.lit(0.0)))
    )
    ranges = [
        [threshold for threshold, _ in run]
        for above, run in groupby(
            best.select("threshold", "above").rows(), key=lambda row: bool(row[1])
        )
        if above
    ]
    widest = max(ranges, key=len, default=[])
    return (widest[0], widest[-1]) if len(widest) > 1 else None
